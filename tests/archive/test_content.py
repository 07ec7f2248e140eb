"""Content-encodings undone for the archived copy: exactly, part by part, within bounds; or the bytes as they crossed."""

from __future__ import annotations

import gzip
import hashlib
import random
import tracemalloc
import zlib
from collections.abc import Callable
from itertools import pairwise

import brotli  # type: ignore[import-untyped]  # the package ships no types
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive import content
from archive.codings import zstd
from archive.content import Slice, take
from archive.record import Body, BodyStream

TEXT = "".join(f'data: {{"n":{number},"text":"Wörter und 語 and 🙂"}}\n\n' for number in range(200)).encode()


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "identity": bytes,
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "deflate ": raw_deflate,
    "br": brotli.compress,
    "zstd": zstd.compress,
    "gzip, br": lambda data: brotli.compress(gzip.compress(data)),
    "zstd,deflate , gzip": lambda data: gzip.compress(zlib.compress(zstd.compress(data))),
}
each_coding = pytest.mark.parametrize("coding", CODINGS)


def cut(wire: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cuts), len(wire)]
    return [wire[a:b] for a, b in pairwise(edges)]


def through(chunks: list[bytes], coding: str, *, complete: bool = True, limit: int = content.DEFAULT_LIMIT) -> list[Slice]:
    """The slices of a body that crosses in these parts."""
    stream, offset, slices = BodyStream(), 0, []
    for number, chunk in enumerate(chunks, 1):
        last = number == len(chunks)
        body = Body([chunk], offset=offset, encoding=coding, ended=last and complete, stream=stream)
        slices.append(take(body, last=last, limit=limit))
        offset += len(chunk)
    return slices


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@each_coding
def test_a_content_encoding_is_undone(coding: str) -> None:
    wire = CODINGS[coding](TEXT)
    (only,) = through([wire], coding)
    assert (only.data, only.decoded, only.error) == (TEXT, True, None)
    assert (only.size, only.total, only.sha256) == (len(wire), len(wire), sha256(wire))
    assert only.complete
    assert not only.truncated
    assert only.begins


@given(data=st.binary(max_size=3000), coding=st.sampled_from(sorted(CODINGS)), cuts=st.lists(st.integers(0, 3000), max_size=12))
def test_any_cut_into_parts_gives_the_same_text_size_and_hash(data: bytes, coding: str, cuts: list[int]) -> None:
    wire = CODINGS[coding](data)
    slices = through(cut(wire, [each % (len(wire) + 1) for each in cuts]), coding)
    assert b"".join(it.data for it in slices) == data
    assert all(it.decoded and it.error is None for it in slices)
    assert (slices[-1].total, slices[-1].sha256) == (len(wire), sha256(wire))
    assert sum(it.size for it in slices) == len(wire)
    assert all(it.total is None and it.sha256 is None and not it.complete for it in slices[:-1])


@each_coding
def test_every_split_of_a_short_body_decodes(coding: str) -> None:
    wire = CODINGS[coding](b"short")
    for at in range(len(wire) + 1):
        assert b"".join(it.data for it in through([wire[:at], wire[at:]], coding)) == b"short"


@given(data=st.binary(max_size=400), coding=st.sampled_from(sorted(CODINGS)), cuts=st.lists(st.integers(0, 400), max_size=4))
def test_any_bytes_under_any_coding_are_kept_or_undone(data: bytes, coding: str, cuts: list[int]) -> None:
    """Garbage never raises; what is said to be as it crossed is exactly that."""
    chunks = cut(data, [each % (len(data) + 1) for each in cuts])
    for chunk, it in zip(chunks, through(chunks, coding), strict=True):
        assert it.decoded or it.data == chunk
        assert it.decoded == (it.error is None)
        assert it.size == len(chunk)


def test_gzip_of_several_members_is_one_text() -> None:
    wire = gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two")
    assert through([wire], "gzip")[0].data == b"one two"
    for at in range(1, len(wire)):
        assert b"".join(it.data for it in through([wire[:at], wire[at:]], "gzip")) == b"one two"


def test_zstd_of_several_frames_is_one_text() -> None:
    wire = zstd.compress(b"one ") + zstd.compress(b"two")
    assert through([wire], "zstd")[0].data == b"one two"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "deflate ", "br", "zstd", "gzip, br"])
@pytest.mark.parametrize("parts", [1, 2])
def test_bytes_after_the_end_of_a_coding_are_not_lost(coding: str, parts: int) -> None:
    wire = CODINGS[coding](b"text")
    chunks = [wire + b"garbage"] if parts == 1 else [wire, b"garbage"]
    last = through(chunks, coding)[-1]
    assert (last.data, last.decoded, last.error) == (chunks[-1], False, "damaged")
    assert last.sha256 == sha256(wire + b"garbage")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "br, gzip"])
