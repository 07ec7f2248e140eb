"""Bytes as people read bytes: offset, sixteen in hexadecimal, the same sixteen as ASCII. Pure."""

from __future__ import annotations

__all__ = ["hexdump"]

_SHOWN = bytes(byte if 0x20 <= byte < 0x7F else 0x2E for byte in range(256))


def hexdump(data: bytes, *, limit: int) -> str:
    """The first `limit` bytes of `data` in the layout of `hexdump -C`, one line for sixteen bytes."""
    lines = []
    for at in range(0, min(len(data), limit), 16):
        row = data[at : min(at + 16, limit)]
        pairs = row.hex(" ")
        lines.append(f"{at:08x}  {pairs[:23]:<23}  {pairs[24:]:<23}  |{row.translate(_SHOWN).decode('ascii')}|")
    return "\n".join(lines)
