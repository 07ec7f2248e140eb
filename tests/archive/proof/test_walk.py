"""Walking a segment: every sound record once with its hash, memory bounded, and what is not sound as a value."""

from __future__ import annotations

import errno
import json
import os
import tracemalloc
from hashlib import sha256
from pathlib import Path

import pytest
from samples import HOUR, Shelf, whole

from archive import member
from archive.handle import open_file
from archive.line import SERVICE_PART
from archive.member import Damage, pack
from archive.proof import walk
from archive.proof.merkle import leaf_hash
from archive.proof.walk import Checked, Walk
from archive.record import id_text


def walked(path: Path, **options: bool) -> tuple[list[Checked | Damage], Walk]:
    with open_file(path) as handle:
        way = Walk(handle, **options)
        return list(way), way


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "archive")
    shelf.open()
    return shelf


def test_every_record_is_checked_and_hashed(shelf: Shelf) -> None:
    records = [whole(HOUR + at, body=b"x" * at * 3000) for at in range(1, 60)]
    path = shelf.put(records)
    shelf.close()
    found, way = walked(path, digests=True)
    data = path.read_bytes()
    assert (way.bytes, way.sha256) == (len(data), sha256(data).hexdigest())
    assert len(found) == 61
    for each, record in zip(found[1:-1], records, strict=True):
        assert isinstance(each, Checked)
        line = shelf.lines[id_text(record.id)][0] + b"\n"
        assert (each.leaf, each.size, each.kind, each.own) == (leaf_hash(line), len(line), "exchange", None)
        assert (each.writer, each.at) == (id_text(shelf.writer), json.loads(line)["at"])
        assert each.digest == sha256(data[each.offset : each.offset + each.tag.length]).digest()[:8]
    first, last = found[0], found[-1]
    assert isinstance(first, Checked)
    assert isinstance(last, Checked)
    assert first.own is not None
    assert first.own["open"]["host"] == "elsewhere"
    assert last.kind == "close"
    assert [each.digest for each in walked(path)[0] if isinstance(each, Checked)] == [b""] * 61


@pytest.mark.parametrize("size", [100, 3 << 20, 5 << 20])
def test_a_long_line_is_walked_in_pieces_to_the_same_end(shelf: Shelf, size: int) -> None:
    """Whole, inflated in pieces, read in pieces: what it says is the same."""
    record = whole(HOUR + 1, body=os.urandom(size))
    path = shelf.put(record)
    shelf.put(whole(HOUR + 2))
    found, way = walked(path, digests=True)
    data = path.read_bytes()
    line = shelf.lines[id_text(record.id)][0] + b"\n"
    assert isinstance(found[1], Checked)
    assert (found[1].leaf, found[1].size) == (leaf_hash(line), len(line))
    assert found[1].digest == sha256(data[found[1].offset : found[1].offset + found[1].tag.length]).digest()[:8]
    assert isinstance(found[2], Checked)
    assert way.sha256 == sha256(data).hexdigest()


