"""Verification of sealed hours: every kind of tampering is named, with its file, its place, and the record it touched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig_seal import ELEVEN, LATER, TEN, TWELVE, filled, forged, forget, members, rewritten, seal_all, spans, tell
from samples import HOUR, Shelf, whole

from archive import member
from archive.folder import seal_path
from archive.member import HEADER_LENGTH
from archive.proof.keys import make_key
from archive.proof.manifest import SealedWriter
from archive.proof.report import Damaged, Report
from archive.proof.seal import read_seal, seal_hour
from archive.proof.verify import verify
from archive.record import id_text


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return filled(tmp_path / "archive")


@pytest.fixture
def ten(shelf: Shelf) -> Path:
    return shelf.folder / f"{TEN}.jsonl.gz"


def only(report: Report) -> Damaged:
    """The one thing that was found."""
    assert report.verdict == "damaged"
    (damaged,) = report.damaged
    assert report.damages == 1
    return damaged


def test_sealed_hours_that_are_as_they_were_are_complete(shelf: Shelf) -> None:
    report = verify([shelf.folder])
    assert report.sentence == "complete: 3 hours, 8 records, all sealed and chained, nothing missing"
    assert (report.complete, report.accounted, report.verdict) == (True, True, "complete")
    assert [(hour.file.name[:13], hour.sealed, hour.as_sealed, hour.records) for hour in report.hours] == [
        (TEN, True, True, 5),
        (ELEVEN, True, True, 1),
        (TWELVE, True, True, 2),
    ]
    seal = read_seal(shelf.folder, TEN)
    assert seal is not None
    assert (report.hours[0].root, report.hours[0].sealed_at, report.hours[0].key) == (seal.root, seal.sealed_at, None)
    assert (report.hours[0].since, report.hours[0].until) == ("2026-11-19T10:00:00.000000Z", "2026-11-19T10:00:04.000000Z")


def test_hours_that_are_not_sealed_are_said_to_be_checked_less(shelf: Shelf) -> None:
    seal_path(shelf.folder, TWELVE).unlink()
    report = verify([shelf.folder])
    assert report.complete
    assert [hour.as_sealed for hour in report.hours] == [True, True, None]
    assert "2 sealed and chained, 1 not (checksums and numbers are all that can be checked)" in report.sentence


# What is done to one hour. Each changes the file and says (offset, length, first record, last record) of what must be named.

Span = tuple[int, int, int | None, int | None]


def flipped(at: int, bit: int = 1) -> Callable[[Path], Span]:
    """One bit of record 2: `at` from its beginning, or from its end."""

    def tamper(path: Path) -> Span:
        begin, end = spans(path)[2]
        data = bytearray(path.read_bytes())
        data[at + (begin if at >= 0 else end)] ^= bit
        path.write_bytes(data)
        return begin, end - begin, 2, 2

    return tamper


def repacked(path: Path) -> Span:
    """Record 2 says the same, packed otherwise."""
    parts = members(path)
    tag = member.read_tag(parts[2])
    assert tag is not None
    begin = spans(path)[2][0]
    line = member.unpack(parts[2], limit=1 << 20)
    patched = pytest.MonkeyPatch()
    with patched.context() as patch:
        patch.setattr(member, "_LEVEL", 3)
        parts[2] = member.pack(line, id=tag.id, part=tag.part, seq=tag.seq)
    path.write_bytes(b"".join(parts))
    return begin, len(parts[2]), 2, 2


def removed(path: Path) -> Span:
    parts = members(path)
    begin = spans(path)[2][0]
    path.write_bytes(b"".join(parts[:2] + parts[3:]))
    return begin, 0, 2, 2


def several_removed(path: Path) -> Span:
    parts = members(path)
    begin = spans(path)[1][0]
    path.write_bytes(b"".join(parts[:1] + parts[4:]))
    return begin, 0, 1, 3


def last_removed(path: Path) -> Span:
    parts = members(path)
    begin = spans(path)[4][0]
    path.write_bytes(b"".join(parts[:4]))
    return begin, 0, 4, 4


def one_added(path: Path) -> Span:
    parts = members(path)
    begin = spans(path)[2][0]
    record = whole(HOUR + 2.5)
    another = Shelf(path.parent, seq=900).pack(record)
    path.write_bytes(b"".join([*parts[:2], another, *parts[2:]]))
    return begin, len(another), None, None


def one_appended(path: Path) -> Span:
    size = path.stat().st_size
    another = Shelf(path.parent, seq=900).pack(whole(HOUR + 5))
    path.write_bytes(path.read_bytes() + another)
    return size, len(another), None, None


def bytes_appended(path: Path) -> Span:
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"a few bytes")
    return size, 11, None, None


def bytes_put_between(path: Path) -> Span:
    begin = spans(path)[2][0]
    data = path.read_bytes()
    path.write_bytes(data[:begin] + b"a few bytes" + data[begin:])
    return begin, 11, None, None


def one_byte_taken_out(path: Path) -> Span:
    begin, end = spans(path)[2]
    data = path.read_bytes()
    path.write_bytes(data[: begin + 90] + data[begin + 91 :])
    return begin, end - begin - 1, 2, 2


def one_byte_put_in(path: Path) -> Span:
    begin, end = spans(path)[2]
    data = path.read_bytes()
    path.write_bytes(data[: begin + 90] + b"x" + data[begin + 90 :])
    return begin, end - begin + 1, 2, 2


def cut_short(path: Path) -> Span:
    begin, end = spans(path)[4]
    path.write_bytes(path.read_bytes()[: end - 1])
    return begin, end - begin - 1, 4, 4


def cut_to_nothing(path: Path) -> Span:
    path.write_bytes(b"")
    return 0, 0, 0, 4


def two_swapped(path: Path) -> Span:
    parts = members(path)
    parts[2], parts[3] = parts[3], parts[2]
    path.write_bytes(b"".join(parts))
    return spans(path)[2][0], len(parts[2]), 3, 3  # either of the two is out of its place


def one_doubled(path: Path) -> Span:
    parts = members(path)
    path.write_bytes(b"".join([*parts, parts[2]]))
    return sum(map(len, parts)), len(parts[2]), 2, 2


def another_hour(path: Path) -> Span:
    other = path.with_name(f"{ELEVEN}.jsonl.gz").read_bytes()
    path.write_bytes(other)
    return 0, len(other), 0, 4


TAMPERINGS = {
    "gzip's fixed header": flipped(4),
    "the tag": flipped(30),
    "the data": flipped(HEADER_LENGTH + 20),
    "the checksum": flipped(-8),
    "the length": flipped(-1, 0x80),
    "the line": rewritten,
    "the packing": repacked,
    "a record taken out": removed,
    "several taken out": several_removed,
    "the last taken out": last_removed,
    "a record put in": one_added,
    "a record appended": one_appended,
    "bytes appended": bytes_appended,
    "bytes between": bytes_put_between,
    "a byte taken out": one_byte_taken_out,
    "a byte put in": one_byte_put_in,
    "cut short": cut_short,
    "emptied": cut_to_nothing,
    "the order": two_swapped,
    "a record twice": one_doubled,
    "another hour's records": another_hour,
}


@pytest.mark.parametrize("tamper", TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_whatever_is_changed_in_a_sealed_hour_is_named(shelf: Shelf, ten: Path, tamper: Callable[[Path], Span]) -> None:
    ids = [member.read_tag(each).id for each in members(ten)]  # type: ignore[union-attr]
    told = tamper(ten)
    found = only(verify([shelf.folder]))
    assert found.file == ten
    assert (found.offset, found.length, found.first_record, found.last_record) == told
    assert found.why
    assert not found.known
    if found.id is not None and found.first_record is not None and tamper is not another_hour:
        assert found.id == id_text(ids[found.first_record])
    assert not verify([ten]).complete


def test_a_padding_bit_that_leaves_the_line_the_same_is_named(shelf: Shelf, ten: Path) -> None:
    """The last byte of deflated data ends in bits that no inflater looks at (RFC 1951 section 3.2.3)."""
    before = ten.read_bytes()
    sound = [member.unpack(each, limit=1 << 20) for each in members(ten)]
    named = 0
    for number, (begin, end) in enumerate(spans(ten)):
        data = bytearray(before)
        data[end - 9] ^= 0x80
        ten.write_bytes(data)
        found = only(verify([shelf.folder]))
        assert (found.offset, found.length, found.first_record) == (begin, end - begin, number)
        try:
            same = [member.unpack(each, limit=1 << 20) for each in members(ten)] == sound
        except Exception:
            continue
        if same:
            named += 1
            assert "inflate to the same line" in found.why
            assert verify([shelf.folder]).missing == []
    assert named  # ISA-L ends its stream on a byte's boundary now and then, not always
    ten.write_bytes(before)
    assert verify([shelf.folder]).complete


def test_several_changes_are_named_each(shelf: Shelf, ten: Path) -> None:
    parts = members(ten)
    changed = bytearray(parts[1])
    changed[HEADER_LENGTH + 5] ^= 4
    extra = Shelf(ten.parent, seq=900).pack(whole(HOUR + 5))
    ten.write_bytes(b"".join([parts[0], bytes(changed), parts[2], extra, parts[4]]))
    report = verify([shelf.folder])
    assert [(each.first_record, each.last_record, each.length) for each in report.damaged] == [(1, 1, len(changed)), (3, 3, len(extra))]
    assert report.sentence.startswith(f"damaged: 2 places, the first in {ten} at byte {len(parts[0])}, {len(changed)} bytes: ")


@given(st.data())
def test_any_byte_of_a_sealed_archive_that_is_changed_is_named_in_its_place(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = pristine(tmp_path_factory)
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    before = path.read_bytes()
    at = data.draw(st.integers(0, len(before) - 1))
    changed = bytearray(before)
    changed[at] ^= data.draw(st.integers(1, 255))
    where = [(number, span) for number, span in enumerate(spans(path)) if span[0] <= at < span[1]] if path.suffix == ".gz" else []
    try:
        path.write_bytes(changed)
        report = verify([folder])
    finally:
        path.write_bytes(before)
    assert report.verdict == "damaged"
    named = [each for each in report.damaged if each.file == path]
    assert named
    if where:
        ((number, (begin, end)),) = where
        (found,) = named
        assert (found.offset, found.first_record, found.last_record) == (begin, number, number)
        assert found.offset <= at < found.offset + found.length <= end
    else:
        assert all(each.offset <= at < each.offset + each.length for each in named)


_PRISTINE: list[Path] = []


def pristine(factory: pytest.TempPathFactory) -> Path:
    """One small sealed and signed archive for all examples."""
    if not _PRISTINE:
        shelf = Shelf(factory.mktemp("pristine") / "archive")
        shelf.open()
        for at in (1, 2, 3601):
            shelf.put(whole(HOUR + at))
        shelf.close(HOUR + 3602)
        seal_all(shelf.folder, key=make_key(shelf.folder.parent / "key"))
        _PRISTINE.append(shelf.folder)
    return _PRISTINE[0]


# Seals among themselves.


def test_a_sealed_hour_that_is_taken_away_is_named(shelf: Shelf) -> None:
    (shelf.folder / f"{ELEVEN}.jsonl.gz").unlink()
    report = verify([shelf.folder])
    assert report.verdict == "incomplete"
    assert [(each.segment, each.records) for each in report.gone] == [(ELEVEN, 1)]
    assert [(each.first, each.last, each.why) for each in report.missing] == [(5, 5, f"the sealed hour {ELEVEN} is gone")]
    assert (report.missing[0].since, report.missing[0].until) == ("2026-11-19T10:00:04.000000Z", "2026-11-19T12:00:01.000000Z")


@pytest.mark.parametrize("hour", [TEN, ELEVEN])
def test_an_hour_taken_away_with_its_seal_is_named_by_the_seal_after_it(shelf: Shelf, hour: str) -> None:
    (shelf.folder / f"{hour}.jsonl.gz").unlink()
    seal_path(shelf.folder, hour).unlink()
    report = verify([shelf.folder])
    assert [(each.segment, each.records) for each in report.gone] == [(hour, None)]
    assert report.missing
    assert report.sentence.startswith("incomplete: 1 sealed hour is gone, ")


def test_the_newest_hours_taken_away_are_named_to_who_kept_the_head(shelf: Shelf) -> None:
    head = verify([shelf.folder]).head
    assert head is not None
    assert verify([shelf.folder], head=head).complete
    (shelf.folder / f"{TWELVE}.jsonl.gz").unlink()
    seal_path(shelf.folder, TWELVE).unlink()
    assert verify([shelf.folder]).complete  # nothing in these files can tell
    report = verify([shelf.folder], head=head)
    assert report.verdict == "incomplete"
    assert head in report.gone[0].why


def test_an_hour_robbed_of_its_seal_is_named(shelf: Shelf) -> None:
    seal_path(shelf.folder, ELEVEN).unlink()
    found = only(verify([shelf.folder]))
    assert (found.file.name, found.offset, found.length) == (f"{ELEVEN}.jsonl.gz", 0, found.file.stat().st_size)
    assert "its seal was taken away" in found.why


def test_an_hour_put_in_later_is_named(shelf: Shelf) -> None:
    other = Shelf(shelf.folder, writer=bytes(16))
    other.open(HOUR - 3600)
    path = shelf.folder / "2026-11-19T09.jsonl.gz"
    found = only(verify([shelf.folder]))
    assert found.file == path
    assert "put here later" in found.why


def test_a_seal_that_is_no_link_of_the_chain_is_named(shelf: Shelf, tmp_path: Path) -> None:
    other = Shelf(tmp_path / "other", writer=bytes(16))
    other.open(HOUR - 3600)
    seal_all(other.folder)
    for path in other.folder.iterdir():
        shutil.copy(path, shelf.folder)
    found = only(verify([shelf.folder]))
    assert found.file == seal_path(shelf.folder, "2026-11-19T09")
    assert "not in the chain" in found.why


@pytest.mark.parametrize("key", [False, True])
def test_an_hour_that_was_changed_and_sealed_again_breaks_the_chain(shelf: Shelf, ten: Path, tmp_path: Path, key: bool) -> None:
    rewritten(ten)
    aside = [(path, path.read_bytes()) for path in shelf.folder.iterdir() if path != ten]
    for path, _ in aside:
        path.unlink()
    seal_hour(shelf.folder, TEN, now=LATER, version="1", key=make_key(tmp_path / "key") if key else None)
    for path, data in aside:
        if path != seal_path(shelf.folder, TEN):
            path.write_bytes(data)
    found = only(verify([shelf.folder]))
    assert found.file == seal_path(shelf.folder, TEN)
    assert found.why == f"it was changed or replaced after {ELEVEN} was sealed, whose seal names another"


def test_the_whole_chain_made_anew_is_named_to_who_has_the_key(shelf: Shelf, ten: Path, tmp_path: Path) -> None:
    rewritten(ten)
    for hour in (TEN, ELEVEN, TWELVE):
        seal_path(shelf.folder, hour).unlink()
    seal_all(shelf.folder)
    assert verify([shelf.folder]).complete  # unsigned, nothing in these files can tell
    report = verify([shelf.folder], key=make_key(tmp_path / "key").public)
    assert (report.verdict, report.damages) == ("unproven", 0)
    assert [each.segment for each in report.unproven] == [TEN, ELEVEN, TWELVE]
    assert all("not signed" in each.why for each in report.unproven)


@pytest.mark.parametrize("how", ["a byte", "a space", "cut short", "emptied", "a newer form"])
def test_a_seal_that_was_edited_is_named(shelf: Shelf, how: str) -> None:
    path = seal_path(shelf.folder, TWELVE)
    data = path.read_bytes()
    path.write_bytes(
        {
            "a byte": data.replace(b'"verbatim":"1"', b'"verbatim":"2"'),
            "a space": data.replace(b",", b", "),
            "cut short": data[:-1],
            "emptied": b"",
            "a newer form": data.replace(b'"v":1', b'"v":2'),
        }[how]
    )
    found = only(verify([shelf.folder]))
    assert (found.file, found.offset, found.length) == (path, 0, path.stat().st_size)
    assert not verify([shelf.folder / f"{TWELVE}.jsonl.gz"]).complete


@pytest.mark.parametrize("changes", [{"root": "00" * 32}, {"sha256": "00" * 32}, {"writers": (SealedWriter("w", 0, 1, 2, True, True),)}])
def test_a_seal_that_does_not_fit_its_hour_is_named(shelf: Shelf, changes: dict[str, object]) -> None:
    forged(shelf.folder, TWELVE, **changes)
    report = verify([shelf.folder])
    assert seal_path(shelf.folder, TWELVE) in [each.file for each in report.damaged]


def test_damage_that_was_there_when_the_hour_was_sealed_is_told_as_known(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "archive")
    shelf.open()
    path = shelf.raw(b"garbage")
    shelf.put(whole(HOUR + 1))
    shelf.close(HOUR + 2)
    seal_all(shelf.folder)
    report = verify([shelf.folder])
    found = only(report)
    assert (found.known, found.length, report.hours[0].as_sealed) == (True, 7, True)
    assert "known when it was sealed" in report.sentence
    path.write_bytes(path.read_bytes().replace(b"garbage", b"garbagf"))
    report = verify([shelf.folder])
    assert report.hours[0].as_sealed is False
    assert "were changed since" in report.damaged[-1].why


# Signatures.


def signed(tmp_path: Path) -> tuple[Shelf, str]:
    shelf = filled(tmp_path / "signed")
    for hour in (TEN, ELEVEN, TWELVE):
        seal_path(shelf.folder, hour).unlink()
    key = make_key(tmp_path / "key")
    seal_all(shelf.folder, key=key)
    return shelf, key.public


def test_seals_signed_by_the_key_asked_for_are_complete(tmp_path: Path) -> None:
    shelf, key = signed(tmp_path)
    report = verify([shelf.folder], key=key)
    assert report.complete
    assert {hour.key for hour in report.hours} == {key}
    other = verify([shelf.folder], key=make_key(tmp_path / "other").public)
    assert other.sentence.startswith(f"unproven: 3 hours are signed by {key}, not by your key ({TEN}, {ELEVEN}, {TWELVE}); 3 hours, ")
    assert (other.damages, other.complete, other.worth_keeping) == (0, False, False)


def test_a_signature_vouches_for_the_seals_before_it(tmp_path: Path) -> None:
    shelf = filled(tmp_path / "archive")
    key = make_key(tmp_path / "key")
    seal_path(shelf.folder, TWELVE).unlink()
    seal_hour(shelf.folder, TWELVE, key=key, now=LATER, version="1")
    assert verify([shelf.folder], key=key.public).complete
    seal_path(shelf.folder, TWELVE).unlink()
    seal_path(shelf.folder, ELEVEN).unlink()
    seal_hour(shelf.folder, ELEVEN, key=key, now=LATER, version="1")
    seal_hour(shelf.folder, TWELVE, now=LATER, version="1")
    report = verify([shelf.folder], key=key.public)
    assert (report.verdict, [each.segment for each in report.unproven]) == ("unproven", [TWELVE])


@pytest.mark.parametrize("how", ["another statement", "another signature", "another key", "taken off"])
def test_a_signature_that_does_not_hold_is_named(tmp_path: Path, how: str) -> None:
    shelf, key = signed(tmp_path)
    forged(
        shelf.folder,
        TWELVE,
        **{
            "another statement": {"sealed_at": "2026-11-19T19:00:01.000000Z"},
            "another signature": {"signature": "A" * 86 + "=="},
            "another key": {"key": make_key(tmp_path / "other").public},
            "taken off": {"signature": None},
        }[how],
    )
    found = only(verify([shelf.folder]))
    assert (found.file, found.why) == (seal_path(shelf.folder, TWELVE), "its signature is not that of the key it names")
    assert not verify([shelf.folder], key=key).complete


# What was removed and told of.


def test_a_sealed_hour_is_proved_without_its_forgotten_records(shelf: Shelf, ten: Path) -> None:
    forget(shelf, TEN, [1, 3])
    report = verify([shelf.folder])
    assert report.complete, report.sentence
    assert report.hours[0].as_sealed
    (removal,) = report.removals
    assert (removal.kind, removal.records, removal.segments, removal.pending, removal.by, removal.why) == (
        "forget",
        2,
        1,
        0,
        "me@here",
        "asked for",
    )
    begin, end = spans(ten)[1]
    data = bytearray(ten.read_bytes())
    data[begin + HEADER_LENGTH + 20] ^= 1
    ten.write_bytes(data)
    found = only(verify([shelf.folder]))
    assert (found.offset, found.length, found.first_record, found.last_record) == (begin, end - begin, 2, 2)


def test_what_is_taken_out_beyond_what_was_told_of_is_named(shelf: Shelf, ten: Path) -> None:
    forget(shelf, TEN, [1])
    parts = members(ten)
    ten.write_bytes(b"".join(parts[:2] + parts[3:]))
    found = only(verify([shelf.folder]))
    assert (found.length, found.first_record, found.last_record) == (0, 3, 3)


def test_a_forget_line_makes_no_room_for_another_record(shelf: Shelf, ten: Path) -> None:
    parts = members(ten)
    forget(shelf, ELEVEN, [0], carried_out=False)
    path = shelf.folder / "2026-11-19T13.jsonl.gz"
    lines = [member.unpack(each, limit=1 << 20).replace(ELEVEN.encode(), TEN.encode()) for each in members(path)]
    tags = [member.read_tag(each) for each in members(path)]
    path.write_bytes(b"".join(member.pack(a, id=b.id, part=b.part, seq=b.seq) for a, b in zip(lines, tags, strict=True) if b is not None))
    ten.write_bytes(b"".join(parts[1:]))
    assert "taken out after the hour was sealed" in only(verify([shelf.folder])).why


def test_what_was_to_be_forgotten_and_is_still_there_is_no_damage(shelf: Shelf) -> None:
    forget(shelf, TEN, [1, 3], carried_out=False)
    report = verify([shelf.folder])
    assert report.complete
    assert report.hours[0].as_sealed
    assert report.removals[0].pending == 2


def test_an_hour_without_a_seal_is_complete_without_its_forgotten_records(shelf: Shelf) -> None:
    seal_path(shelf.folder, TWELVE).unlink()
    forget(shelf, TWELVE, [0])
    report = verify([shelf.folder])
    assert report.complete
    assert report.removals[0].pending == 0


@pytest.mark.parametrize("pending", [False, True])
def test_a_pruned_hour_is_not_missing_and_the_chain_goes_on_behind_it(shelf: Shelf, pending: bool) -> None:
    seal = read_seal(shelf.folder, TEN)
    head = verify([shelf.folder]).hours
    assert seal is not None
    what = {
        "segment": TEN,
        "records": seal.records,
        "bytes": seal.bytes,
        "root": seal.root,
        "seal": read_previous(shelf.folder),
        "writers": [{"writer": id_text(shelf.writer), "first": 0, "last": 4, "records": 5}],
    }
    tell(shelf, HOUR + 3 * 3600, "prune", [what])
    if not pending:
        (shelf.folder / f"{TEN}.jsonl.gz").unlink()
    seal_path(shelf.folder, TEN).unlink()
    report = verify([shelf.folder])
    assert report.complete, report.damaged
    assert (report.removals[0].kind, report.removals[0].records, report.removals[0].pending) == ("prune", 5, int(pending))
    assert len(report.hours) == len(head) + pending
    assert verify([shelf.folder], head=read_previous(shelf.folder)).complete  # a head from before still counts


def read_previous(folder: Path) -> str:
    eleven = read_seal(folder, ELEVEN)
    assert eleven is not None
    assert eleven.previous is not None
    return eleven.previous.sha256


def test_a_prune_line_explains_no_other_hour(shelf: Shelf) -> None:
    (shelf.folder / f"{TEN}.jsonl.gz").unlink()
    seal_path(shelf.folder, TEN).unlink()
    what = {"segment": TEN, "records": 5, "bytes": 1, "root": None, "seal": "00" * 32, "writers": []}
    tell(shelf, HOUR + 3 * 3600, "prune", [what])
    assert [each.segment for each in verify([shelf.folder]).gone] == [TEN]


# Single files, several processes.


def test_a_sealed_hour_given_alone_is_held_against_its_seal(shelf: Shelf, ten: Path) -> None:
    eleven = shelf.folder / f"{ELEVEN}.jsonl.gz"
    report = verify([eleven])
    assert report.complete, report.missing
    assert report.sentence.startswith("complete: 1 hour, 1 record, all sealed, nothing missing")
    seal_path(shelf.folder, ELEVEN).unlink()
    assert [(each.first, each.last) for each in verify([eleven]).missing] == [(0, 4)]
    rewritten(ten)
    assert only(verify([ten])).first_record == 2


def test_several_processes_find_what_one_finds(shelf: Shelf, ten: Path) -> None:
    assert verify([shelf.folder], jobs=2) == verify([shelf.folder])
    rewritten(ten)
    assert verify([shelf.folder], jobs=2) == verify([shelf.folder])


def test_strangers_are_listed_and_left_alone(shelf: Shelf) -> None:
    (shelf.folder / "notes.txt").write_text("hello")
    report = verify([shelf.folder])
    assert report.complete
    assert report.strangers == [str(shelf.folder / "notes.txt")]


def test_looking_writes_nothing(shelf: Shelf, ten: Path) -> None:
    flipped(30)(ten)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in shelf.folder.iterdir()}
    assert verify([shelf.folder]).damaged
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in shelf.folder.iterdir()} == before
