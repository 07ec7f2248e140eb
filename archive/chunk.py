"""Chunk: up to 64 MiB of lines as one zstd frame, behind a skippable frame that says which records they are. A packed segment is an empty
frame, a row of chunks and, last, the seek table of zstd's seekable format.

Any zstd reads the lines and skips the rest (RFC 8878 section 3.1.2). Laid out and checked here; no files, nothing is inflated but the
records' table.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import zstandard

from archive.errors import DamagedMember
from archive.member import FORMAT_VERSION, Tag

__all__ = [
    "FRAME",
    "HEAD_LENGTH",
    "LONGEST",
    "MARK",
    "OPENING",
    "RECORDS",
    "WINDOW_LOG",
    "Chunk",
    "Rows",
    "is_seek_table",
    "pack_head",
    "pack_rows",
    "read_head",
    "seek_table",
    "unpack_rows",
]

FRAME: Final = 64 << 20
"""Bytes of lines in one frame, unless a single line is longer. Agents' hours pack twice as well as in frames of 16 MiB, and to inflate a
whole one takes 15-20 ms."""
WINDOW_LOG: Final = 26
"""The window is as long as the frame; `zstd -dc` takes up to 27 without being told (zstd(1), --long)."""
LONGEST: Final = 512 << 20
"""A single line's bytes: what readers of the plain form take, too."""
RECORDS: Final = 1 << 16
"""Records in one chunk."""

# A skippable frame's head: magic number, bytes that follow. Then ours: a mark, version, where in the unpacked stream the lines begin, their
# bytes, bytes of the data frame behind this one, records, bytes of their table, CRC-32 of all of it so far. Little-endian as all of zstd.
_HEAD: Final = struct.Struct("<II4sBxxxQQQII")
_CRC: Final = struct.Struct("<I")
HEAD_LENGTH: Final = _HEAD.size + _CRC.size
_SKIPPABLE: Final = 0x184D2A56
_VERSION: Final = 1
_MARK: Final = b"VbPk"
MARK: Final = struct.pack("<I", _SKIPPABLE)
"""What every chunk begins with."""

OPENING: Final = bytes.fromhex("28b52ffd 20 00 010000")
"""What a packed segment begins with: a zstd frame of nothing (RFC 8878 section 3.1.1). Some readers tell zstd by its first bytes and do not
know those of a skippable frame: polars 2.1 takes a file that begins with one for text, and counts the line feeds in it without an error."""

_ROW: Final = 16 + 4 + 8 + 8
_ROW_WINDOW: Final = 8 << 20
_LEAST: Final = 2
"""No line is shorter than a byte and a newline, no zstd frame and no table shorter than its magic number."""

# facebook/zstd, contrib/seekable_format/zstd_seekable_compression_format.md, version 0.1.0. Without the optional checksums: each data
# frame has its own.
_SEEK_HEAD: Final = struct.Struct("<II")
_SEEK_ENTRY: Final = struct.Struct("<II")
_SEEK_FOOT: Final = struct.Struct("<IBI")
_SEEK_SKIPPABLE: Final = 0x184D2A5E
_SEEKABLE: Final = 0x8F92EAB1


class Chunk(NamedTuple):
    """What a chunk's head says. In the file it is HEAD_LENGTH + `table` + `stored` bytes long."""

    base: int
    """Where its lines begin among all lines of the segment."""
    raw: int
    """Bytes of its lines."""
    stored: int
    """Bytes of its data frame."""
    records: int
    table: int
    """Bytes of its records' table, compressed."""

    @property
    def length(self) -> int:
        """Bytes in the file."""
        return HEAD_LENGTH + self.table + self.stored


class Rows(NamedTuple):
    """The records of a chunk, in order, as columns."""

    ids: bytes
    """16 bytes each."""
    parts: array[int]
    seqs: array[int]
    lengths: array[int]
    """Bytes of each line, newline included; together they are the chunk's."""

    def tag(self, index: int) -> Tag:
        """A record's tag; its length is the line's."""
        return Tag(FORMAT_VERSION, self.lengths[index], self.ids[16 * index : 16 * index + 16], self.parts[index], self.seqs[index])