def test_memory_stays_bounded_on_a_line_of_100_megabytes(tmp_path: Path) -> None:
    head = b'{"v":1,"id":"%s","seq":0,"writer":"w","part":0,"at":"2026-11-19T10:00:00.000000Z","kind":"exchange","x":"'
    line = b"".join((head % id_text(bytes(16)).encode(), b"0123456789abcdef" * (100 << 16), b'"}\n'))
    path = tmp_path / "2026-11-19T10.jsonl.gz"
    path.write_bytes(pack(line, id=bytes(16), part=0, seq=0))
    size, leaf = len(line), leaf_hash(line)
    del line
    tracemalloc.start()
    try:
        ((found,), _) = walked(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(found, Checked)
    assert (found.size, found.leaf) == (size, leaf)
    assert peak < 16 << 20


def test_memory_stays_bounded_on_a_member_of_30_megabytes(tmp_path: Path) -> None:
    """It does not compress well: not only the line is handled in pieces, the member is read in pieces, too."""
    head = b'{"v":1,"id":"%s","seq":0,"writer":"w","part":0,"at":"2026-11-19T10:00:00.000000Z","kind":"exchange","x":"'
    noise = os.urandom(16 << 20).hex().encode()  # packs to about half
    path = tmp_path / "2026-11-19T10.jsonl.gz"
    path.write_bytes(pack(b"".join((head % id_text(bytes(16)).encode(), noise, noise, b'"}\n')), id=bytes(16), part=0, seq=0))
    del noise
    assert path.stat().st_size > 30 << 20
    tracemalloc.start()
    try:
        ((found,), _) = walked(path, digests=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(found, Checked)
    assert peak < 16 << 20


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"id":"ID","seq":7,"writer":"w","part":0,"at":"t","kind":"exchange"}\n', None),
        (b' {"kind": "exchange", "v": 1, "id": "ID", "seq": 7, "writer": "w", "part": 0, "at": "t"}\n', None),
        (b'{"v":1,"id":"ID","seq":7,"writer":"w","part":0,"at":"t","kind":"later"}\n', None),
        (b'{"v":1,"id":"ID","seq":8,"writer":"w","part":0,"at":"t","kind":"exchange"}\n', "the member's header and its line tell"),
        (b'{"v":1,"id":"ID","seq":7,"writer":"w","part":1,"at":"t","kind":"exchange"}\n', "the member's header and its line tell"),
        (b'{"v":1,"id":"XX","seq":7,"writer":"w","part":0,"at":"t","kind":"exchange"}\n', "the member's header and its line tell"),
        (b'{"v":1,"id":"ID","seq":7,"writer":"w","part":0,"at":"t","kind":"exchange"}', "not one line"),
        (b'{"v":1,"id":"ID","seq":7,"writer":"w","part":0,"at":"t","kind":"exchange"}\n\n', "not one line"),
        (b'{"v":1,"id":"ID","seq":7,"writer":"w","part":0,\n"at":"t","kind":"exchange"}\n', "not one line"),
        (b"", "not one line"),
        (b"\n", "the line is no JSON"),
        (b'{"id":"ID","seq":7,"writer":"","part":0,"at":"t","kind":"exchange"}\n', "not of this schema"),
        (b'{"id":"ID","seq":"7","writer":"w","part":0,"at":"t","kind":"exchange"}\n', "not of this schema"),
        (b'{"id":"ID","seq":7,"part":0,"at":"t","kind":"exchange"}\n', "not of this schema"),
        (b'{"v":1,"id":"ID","seq":7,"writer":"w","part":0,"at":"t","kind":"gap"\n', "the line is no JSON"),
    ],
)
@pytest.mark.parametrize("small", [True, False])
def test_a_line_must_be_one_and_its_headers(
    tmp_path: Path, line: bytes, why: str | None, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not small:
        monkeypatch.setattr(walk, "_SMALL", 10)
        monkeypatch.setattr(walk, "_PIECE", 16)
    own = bytes(range(16))
    path = tmp_path / "2026-11-19T10.jsonl.gz"
    path.write_bytes(pack(line.replace(b"ID", id_text(own).encode()), id=own, part=0, seq=7))
    ((found,), way) = walked(path)
    if why is None:
        assert isinstance(found, Checked)
        assert (found.writer, found.at) == ("w", "t")
    else:
        assert isinstance(found, Damage)
        assert why in found.why
        assert way.headers[0].id == own


def test_an_own_line_too_long_to_be_one_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "_SMALL", 10)
    monkeypatch.setattr(walk, "_PIECE", 1000)
    monkeypatch.setattr(walk, "_OWN", 1000)
    line = b'{"v":1,"id":"%s","seq":0,"writer":"w","part":%d,"at":"t","kind":"gap","x":"%s"}\n'
    path = tmp_path / "2026-11-19T10.jsonl.gz"
    data = line % (id_text(bytes(16)).encode(), SERVICE_PART, b"x" * 5000)
    path.write_bytes(pack(data, id=bytes(16), part=SERVICE_PART, seq=0))
    ((found,), _) = walked(path)
    assert isinstance(found, Damage)


