"""What an archive has of each exchange, as gzip and json give it: nothing of our own reader's. Judges nothing."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from readback import slice_bytes
from soak.script import NONCE

__all__ = ["Exchange", "add", "joined", "lines", "sha"]


@dataclass(slots=True)
class Exchange:
    """What the archive has of one exchange."""

    id: str
    nonces: set[str] = field(default_factory=set)
    target: str = ""
    parts: list[int] = field(default_factory=list)
    reason: str = ""
    status: int | None = None
    origin: str = ""
    last: int | None = None
    """The number of the part with the end."""
    asked: list[tuple[int, bytes]] = field(default_factory=list)
    told: list[tuple[int, bytes]] = field(default_factory=list)
    """Slices of request and response body: part and bytes."""
    sha: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the bodies as the last slice has it."""
    messages: list[tuple[int, str, str, bytes, int | None]] = field(default_factory=list)
    body: tuple[str, ...] = ()
    """SHA-256 of the bodies that were archived, once they have been let go."""

    @property
    def nonce(self) -> str:
        """Empty where what had it was lost."""
        return self.target.split("/")[3] if self.target.count("/") > 3 else min(self.nonces, default="")

    @property
    def holes(self) -> int:
        """Parts that are missing before the last one that is there."""
        return max(self.parts) + 1 - len(set(self.parts))

    def let_go(self) -> None:
        """Keep only the hashes of what bodies there are, and no messages: a run has a hundred thousand exchanges."""
        self.body = tuple(sha(joined(slices)) for slices in (self.asked, self.told))
        self.asked, self.told, self.messages = [], [], []


def lines(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every line of the archive and the file it is from, as `zcat FILE` gives them."""
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path) as file:
            for each in file:
                yield path.name, each


def add(exchange: Exchange, line: dict[str, Any], raw: bytes) -> None:
    """Take in one more line of the exchange."""
    exchange.nonces |= {each.decode() for each in NONCE.findall(raw)}
    part = line["part"]
    exchange.parts.append(part)
    request, response = line["request"] or {}, line["response"] or {}
    exchange.target = request.get("target") or exchange.target
    if response.get("status"):
        exchange.status, exchange.origin = response["status"], response["origin"]
    for side, into in (("request", exchange.asked), ("response", exchange.told)):
        body = (line[side] or {}).get("body")
        if body:
            into.append((part, slice_bytes(body)))
            if body["sha256"]:
                exchange.sha[side] = body["sha256"]
    for each in line["messages"] or ():
        exchange.messages.append((part, each["side"], each["type"], slice_bytes(each), each.get("code")))
    if line["end"]:
        exchange.reason, exchange.last = line["end"]["reason"], part


def joined(slices: Iterable[tuple[int, bytes]]) -> bytes:
    """A body from its parts' slices."""
    return b"".join(text for _, text in sorted(slices, key=lambda it: it[0]))


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
