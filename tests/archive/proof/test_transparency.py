"""What records say of both sides is summed up; a record that contradicts itself is not believed; old lines, damage and both forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rig_packed import HOUR, pack, seal_hour
from samples import HOUR as AT
from samples import Shelf, in_parts, whole

from archive.errors import NotFound
from archive.proof.transparency import MOST, Comparison, compare
from archive.record import Body, Crossed, Record, Response, Transparency, id_text, names_digest

THERE = [b"host", b"user-agent", b"x-dup", b"x-dup"]
BACK = [b"content-type"]


def told(record: Record, **request: Any) -> Record:
    """The record as a gateway makes it that forwarded all; of the request something else where it is given."""
    digest, there, back = names_digest(THERE), 7, 4
    usual: dict[str, Any] = {"names": (digest, digest), "differ": (), "size": (there, there), "same": True, "differences": []}
    answer = Crossed((names_digest(BACK), names_digest([*BACK, b"x-verbatim-id"])), ("+x-verbatim-id",), (back, back), True, [])
    record.transparency = Transparency(Crossed(**{**usual, **request}), answer)
    return record


def put(folder: Path, *records: Record) -> Shelf:
    shelf = Shelf(folder)
    shelf.open(AT)
    for record in records:
        shelf.put(record, at=AT + 1)
    shelf.close(AT + 2)
    return shelf


def words(found: Comparison) -> list[tuple[str, list[str]]]:
    return [(each.id, each.what) for each in found.differing]


def test_exchanges_forwarded_unchanged_are_counted(tmp_path: Path) -> None:
    put(tmp_path, told(whole()), told(whole(AT + 2)))
    found = compare([tmp_path])
    assert (found.unchanged, found.compared, found.differ, found.body_bytes) == (True, 2, 0, 22)
    assert found.sentence == "2 exchanges compared, 22 bytes of bodies: all forwarded unchanged, both ways."


def test_an_exchange_that_differs_is_named(tmp_path: Path) -> None:
    spoilt = told(whole(AT + 2), size=(7, 6), same=False, differences=["request body: 6 bytes were forwarded of 7 received"])
    put(tmp_path, told(whole()), spoilt)
    found = compare([tmp_path])
    assert (found.unchanged, found.compared, found.differ) == (False, 2, 1)
    assert words(found) == [(id_text(spoilt.id), ["request body: 6 bytes were forwarded of 7 received"])]
    assert found.sentence == "1 exchange of 2 was not forwarded unchanged."


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ({"differ": ("-x-dup",)}, "request headers: header x-dup was lost"),
        ({"differ": ("+via",)}, "request headers: header via was added"),
        ({"differ": ("-te",)}, "request headers: the digest of the names forwarded is not that of the names told"),
        ({"names": ("0" * 16, "0" * 16)}, "request headers: the digest of the names received is not that of those recorded"),
        ({"size": (7, 6)}, "request body: 6 bytes were forwarded and 7 received, with one hash for both"),
        ({"size": (7, 8), "same": False}, "request body: 8 bytes were forwarded and 7 received"),
        ({"size": (7, 6), "same": False}, "request body: 6 bytes were forwarded and 7 received"),
    ],
)
def test_a_record_that_contradicts_itself_is_not_believed(tmp_path: Path, claim: dict[str, Any], said: str) -> None:
    """No difference is admitted, and what the record holds beside says otherwise."""
    put(tmp_path, told(whole(), **claim))
    ((_, what),) = words(compare([tmp_path]))
    assert what[0] == said


def test_an_aborted_answer_may_be_a_beginning(tmp_path: Path) -> None:
    record = told(whole(), size=(7, 3), same=False)
    record.request_body = Body([b"1234567"])
    put(tmp_path, record)
    assert compare([tmp_path]).unchanged


def test_exchanges_recorded_before_the_proof_was_kept_are_not_told_of(tmp_path: Path) -> None:
    put(tmp_path, whole(), told(whole(AT + 2)))
    found = compare([tmp_path])
    assert (found.unchanged, found.compared, found.not_told) == (True, 1, 1)
    assert found.sentence.endswith("; 1 exchange not told of: recorded before this proof was kept.")


def test_parts_are_one_exchange_and_one_without_an_end_is_said(tmp_path: Path) -> None:
    parts = in_parts([b"a", b"b", b"c"])
    told(parts[-1])
    running = in_parts([b"a", b"b"], at=AT + 9, end=None)
    put(tmp_path, *parts, *running)
    found = compare([tmp_path])
    assert (found.compared, found.unfinished, found.unchanged) == (1, 1, True)


def test_a_damaged_record_is_not_passed_over(tmp_path: Path) -> None:
    shelf = put(tmp_path, told(whole()), told(whole(AT + 2)))
    path = next(tmp_path.glob("*.gz"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    found = compare([tmp_path])
    assert shelf.lines
    assert (found.unchanged, found.unreadable, found.compared) == (False, 1, 1)


def test_an_exchange_over_two_hours_has_its_end_in_the_second(tmp_path: Path) -> None:
    shelf, parts = Shelf(tmp_path), in_parts([b"a", b"b", b"c"])
    told(parts[-1])
    shelf.open(AT)
    for hour, part in zip((0, 1, 1), parts, strict=True):
        shelf.put(part, at=AT + 1 + 3600 * hour)
    shelf.close(AT + 3602)
    found = compare([tmp_path])
    assert (found.files, found.compared, found.unfinished, found.unchanged) == (2, 1, 0, True)


def test_nothing_to_compare_is_said(tmp_path: Path) -> None:
    found = compare([tmp_path])
    assert (found.unchanged, found.sentence) == (True, "There is nothing to compare.")


def test_what_is_not_there_is_the_callers_mistake(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        compare([tmp_path / "nowhere"])


def test_a_packed_hour_says_the_same(tmp_path: Path) -> None:
    spoilt = told(whole(AT + 2), differences=["request headers: header via was added"])
    put(tmp_path, told(whole()), spoilt)
    plain = compare([tmp_path])
    seal_hour(tmp_path, HOUR, now=AT + 9_000, version="test")
    pack(tmp_path, HOUR)
    assert [path.suffix for path in tmp_path.glob("*.jsonl.*")] == [".zst"]
    packed = compare([tmp_path])
    assert packed.sentence == plain.sentence
    assert words(packed) == words(plain)


def test_several_processes_find_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(tmp_path / name, told(whole(), differences=["request headers: header via was added"]))
    alone, together = (compare([tmp_path / "a", tmp_path / "b"], jobs=jobs) for jobs in (1, 2))
    assert (alone.sentence, words(alone)) == (together.sentence, words(together))


def test_many_that_differ_are_counted_and_listed_up_to_a_bound(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    record = told(whole(), differences=["request headers: header via was added"])
    for _ in range(MOST + 5):
        shelf.put(record)
    found = compare([tmp_path])
    assert (found.differ, len(found.differing)) == (MOST + 5, MOST)


def test_a_long_line_is_read_in_bounds(tmp_path: Path) -> None:
    record = told(whole(body=b"x" * 9_000_000), size=(9_000_000, 9_000_000))
    record.response = Response(200, [(b"content-type", b"application/json")])
    put(tmp_path, record)
    found = compare([tmp_path])
    assert (found.unchanged, found.compared, found.body_bytes) == (True, 1, 9_000_004)
    assert json.loads(json.dumps(found.sentence)).startswith("1 exchange compared")
