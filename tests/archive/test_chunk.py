"""Chunks of a packed segment: what is laid out is read back, and what was changed is not believed."""

from __future__ import annotations

import struct

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from archive.chunk import (
    FRAME,
    HEAD_LENGTH,
    OPENING,
    RECORDS,
    Chunk,
    is_seek_table,
    pack_head,
    pack_rows,
    read_head,
    seek_table,
    unpack_rows,
)
from archive.errors import DamagedMember
from archive.member import Tag

TAGS = st.builds(
    Tag,
    st.just(1),
    st.integers(2, 10_000),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 0xFFFF_FFFF),
    st.integers(0, 2**64 - 1),
)


def of(tags: list[Tag], table: bytes = b"") -> Chunk:
    return Chunk(0, sum(it.length for it in tags), 100, len(tags), len(table))


def test_a_head_is_read_back() -> None:
    chunk = Chunk(base=2**40, raw=FRAME, stored=12_345, records=RECORDS, table=678)
    head = pack_head(chunk)
    assert len(head) == HEAD_LENGTH
    assert read_head(b"before" + head + b"behind", 6) == chunk
    assert chunk.length == HEAD_LENGTH + 678 + 12_345
    # Others skip it: the magic number of a skippable frame, and how much follows (RFC 8878 section 3.1.2).
    magic, follows = struct.unpack_from("<II", head)
    assert (magic & 0xFFFF_FFF0, follows) == (0x184D_2A50, HEAD_LENGTH - 8 + 678)


def test_a_head_with_any_byte_changed_is_none() -> None:
    head = pack_head(Chunk(0, 1000, 100, 3, 50))
    for at in range(len(head)):
        for bit in range(8):
            changed = bytearray(head)
            changed[at] ^= 1 << bit
            assert read_head(bytes(changed)) is None
    assert read_head(head[:-1]) is None


@pytest.mark.parametrize(
    "lie",
    [
        Chunk(0, FRAME + 1, 100, 2, 50),  # more than a frame holds, and not a single line
        Chunk(0, 1 << 40, 100, 1, 50),
        Chunk(0, 1000, 1 << 40, 3, 50),  # packed larger than it was
        Chunk(0, 1000, 100, 0, 50),
        Chunk(0, 1000, 100, RECORDS + 1, 50),
        Chunk(0, 1000, 100, 3, 1 << 30),
    ],
)
def test_figures_beyond_what_is_written_are_not_believed(lie: Chunk) -> None:
    assert read_head(pack_head(lie)) is None


@given(st.lists(TAGS, min_size=1, max_size=50))
def test_records_are_read_back(tags: list[Tag]) -> None:
    table = pack_rows(tags)
    rows = unpack_rows(table, of(tags, table))
    assert [rows.tag(index) for index in range(len(tags))] == tags


def test_a_table_that_does_not_add_up_is_damage() -> None:
    tags = [Tag(1, 500, bytes(16), 0, number) for number in range(20)]
    table, chunk = pack_rows(tags), of(tags)
    for lie in (chunk._replace(raw=chunk.raw + 1), chunk._replace(records=19), chunk._replace(records=21)):
        with pytest.raises(DamagedMember):
            unpack_rows(table, lie)
    empty = [tag._replace(length=0) for tag in tags]
    with pytest.raises(DamagedMember):
        unpack_rows(pack_rows(empty), of(empty))
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 26))
    with pytest.raises(DamagedMember):
        unpack_rows(bomb, chunk)
    unsaid = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 26))
    with pytest.raises(DamagedMember):
        unpack_rows(unsaid, chunk)


@given(st.data())
def test_a_damaged_table_is_damage(data: st.DataObject) -> None:
    tags = [Tag(1, 500, number.to_bytes(16, "big"), 0, number) for number in range(20)]
    table = bytearray(pack_rows(tags))
    table[data.draw(st.integers(0, len(table) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        rows = unpack_rows(bytes(table), of(tags))
    except DamagedMember:
        return
    # A bit that says nothing: what is told must still be what was written.
    assert [rows.tag(index) for index in range(len(tags))] == tags


def test_the_table_of_frames_is_that_of_the_seekable_format() -> None:
    table = seek_table([Chunk(0, 1000, 100, 3, 50), Chunk(1000, 500, 70, 2, 40)])
    # zstd_seekable_compression_format.md: skippable frame 0x184D2A5E; (compressed, decompressed) of each frame; their number, a
    # descriptor, 0x8F92EAB1.
    assert zstandard.ZstdDecompressor().decompress(OPENING) == b""
    assert struct.unpack("<II10IIBI", table) == (
        0x184D_2A5E,
        len(table) - 8,
        *(len(OPENING), 0),
        *(HEAD_LENGTH + 50, 0, 100, 1000),
        *(HEAD_LENGTH + 40, 0, 70, 500),
        5,
        0,
        0x8F92_EAB1,
    )
    assert is_seek_table(table)
    assert not any(map(is_seek_table, (b"", table[:-1], table[1:], table + b"x", table[8:])))
