"""Members: any gzip reads them, ours hops over them, and damage hides only what it touched."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig_archive import line, members, packed, zcat

from archive import member
from archive.errors import DamagedMember
from archive.member import HEADER_LENGTH, Damage, Found, pack, read_tag, scan, store, unpack


def found(data: bytes, start: int = 0) -> list[tuple[str, int, int]]:
    """A scan in short: ("member", offset, seq) and ("damage" or "torn", offset, length)."""
    return [
        ("member", each.offset, each.tag.seq) if isinstance(each, Found) else ("torn" if each.torn else "damage", each.offset, each.length)
        for each in scan(io.BytesIO(data), start)
    ]


def test_a_member_says_whose_it_is_and_how_long() -> None:
    one = pack(b'{"a":1}\n', id=bytes(range(16)), part=7, seq=1 << 40)
    tag = read_tag(one[:HEADER_LENGTH])
    assert tag == (member.FORMAT_VERSION, len(one), bytes(range(16)), 7, 1 << 40)
    assert read_tag(one[: HEADER_LENGTH - 1]) is None


@given(st.binary(max_size=5000))
def test_any_line_comes_back_through_plain_gzip_and_through_ours(data: bytes) -> None:
    one = pack(data, id=bytes(16), part=0, seq=0)
    assert gzip.decompress(one) == data
    assert unpack(one, limit=5000) == data


@pytest.mark.parametrize("size", [0, 1, 65_534, 65_535, 65_536, 131_070, 200_000])
def test_a_stored_member_is_read_like_any_other(size: int) -> None:
    data = os.urandom(size)
    one = store(data, id=bytes(range(16)), part=3, seq=9)
    assert gzip.decompress(one) == zlib.decompress(one, wbits=31) == unpack(one, limit=size) == data
    assert read_tag(one) == (member.FORMAT_VERSION, len(one), bytes(range(16)), 3, 9)
    assert size <= len(one) <= size + 5 * (size // 65_535 + 1) + HEADER_LENGTH + member.TRAILER_LENGTH


def test_every_plain_tool_reads_a_segment(tmp_path: Path) -> None:
    lines = [line(n, 100 * n) for n in range(20)]
    path = tmp_path / "2026-11-20T10.jsonl.gz"
    path.write_bytes(b"".join((pack, store)[n % 2](each, id=bytes(16), part=0, seq=0) for n, each in enumerate(lines)))
    assert zcat(path) == b"".join(lines)
    subprocess.run(["gzip", "-t", str(path)], check=True)
    with gzip.open(path) as file:
        assert list(file) == lines


def test_the_fallback_writes_the_same_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "_fast", zlib)
    one = pack(b"x" * 1000, id=bytes(16), part=0, seq=3)
    assert gzip.decompress(one) == b"x" * 1000
    monkeypatch.undo()
    assert unpack(one, limit=1000) == b"x" * 1000


def test_unpacking_is_bounded() -> None:
    bomb = pack(bytes(50_000_000), id=bytes(16), part=0, seq=0)
    assert len(bomb) < 500_000
    with pytest.raises(DamagedMember, match="more than 1000000"):
        unpack(bomb, limit=1_000_000)


def test_no_damaged_byte_goes_unnoticed() -> None:
    one = packed(1, 40)
    for at in range(len(one)):
        flipped = one[:at] + bytes([one[at] ^ 0x10]) + one[at + 1 :]
        try:
            assert unpack(flipped, limit=10_000) == gzip.decompress(one), "only the spare bits of the last deflated byte mean nothing"
        except DamagedMember:
            continue
    for length in range(len(one)):
        with pytest.raises(DamagedMember):
            unpack(one[:length], limit=10_000)
    with pytest.raises(DamagedMember):
        unpack(one + b"\0", limit=10_000)


def test_a_scan_finds_every_member_whatever_its_size() -> None:
    # Around the sizes at which the scan changes from reading stretches to reading headers.
    sizes = [10, 20_000, 10, 300_000, 10, 16_000, 16_500, 5, 600_000]
    each = [packed(n, size) for n, size in enumerate(sizes)]
    data = b"".join(each)
    expected, at = [], 0
    for number, one in enumerate(each):
        expected.append(("member", at, number))
        at += len(one)
    assert found(data) == expected
    assert found(data, start=len(each[0])) == expected[1:]
    assert found(data, start=len(data)) == []


def test_a_scan_reads_headers_only(tmp_path: Path) -> None:
    # Ten members of 512 MiB each by their headers, with holes for data: 5 GB that nobody could read in the time of a test.
    path = tmp_path / "segment"
    length = 512 << 20
    prefix = packed(0)[:HEADER_LENGTH]
    with path.open("wb") as file:
        for number in range(10):
            data = member._DATA.pack(member.FORMAT_VERSION, length, bytes(16), 0, number)
            head = prefix[: member._GZIP.size] + data
            file.seek(number * length)
            file.write(head + zlib.crc32(head).to_bytes(4, "little"))
        file.truncate(10 * length)
    with path.open("rb") as file:
        assert [each.tag.seq for each in scan(file) if isinstance(each, Found)] == list(range(10))


def test_a_flipped_bit_in_the_middle_hides_only_its_own_record(tmp_path: Path) -> None:
    each = members(5)
    data = b"".join(each)
    begins, ends = len(each[0]) + len(each[1]), len(each[0]) + len(each[1]) + len(each[2])
    for at in range(begins, begins + HEADER_LENGTH):
        path = tmp_path / str(at)
        damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        path.write_bytes(damaged)
        with path.open("rb") as file:
            results = list(scan(file))
        assert [one.tag.seq for one in results if isinstance(one, Found)] == [0, 1, 3, 4]
        assert [one for one in results if isinstance(one, Damage)] == [Damage(begins, ends - begins, "no member begins here", torn=False)]
        assert path.read_bytes() == damaged


def test_lost_bytes_in_a_member_do_not_hide_the_next() -> None:
    # A write torn by a crash and appended to by a writer that did not look: the length points past the next header.
    each = members(4, 1000)
    torn = each[1][:500]
    data = each[0] + torn + each[2] + each[3]
    assert found(data) == [
        ("member", 0, 0),
        ("damage", len(each[0]), 500),
        ("member", len(each[0]) + 500, 2),
        ("member", len(each[0]) + 500 + len(each[2]), 3),
    ]


@pytest.mark.parametrize(
    "between",
    [bytes(4096), os.urandom(70_000), b"plain text\n", gzip.compress(b'{"foreign":1}\n')],
    ids=["zeros", "garbage", "plain text", "plain gzip"],
)
def test_what_is_not_ours_between_members_is_reported_and_passed(between: bytes) -> None:
    one, two = members(2)
    assert found(one + between + two) == [
        ("member", 0, 0),
        ("damage", len(one), len(between)),
        ("member", len(one) + len(between), 1),
    ]
    assert found(one + between) == [("member", 0, 0), ("torn", len(one), len(between))]
    assert found(between) == [("torn", 0, len(between))]


def test_a_header_across_two_stretches_of_the_search_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "_SEARCH", 200)
    one = packed(1)
    for lead in range(100, 320):
        assert found(b"x" * lead + one) == [("damage", 0, lead), ("member", lead, 1)]


def test_a_member_of_which_half_is_there_is_not_yet() -> None:
    one, two = members(2)
    for length in range(1, len(two)):
        assert found(one + two[:length]) == [("member", 0, 0), ("torn", len(one), length)]


@given(st.integers(0, 2), st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=60)), max_size=4))
def test_a_scan_accounts_for_every_byte_once(drop: int, wounds: list[tuple[int, bytes]]) -> None:
    data = bytearray(b"".join(members(6)))
    for at, wound in wounds:
        at %= len(data)
        data[at : at + len(wound) * drop] = wound
    at = 0
    for each in scan(io.BytesIO(bytes(data))):
        assert each.offset == at
        at += each.tag.length if isinstance(each, Found) else each.length
        if isinstance(each, Damage):
            assert each.length > 0
            assert each.torn == (at == len(data))
    assert at == len(data)


def test_a_file_that_shrinks_under_a_scan_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    each = members(3, 400_000)
    path.write_bytes(b"".join(each))
    with path.open("rb") as file:
        results = scan(file)
        assert isinstance(next(results), Found)
        os.truncate(path, len(each[0]) + 10)
        rest = list(results)
    assert len(rest) == 1
    assert isinstance(rest[0], Damage)
    assert rest[0].torn