def test_what_lies_between_and_behind_records_is_damage_and_is_hashed(shelf: Shelf) -> None:
    shelf.raw(b"garbage")
    path = shelf.put(whole(HOUR + 1))
    shelf.raw(b"\x1f\x8b torn")
    data = path.read_bytes()
    found, way = walked(path)
    assert [type(each).__name__ for each in found] == ["Checked", "Damage", "Checked", "Damage"]
    assert [each.torn for each in found if isinstance(each, Damage)] == [False, True]
    assert way.sha256 == sha256(data).hexdigest()


def test_bytes_put_into_a_member_are_one_damage_with_it(shelf: Shelf) -> None:
    begin = (shelf.folder / "2026-11-19T10.jsonl.gz").stat().st_size
    path = shelf.put(whole(HOUR + 1))
    end = path.stat().st_size
    shelf.put(whole(HOUR + 2))
    data = path.read_bytes()
    path.write_bytes(data[: begin + 90] + b"xyz" + data[begin + 90 :])
    damages = [each for each in walked(path)[0] if isinstance(each, Damage)]
    assert [(each.offset, each.length) for each in damages] == [(begin, end - begin + 3)]
    path.write_bytes(data[: begin + 90] + b"xyz" + data[begin + 90 : end])
    (damage,) = [each for each in walked(path)[0] if isinstance(each, Damage)]
    assert (damage.offset, damage.length) == (begin, end - begin + 3)


def test_what_the_disk_cannot_read_is_damage(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shelf.put(whole(HOUR + at, body=os.urandom(700_000)) for at in range(1, 6))
    sound, _ = walked(path)
    bad = sound[3].offset
    real = os.pread

    def pread(fd: int, length: int, offset: int) -> bytes:
        if offset <= bad + 200_000 < offset + length:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    found, way = walked(path)
    assert way.sha256 is None
    assert isinstance(found[3], Damage)
    assert (found[3].offset, found[3].why) == (bad, "the disk cannot read it")
    assert [each for each in found if isinstance(each, Checked)] == [each for at, each in enumerate(sound) if at != 3]


def test_a_file_that_grows_meanwhile_is_walked_to_where_it_ended(shelf: Shelf) -> None:
    path = shelf.put(whole(HOUR + 1))
    before = path.stat().st_size
    with open_file(path) as handle:
        way = Walk(handle)
        shelf.put(whole(HOUR + 2))
        found = list(way)
    assert [type(each).__name__ for each in found] == ["Checked", "Checked"]
    assert (way.bytes, way.sha256) == (before, sha256(path.read_bytes()[:before]).hexdigest())
    with open_file(path) as handle:
        (*_, last) = Walk(handle, end=before + 10)
    assert last == Damage(before, 10, "the member is cut short", torn=True)


def test_a_file_that_shrinks_meanwhile_is_damaged_where_it_ends(shelf: Shelf) -> None:
    path = shelf.put(whole(HOUR + at, body=os.urandom(700_000)) for at in range(1, 6))
    with open_file(path) as handle:
        way = iter(Walk(handle))
        assert isinstance(next(way), Checked)
        os.truncate(path, path.stat().st_size - 1_000_000)
        assert [each for each in way if isinstance(each, Damage)]


def test_the_fallback_walks_the_same(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    import zlib

    path = shelf.put([whole(HOUR + 1), whole(HOUR + 2, body=os.urandom(5 << 20))])
    usual = walked(path, digests=True)[0]
    monkeypatch.setattr(member, "_fast", zlib)
    assert walked(path, digests=True)[0] == usual
