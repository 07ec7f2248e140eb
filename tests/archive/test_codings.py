"""Content codings: which are known, when they are at their end, and when too much comes out of them."""

from __future__ import annotations

import gzip
import zlib

import brotli  # type: ignore[import-untyped]  # the package ships no types
import pytest

from archive.codings import DAMAGE, Stack, TooMuch, codings, zstd


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("", []),
        ("identity", []),
        ("GZip", ["gzip"]),
        ("gzip,br", ["gzip", "br"]),
        (" gzip , identity,, zstd ", ["gzip", "zstd"]),
        ("compress", None),
        ("gzip, unknown", None),
        ("gzip,gzip,gzip,gzip", ["gzip"] * 4),
        ("gzip,gzip,gzip,gzip,gzip", None),
    ],
)
def test_codings_are_known_by_their_names(encoding: str, names: list[str] | None) -> None:
    assert codings(encoding) == names


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_coding_is_finished_only_at_its_end(coding: str) -> None:
    wire = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress, "zstd": zstd.compress}[coding](b"some text")
    stack = Stack([coding])
    assert stack.finished
    for at in range(len(wire)):
        assert stack.finished is (at == 0)
        stack.feed(wire[at : at + 1], 1000)
    assert stack.finished


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_exactly_the_limit_may_come_out(coding: str) -> None:
    wire = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress, "zstd": zstd.compress}[coding](bytes(5000))
    assert Stack([coding]).feed(wire, 5000) == bytes(5000)
    with pytest.raises(TooMuch):
        Stack([coding]).feed(wire, 4999)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_garbage_is_one_of_the_damages(coding: str) -> None:
    with pytest.raises(DAMAGE):
        Stack([coding]).feed(b"\xff" * 100, 1000)


def test_a_window_larger_than_a_browser_takes_is_refused() -> None:
    """RFC 9659 section 3: 8 MiB at most; a larger one could ask for any memory."""
    parameters = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    packer = zstd.ZstdCompressor(options=parameters)
    wire = packer.compress(b"x" * 1000) + packer.flush()
    with pytest.raises(DAMAGE):
        Stack(["zstd"]).feed(wire, 10_000)