def pack_head(chunk: Chunk) -> bytes:
    """The beginning of a chunk; the table and the data frame follow."""
    follows = HEAD_LENGTH - 8 + chunk.table
    head = _HEAD.pack(_SKIPPABLE, follows, _MARK, _VERSION, chunk.base, chunk.raw, chunk.stored, chunk.records, chunk.table)
    return head + _CRC.pack(zlib.crc32(head))


def read_head(data: bytes, at: int = 0) -> Chunk | None:
    """The chunk that begins at `at`; None when none of ours does, or its figures are beyond what this version writes."""
    if len(data) - at < HEAD_LENGTH or not data.startswith(MARK, at):
        return None
    (crc,) = _CRC.unpack_from(data, at + _HEAD.size)
    if zlib.crc32(data[at : at + _HEAD.size]) != crc:
        return None
    _, follows, mark, version, base, raw, stored, records, table = _HEAD.unpack_from(data, at)
    if mark != _MARK or version != _VERSION or follows != HEAD_LENGTH - 8 + table:
        return None
    chunk = Chunk(base, raw, stored, records, table)
    whole = _LEAST <= raw <= (FRAME if records > 1 else LONGEST) and 1 <= records <= RECORDS
    return chunk if whole and _LEAST <= stored <= _bound(raw) and _LEAST <= table <= _bound(_ROW * records) else None


def _bound(raw: int) -> int:
    """What so many bytes cannot pack to more than: zstd.h, ZSTD_COMPRESSBOUND."""
    return raw + (raw >> 8) + 1024


def pack_rows(tags: Sequence[Tag]) -> bytes:
    """The table of records whose tags these are, lengths being those of the lines; compressed."""
    parts, seqs, lengths = array("I", (it.part for it in tags)), array("Q", (it.seq for it in tags)), array("Q", (it.length for it in tags))
    columns = b"".join((b"".join(it.id for it in tags), *(_little(column).tobytes() for column in (parts, seqs, lengths))))
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(columns)


def unpack_rows(data: bytes, chunk: Chunk) -> Rows:
    """The chunk's records. Raises DamagedMember where the table is damaged or does not add up."""
    count = chunk.records
    size = _ROW * count
    try:
        if zstandard.get_frame_parameters(data).content_size != size:
            raise DamagedMember("the table of records does not add up")
        columns = zstandard.ZstdDecompressor(max_window_size=_ROW_WINDOW).decompress(data, max_output_size=size)
    except zstandard.ZstdError as error:
        raise DamagedMember("the table of records is damaged") from error
    if len(columns) != size:
        raise DamagedMember("the table of records does not add up")
    view = memoryview(columns)
    parts, seqs, lengths = array("I"), array("Q"), array("Q")
    at = 16 * count
    for column in (parts, seqs, lengths):
        end = at + column.itemsize * count
        column.frombytes(view[at:end])
        _little(column)
        at = end
    if sum(lengths) != chunk.raw or min(lengths) < _LEAST:
        raise DamagedMember("the table of records does not add up")
    return Rows(columns[: 16 * count], parts, seqs, lengths)


def _little(column: array[int]) -> array[int]:
    if sys.byteorder == "big":
        column.byteswap()
    return column


def seek_table(chunks: Iterable[Chunk]) -> bytes:
    """The end of a packed segment, by which readers of the seekable format find their way."""
    entries = [_SEEK_ENTRY.pack(len(OPENING), 0)]
    for chunk in chunks:
        entries += (_SEEK_ENTRY.pack(HEAD_LENGTH + chunk.table, 0), _SEEK_ENTRY.pack(chunk.stored, chunk.raw))
    foot = _SEEK_FOOT.pack(len(entries), 0, _SEEKABLE)
    return b"".join((_SEEK_HEAD.pack(_SEEK_SKIPPABLE, len(entries) * _SEEK_ENTRY.size + len(foot)), *entries, foot))


def is_seek_table(data: bytes) -> bool:
    """Whether `data` is a whole seek table, whatever it says."""
    if len(data) < _SEEK_HEAD.size + _SEEK_FOOT.size:
        return False
    (magic, follows), (count, _, seekable) = _SEEK_HEAD.unpack_from(data), _SEEK_FOOT.unpack_from(data, len(data) - _SEEK_FOOT.size)
    return (magic, seekable) == (_SEEK_SKIPPABLE, _SEEKABLE) and follows == len(data) - 8 == count * _SEEK_ENTRY.size + _SEEK_FOOT.size
