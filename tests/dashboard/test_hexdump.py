"""The hex dump against the one everybody knows."""

from __future__ import annotations

from dashboard.hexdump import hexdump


def test_bytes_are_laid_out_as_hexdump_does() -> None:
    assert hexdump(bytes(range(0x5A, 0x6C)), limit=100) == (
        "00000000  5a 5b 5c 5d 5e 5f 60 61  62 63 64 65 66 67 68 69  |Z[\\]^_`abcdefghi|\n"
        "00000010  6a 6b                                             |jk|"
    )


def test_only_so_many_bytes_are_laid_out() -> None:
    assert hexdump(bytes(1000), limit=20).splitlines()[-1] == "00000010  00 00 00 00                                       |....|"
    assert hexdump(b"", limit=20) == ""
