"""Websocket frames as the soak's two ends write and read them (RFC 6455 section 5). Nothing of the product's."""

from __future__ import annotations

import struct
from collections.abc import Iterator

__all__ = ["CLOSE", "TEXT", "frame", "frames"]

TEXT, CLOSE = 1, 8
MASK = bytes((0x5A, 0xC3, 0x0F, 0x91))


def frame(opcode: int, payload: bytes, *, masked: bool) -> bytes:
    """One final frame."""
    size, bit = len(payload), 0x80 if masked else 0
    head = bytes((0x80 | opcode, bit | size)) if size < 126 else bytes((0x80 | opcode, bit | 126)) + struct.pack(">H", size)
    return head + MASK + _mask(payload, MASK) if masked else head + payload


def frames(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Take the whole frames out of `buffer`: opcode and payload, unmasked."""
    while len(buffer) >= 2:
        size, at = buffer[1] & 0x7F, 2
        if size == 126:
            if len(buffer) < 4:
                return
            size, at = int.from_bytes(buffer[2:4], "big"), 4
        mask = b""
        if buffer[1] & 0x80:
            mask, at = bytes(buffer[at : at + 4]), at + 4
        if len(buffer) < at + size:
            return
        opcode, payload = buffer[0] & 0x0F, bytes(buffer[at : at + size])
        del buffer[: at + size]
        yield opcode, _mask(payload, mask) if mask else payload


def _mask(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
