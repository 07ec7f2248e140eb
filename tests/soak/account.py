"""One exchange as its client sees it: what came, how it ended; and the few things every client does. No schedule of its own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import struct
import time
from dataclasses import dataclass, field

from soak.script import Ask, question

__all__ = ["Account", "head", "leave", "line"]


@dataclass(slots=True)
class Account:
    """One exchange as its client saw it."""

    ask: Ask
    asked: bool = False
    """The request went out."""
    sent: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    size: int = 0
    status: int = 0
    code: str = ""
    """Verbatim's own word for what was the matter (x-verbatim-error); empty when the answer is the upstream's."""
    id: str = ""
    """The exchange's id, as the answer's head has it."""
    how: str = ""
    """whole, left, broken, refused."""
    count: int = 0

    def got(self, payload: bytes) -> None:
        self.digest.update(payload)
        self.size += len(payload)

    def line(self) -> str:
        body = hashlib.sha256(question(self.ask)).hexdigest() if self.ask.kind != "ws" else ""
        return json.dumps(
            {
                "nonce": self.ask.nonce,
                "ending": self.ask.ending,
                "sent": [body, self.sent],
                "got": [self.digest.hexdigest(), self.size],
                "count": self.count,
                "status": self.status,
                "id": self.id,
                "code": self.code,
                "how": self.how,
                "at": time.monotonic(),
            }
        )


async def head(account: Account, reader: asyncio.StreamReader) -> int | None:
    """Read an answer's head; the body's length, None where it is chunked or none."""
    lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    account.status = int(lines[0].split(b" ")[1])
    fields = {name.lower(): value for name, value in (each.split(b": ", 1) for each in lines[1:] if each)}
    account.code = fields.get(b"x-verbatim-error", b"").decode()
    account.id = fields.get(b"x-verbatim-id", b"").decode()
    length = fields.get(b"content-length")
    return None if length is None else int(length)


async def line(reader: asyncio.StreamReader) -> bytes:
    got = await reader.readuntil(b"\r\n")
    return got[:-2]


def leave(ask: Ask, account: Account, writer: asyncio.StreamWriter) -> bool:
    """Go away in the middle, as an SDK that is cancelled does (close: FIN) or a process that is killed with unread bytes (RST)."""
    account.how = "left"
    if ask.ending == "left-reset":
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()
    return False
