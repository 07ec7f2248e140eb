"""What the two ends of the soak say to each other, byte for byte: nonces, requests, events, answers. The same for the same seed.

No socket and no clock: the stamp in an event is an argument, and always as long, so that what came can be compared with what was due.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, Final, Literal

__all__ = ["NONCE", "Ask", "Kind", "Plan", "answer", "event", "filler", "message", "nonce", "settled"]

Kind = Literal["sse", "json", "ws"]
Ending = Literal["whole", "left-fin", "left-reset", "dropped-fin", "dropped-reset"]
"""How an exchange is to end: of itself; the client leaves, or the upstream does, by closing or by a reset."""

NONCE: Final = re.compile(rb"soak-(?:sse|json|ws)-[0-9a-f]{20}")
_STAMP: Final = re.compile(rb'"at":"[0-9a-f]{16}"')
_SETTLED: Final = b'"at":"%016x"' % 0


def nonce(kind: Kind, seed: int, number: int) -> str:
    """A name nobody else has: a foreign one in a record cannot be there by chance."""
    return f"soak-{kind}-{hashlib.sha256(f'{seed} {kind} {number}'.encode()).hexdigest()[:20]}"


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: how much of what for how long, and what goes wrong. Seconds count from the beginning of the load."""

    seconds: float
    seed: int = 1
    sse: int = 1000
    """Streams at once, each followed by the next."""
    ws: int = 200
    """Websockets at once, likewise."""
    json: float = 50.0
    """Requests a second."""
    events: tuple[int, int] = (4, 20)
    """Events of a stream: from, to."""
    pace: float = 1.0
    """Seconds between two events, and between two messages of a websocket, about."""
    messages: tuple[int, int] = (40, 70)
    """Messages of a websocket: from, to."""
    leave: float = 0.10
    """The share of exchanges whose client leaves early."""
    drop: float = 0.05
    """The share whose upstream breaks off."""
    slow: float = 0.03
    """The share of streams that are wide, and read by a client that takes its time."""
    part_seconds: float = 60.0
    """After how long a record is cut: well beyond a stream's length, so that each is one record and a loss of one is one exchange's."""
    queue_records: int = 400
    """Small enough for the full disk to overflow it."""
    full_disk: tuple[float, float] | None = None
    stall: tuple[float, float] | None = None
    hour: float | None = None
    """When the hour changes."""

    def text(self) -> str:
        """As one argument of a command."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Plan:
        """Back from that."""
        given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()}
        return cls(**given)

    def held(self, at: float) -> bool:
        """Whether websockets should not end now, since the last part of a long record would be lost with nothing after it to count by."""
        return any(window is not None and window[0] - 2 <= at < window[1] + 6 for window in (self.full_disk, self.stall))


@dataclass(frozen=True, slots=True)
class Ask:
    """One exchange as it is to be."""

    nonce: str
    kind: Kind
    ending: Ending
    at: int
    """After how many events, messages or (for JSON) parts of a hundred it ends early."""
    count: int
    """Events, messages, or bytes of a JSON answer."""
    width: int = 0
    """Bytes of filling in each event, or in a JSON request."""
    pace: float = 1.0
    """Seconds between events or messages; until a JSON answer."""
    slow: bool = False

    @classmethod
    def draw(cls, kind: Kind, plan: Plan, number: int) -> Ask:
        """The `number`-th exchange of its kind."""
        name = nonce(kind, plan.seed, number)
        random = Random(name)
        chance = random.random()
        ending: Ending = "whole"
        if chance < plan.leave:
            ending = random.choice(("left-fin", "left-reset"))
        elif chance < plan.leave + plan.drop:
            ending = random.choice(("dropped-fin", "dropped-reset"))
        if kind == "sse":
            count = random.randint(*plan.events)
            if random.random() < plan.slow:
                return cls(name, kind, ending, random.randrange(20), 40, 8000, 0.05, slow=True)
            # Not after the last event: who leaves then may just as well have seen the end.
            return cls(
                name,
                kind,
                ending,
                random.randrange(max(1, count - 2)),
                count,
                random.choice((20, 60, 200)),
                plan.pace * random.uniform(0.6, 1.4),
            )
        if kind == "ws":
            count = random.randint(*plan.messages)
            return cls(name, kind, ending, 0, count, random.choice((10, 100, 300)), plan.pace * random.uniform(0.8, 1.2))
        size, width = random.choice((300, 1000, 4000, 60_000)), random.choice((100, 1000, 20_000))
        return cls(name, kind, ending, random.randrange(100), size, width, 0.0)

    @property
    def hesitation(self) -> float:
        """From 0 to 1: how long a client that leaves before its answer takes to do so."""
        return Random(f"{self.nonce} hesitates").random()

    @property
    def target(self) -> str:
        """The request's path: all that the origin has to know."""
        ending = self.ending if self.ending.startswith("dropped") else "whole"
        return f"/{self.kind}/{self.nonce}/{ending}/{self.at}/{self.count}/{self.width}/{self.pace:.3f}"

    @classmethod
    def read(cls, target: str) -> Ask:
        """Back from the path."""
        kind, name, ending, at, count, width, pace = target.removeprefix("/").split("/")
        return cls(name, kind, ending, int(at), int(count), int(width), float(pace))  # type: ignore[arg-type]


def filler(name: str, size: int) -> str:
    """`size` characters that are this nonce's own and do not compress well, without the nonce in them."""
    return Random(name).randbytes(-(-size // 2)).hex()[:size]


def event(ask: Ask, number: int, stamp: int) -> bytes:
    """One event of a stream. `stamp` is when it went out, in ns of the monotonic clock."""
    return b'data: {"nonce":"%b","n":%d,"at":"%016x","text":"%b"}\n\n' % (
        ask.nonce.encode(),
        number,
        stamp,
        filler(f"{ask.nonce} {number}", ask.width).encode(),
    )


def settled(text: bytes) -> bytes:
    """`text` with all stamps set to zero."""
    return _STAMP.sub(_SETTLED, text)


def answer(ask: Ask) -> bytes:
    """The body of a JSON answer."""
    return b'{"nonce":"%b","text":"%b"}' % (ask.nonce.encode(), filler(ask.nonce, ask.count).encode())


def question(ask: Ask) -> bytes:
    """The body of a request."""
    size = ask.width if ask.kind == "json" else 200
    return b'{"nonce":"%b","stream":%b,"text":"%b"}' % (
        ask.nonce.encode(),
        b"true" if ask.kind == "sse" else b"false",
        filler(f"{ask.nonce} question", size).encode(),
    )


def message(ask: Ask, number: int) -> bytes:
    """One message of a websocket's client; the origin sends it back."""
    return b'{"nonce":"%b","n":%d,"text":"%b"}' % (ask.nonce.encode(), number, filler(f"{ask.nonce} {number}", ask.width).encode())