def test_a_damaged_body_is_kept_as_it_crossed(coding: str) -> None:
    wire = bytearray(CODINGS[coding](TEXT) if coding in CODINGS else gzip.compress(brotli.compress(TEXT)))
    wire[len(wire) // 2] ^= 0x55
    wire[len(wire) // 2 + 1] ^= 0x55
    (only,) = through([bytes(wire) + bytes(8)], coding)
    assert (only.data, only.decoded, only.error) == (bytes(wire) + bytes(8), False, "damaged")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_whole_body_whose_coding_stops_early_is_kept_as_it_crossed(coding: str) -> None:
    wire = CODINGS[coding](TEXT)[:-5]
    (only,) = through([wire], coding)
    assert (only.data, only.error, only.complete) == (wire, "damaged", True)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_of_an_aborted_body_what_arrived_is_read(coding: str) -> None:
    packer = zlib.compressobj(6, zlib.DEFLATED, {"gzip": 31, "deflate": 15}.get(coding, 15))
    if coding == "zstd":
        squeezer = zstd.ZstdCompressor()
        wire = squeezer.compress(b"data: one\n\n", mode=squeezer.FLUSH_BLOCK)
    else:
        wire = packer.compress(b"data: one\n\n") + packer.flush(zlib.Z_SYNC_FLUSH)
    (only,) = through([wire], coding, complete=False)
    assert (only.data, only.decoded, only.complete) == (b"data: one\n\n", True, False)


def test_of_an_aborted_body_that_yields_nothing_the_bytes_are_kept() -> None:
    wire = gzip.compress(TEXT)[:9]
    (only,) = through([wire], "gzip", complete=False)
    assert (only.data, only.decoded, only.error) == (wire, False, "damaged")


def test_a_head_that_names_a_coding_and_has_no_body_is_no_damage() -> None:
    (only,) = through([b""], "gzip")
    assert (only.data, only.decoded, only.error, only.total) == (b"", True, None, 0)


def test_an_unknown_coding_is_kept_as_it_crossed() -> None:
    (only,) = through([b"\x00\x01"], "aws-chunked")
    assert (only.data, only.decoded, only.error, only.sha256) == (b"\x00\x01", False, "unknown coding", sha256(b"\x00\x01"))
    assert through([b"x"], "gzip, gzip, gzip, gzip, gzip")[0].error == "unknown coding"


def brotli_bomb() -> bytes:
    """About 800 bytes that inflate to 1 GiB."""
    squeezer = brotli.Compressor(quality=5, lgwin=24)
    return b"".join([*(squeezer.process(bytes(1 << 24)) for _ in range(64)), squeezer.finish()])


def zeros(mebibytes: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(mebibytes)), packer.flush()])


@pytest.mark.parametrize("kind", ["br", "gzip", "gzip, gzip", "zstd", "empty members"])
def test_a_bomb_is_kept_as_it_crossed(kind: str) -> None:
    wire = {
        "br": brotli_bomb,
        "gzip": lambda: zeros(256),
        "gzip, gzip": lambda: gzip.compress(zeros(256)),
        "zstd": lambda: zstd.compress(bytes(1 << 28)),
        "empty members": lambda: gzip.compress(gzip.compress(b"") * 100_000),
    }[kind]()
    coding = {"empty members": "gzip, gzip"}.get(kind, kind)
    limit = 32 << 20
    tracemalloc.start()
    try:
        (only,) = through([wire], coding, limit=limit)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (only.data, only.decoded) == (wire, False)
    assert only.error == ("damaged" if kind == "empty members" else "limit")
    assert peak < 2 * limit


def test_the_limit_counts_over_all_parts() -> None:
    data = random.Random(1).randbytes(3000)
    wire = gzip.compress(data)
    slices = through(cut(wire, [1000, 2000]), "gzip", limit=1500)
    assert [it.error for it in slices] == [None, "limit", "limit"]
    assert [it.data for it in slices[1:]] == [wire[1000:2000], wire[2000:]]
    assert slices[-1].sha256 == sha256(wire)


def test_after_a_lost_part_bytes_are_kept_as_they_crossed() -> None:
    wire = gzip.compress(random.Random(2).randbytes(3000))
    stream = BodyStream()
    first = take(Body([wire[:1000]], encoding="gzip", stream=stream), last=False)
    third = take(Body([wire[2000:]], offset=2000, encoding="gzip", ended=True, stream=stream), last=True)
    assert first.decoded
    assert first.error is None
    assert (third.data, third.decoded, third.error) == (wire[2000:], False, "lost part")
    assert third.sha256 is None
    assert third.total is None
    assert third.complete


def test_a_lost_first_part_is_noticed() -> None:
    only = take(Body([b"rest"], offset=10, ended=True), last=True)
    assert (only.data, only.decoded, only.error, only.sha256) == (b"rest", True, "lost part", None)


def test_a_body_over_the_capture_limit_keeps_its_true_size_and_hash() -> None:
    data = random.Random(3).randbytes(5000)
    stream = BodyStream()
    first = take(Body([data[:1000]], [data[1000:2000]], stream=stream), last=False)
    second = take(Body([], [data[2000:]], offset=2000, ended=True, stream=stream), last=True)
    assert (first.data, first.size, first.truncated, first.sha256) == (data[:1000], 2000, True, None)
    assert (second.data, second.size, second.truncated, second.complete) == (b"", 3000, True, True)
    assert (second.total, second.sha256) == (5000, sha256(data))


def test_of_an_encoded_body_over_the_capture_limit_the_beginning_is_read() -> None:
    packer = zlib.compressobj(0, zlib.DEFLATED, 31)
    wire = packer.compress(TEXT) + packer.flush()
    only = take(Body([wire[:2000]], [wire[2000:]], encoding="gzip", ended=True), last=True)
    assert only.decoded
    assert only.truncated
    assert TEXT.startswith(only.data)
    assert len(only.data) > 1900
    assert only.sha256 == sha256(wire)


def test_kept_bytes_after_bytes_let_go_are_not_decoded() -> None:
    wire = gzip.compress(random.Random(4).randbytes(3000))
    stream = BodyStream()
    take(Body([wire[:1000]], [wire[1000:2000]], encoding="gzip", stream=stream), last=False)
    second = take(Body([wire[2000:]], offset=2000, encoding="gzip", ended=True, stream=stream), last=True)
    assert (second.data, second.decoded, second.error, second.sha256) == (wire[2000:], False, "lost part", sha256(wire))
