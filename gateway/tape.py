"""The tape: what exchanges tell, written down to be replayed by the keeper process. Sans-I/O; belongs to the event loop's thread.

Recording costs the relay only this: a tuple per event and one `marshal` per batch. Reading heads, redacting, cutting records, encoding
and compressing happen in the keeper (`gateway.keeping`), which replays the tape into a `gateway.capture.Capture`. A tape never touches
a disk; it passes through a private socket between two processes of the same program.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable
from itertools import count
from typing import Any, Final, Literal, TypeAlias

from archive.record import Client, EndReason, Fields, Kept, Recorder, Upstream
from gateway.capture import Capture, CaptureLimits, Recording, Told
from gateway.frames import Side
from gateway.wire import Framing, Head

__all__ = ["MARSHAL_VERSION", "Player", "Tape"]

MARSHAL_VERSION: Final = 2
"""Without reference tracking (version 3 and later), which our events have no use for and which costs a hash look-up per object."""

BATCH: Final = 64 << 10
"""Bytes of events after which they are flushed at once, not at the next wake: about one pipe buffer."""

LARGE: Final = 16 << 10
"""Bytes from which on an event's pieces cross beside the events, not within them: marshal would copy them into a buffer that it makes anew
several times as it grows, 0.1 ms for 200 KB."""

EVENT: Final = 64
"""Bytes an event is counted with beside its payload."""

SMALL: Final = 64 << 10
"""Bytes that an exchange may have told of itself and still go on where those who told more are held back."""

STALLED: Final = 0.5
"""Seconds without an acknowledgement after which nobody is asked to wait for room: the keeper is stuck, not busy."""

LOST_IDS: Final = 10_000
"""Ids of lost exchanges kept for the gap record; beyond it they are only counted."""

NO_ROOM: Final = "the recording queue was full"
NO_KEEPER: Final = "the recording process had died"
FAILED: Final = "recording failed"
"""Why an exchange is lost, for the gap record."""

Loss = tuple[int, bytes, int, str, float]
"""An exchange's number and id, the bytes that had been told of it, why it is lost and when."""

OPEN, REQUEST_DATA, REQUEST_END, RESPONSE_HEAD, RESPONSE_DATA, OWN, FRAMES, END, LOST, DECLINED, HANDED, AGAIN, BESIDE = range(13)

Event: TypeAlias = tuple[Any, ...] | list[Any]
"""What was told: its kind, the exchange's number and the rest. A list may still be added to."""

_BODIES: Final = frozenset((REQUEST_DATA, RESPONSE_DATA, FRAMES, HANDED))
"""Events that may have large pieces; what else they hold is no tuple."""


class Tape(Recording):
    """What is told and not yet flushed. Beyond `limit` bytes told and not yet acknowledged those who have told much (`SMALL`) are asked to
    wait, half as much further on everyone is: one large upload, or a keeper that lags for a moment, holds nobody else back. Beyond twice
    the limit nothing more is taken but ends: so much, and one event, is what this process holds at most.
    """

    def __init__(self, limit: int, *, flush: Callable[[], None], wake: Callable[[], None], clock: Callable[[], float]) -> None:
        """`wake` is called when the first event after a flush arrives (flush within milliseconds), `flush` when a batch is full."""
        self.lost = 0
        """Exchanges not recorded, or not to their end, because there was no room or no keeper."""
        self.running = False
        """Whether there is a keeper to read it."""
        self.overfull = False
        """Nothing more is taken, not even from those who were not yet asked to wait: thousands of them could fill any memory."""
        self.clock = clock
        self._limit = limit
        self._flush = flush
        self._wake = wake
        self._events: list[Event] = []
        self._size = 0
        self._unread = 0
        self._heard = 0.0
        self._numbers = count()
        self._told: dict[int, _Teller] = {}
        self._lost: list[Loss] = []
        self._lost_more = 0
        self._declined = 0
        self._beside: list[bytes] = []

    @property
    def unread(self) -> int:
        """Bytes told and not yet acknowledged."""
        return self._unread + self._size

    @property
    def full(self) -> bool:
        """No more room for those who tell much."""
        return self._unread + self._size > self._limit

    def has_room(self, told: int) -> bool:
        """Whether an exchange that has told so many bytes of itself may go on."""
        limit = self._limit if told > SMALL else self._limit * 3 // 2
        return self._unread + self._size <= limit

    def open(self, id: bytes, at: float, now: float, client: Client, upstream: Upstream, head: Head, kept: Kept = "full") -> Told | None:
        """As `Recording.open`."""
        number = next(self._numbers)
        if not self.running or self.overfull or (self.full and self.stalled(now)):
            self.lose(number, id, 0, now)
            return None
        self._told[number] = teller = _Teller(self, number, id)
        who = (client.address, client.session, client.session_source)  # the rest is in the head, and read there
        what = (head.method, head.target, head.version, head.fields, head.framing, head.size)
        self.tell((OPEN, number, id, at, now, who, upstream.name, what, kept), 512 + head.size)
        return teller

    def decline(self) -> None:
        """As `Recording.decline`."""
        self._declined += 1
        if self.running:
            self._wake()

    def take(self, *, last: bool = False) -> list[bytes]:
        """All events told since the last call, as bytes for `Player.play`, in pieces that follow each other; none when there are none.
        Losses are told while there is room, and with `last` in any case.
        """
        events = self._events
        if self._lost and (last or not self.full):
            events.append((LOST, self._lost, self._lost_more))
            self._lost, self._lost_more = [], 0
        if self._declined:
            events.append((DECLINED, self._declined))
            self._declined = 0
        if not events:
            return []
        beside, self._events, self._beside = self._beside, [], []
        if not self._unread:
            self._heard = self.clock()  # the keeper had nothing to read, so its silence until now means nothing
        self._unread += self._size
        self._size = 0
        told = marshal.dumps((events, [len(piece) for piece in beside]), MARSHAL_VERSION)
        return [len(told).to_bytes(4, "little") + told, *beside]

    def acknowledged(self, size: int, now: float) -> None:
        """The keeper has played `size` bytes of events (as counted here)."""
        self._unread -= size
        self._heard = now
        self.overfull = self._unread + self._size > 2 * self._limit
        if self._lost and not self.full:
            self._wake()

    def started(self, now: float) -> None:
        """A (new) keeper reads from now on. What was told to one before is lost with it."""
        self.running = True
        self._events, self._beside, self._size, self._unread, self._heard = [], [], 0, 0, now
        if self._lost:
            self._wake()

    def stopped(self) -> None:
        """The keeper has died: every exchange under way loses its record."""
        self.running = False
        self._events, self._beside, self._size, self._unread, self.overfull = [], [], 0, 0, False
        for teller in list(self._told.values()):
            teller.lose()

    def stalled(self, now: float) -> bool:
        """The keeper has not read for so long that waiting for room makes no sense."""
        return now - self._heard > STALLED

    @property
    def size(self) -> int:
        """Bytes of events, as counted here, that the next `take` hands out."""
        return self._size

    def tell(self, event: Event, size: int) -> bool:
        """Append an event that is counted with `size` bytes. False: the tape is full."""
        if not self._events:
            self._wake()
        self._events.append(event if size < LARGE or event[0] not in _BODIES else (BESIDE, event[1], self._without_large(event)))
        self._size += size
        if self._size > BATCH:
            self._flush()
        held = self._unread + self._size
        if held <= self._limit:
            return True
        self.overfull = held > 2 * self._limit
        return False

    def _without_large(self, event: Event) -> list[Any]:
        """The event with a number in a tuple in place of each large piece."""
        return [[self._set_aside(piece) for piece in part] if type(part) is list else self._set_aside(part) for part in event]

    def _set_aside(self, part: Any) -> Any:
        if type(part) is not bytes or len(part) < LARGE:
            return part
        self._beside.append(part)
        return (len(self._beside) - 1,)

    def ends_with(self, event: list[Any] | None) -> bool:
        """Whether this was told last, and may still be added to."""
        return bool(self._events) and self._events[-1] is event

    def forget(self, number: int) -> None:
        """An exchange tells no more."""
        self._told.pop(number, None)

    def lose(self, number: int, id: bytes, size: int, now: float, why: str = "") -> None:
        """An exchange's record is lost, or its rest: `size` bytes had been told of it."""
        self.lost += 1
        if len(self._lost) < LOST_IDS:
            self._lost.append((number, id, size, why or (NO_ROOM if self.running else NO_KEEPER), now))
        else:
            self._lost_more += 1
        if self.running and not self.full:
            self._wake()


class _Teller(Told):
    """One exchange's hand on the tape."""

    __slots__ = ("_back", "_ended", "_id", "_last", "_number", "_silent", "_size", "_tape", "_there", "_unsent", "_whole", "on_full")

    def __init__(self, tape: Tape, number: int, id: bytes) -> None:
        self.on_full: Callable[[], None] | None = None
        self._tape = tape
        self._number = number
        self._id = id
        self._size = 0
        self._ended = False
        self._silent = False
        self._whole = False
        self._last: list[Any] | None = None  # the last event with a body's bytes: what follows at once is told with it
        self._there: list[bytes] | None = None  # handed to the upstream, and to the client, and not yet told
        self._back: list[bytes] | None = None
        self._unsent: list[bytes] = []  # told and not yet handed on: the upstream is being dialled

    def handed(self, to: Side, pieces: list[bytes]) -> None:
        # Told with what was received, which follows in nearly every case: the same object is then told once
        if to == "client":
            self._back = pieces if self._back is None else self._back + pieces
        else:
            self._there = pieces if self._there is None else self._there + pieces

    def again(self) -> None:
        self._tell_handed()
        self._tell((AGAIN, self._number), EVENT)

    def request_data(self, payload: list[bytes], now: float) -> None:
        pieces, self._there = self._there, None
        if pieces is None:
            self._unsent += payload
            self._last = [REQUEST_DATA, self._number, payload, now, None, False]
            self._tell(self._last, EVENT + _length(payload))
            return
        known = payload
        if self._unsent:
            known, self._unsent = self._unsent + payload, []
        written, size = _written(pieces, known)
        self._last = [REQUEST_DATA, self._number, payload, now, written, False]
        self._tell(self._last, EVENT + _length(payload) + size)

    def request_end(self) -> None:
        if self._there is not None:
            self._tell_handed()
        if self._last is not None and self._tape.ends_with(self._last):
            self._last[5] = True
        else:
            self._tell((REQUEST_END, self._number), EVENT)

    def response_head(self, head: Head, now: float) -> None:
        if self._there is not None:
            self._tell_handed()
        what = (head.status, head.reason, head.version, head.fields, head.framing, head.size)
        self._tell((RESPONSE_HEAD, self._number, what, now), EVENT + head.size)

    def own_response(self, status: int, reason: bytes, headers: Fields, body: bytes) -> None:
        self._tell_handed()
        self._tell((OWN, self._number, status, reason, list(headers), body), EVENT + len(body))

    def response_data(self, payload: list[bytes], now: float) -> None:
        pieces, self._back = self._back, None
        written, size = _written(pieces, payload) if pieces is not None else (None, 0)
        self._last = [RESPONSE_DATA, self._number, payload, now, written]
        self._tell(self._last, EVENT + _length(payload) + size)

    def response_end(self) -> None:
        self._whole = True  # told with the end, which follows at once

    def frames(self, side: Side, data: bytes, now: float) -> None:
        if side == "client":
            pieces, self._there = self._there, None
        else:
            pieces, self._back = self._back, None
        written, size = _written(pieces, [data]) if pieces is not None else (None, 0)
        self._tell((FRAMES, self._number, side, data, now, written), EVENT + len(data) + size)

    def tick(self, now: float) -> None:
        pass  # the keeper has a clock of its own

    def end(self, reason: EndReason, detail: str, now: float) -> None:
        self._tell_handed()
        self._ended = True
        self._tape.forget(self._number)
        what = (self._whole, reason.value, detail, now)
        if self._last is not None and self._last[0] == RESPONSE_DATA and not self._silent and self._tape.ends_with(self._last):
            self._last += what
        else:
            self._tell((END, self._number, *what), EVENT)

    def offer(self, *, last: bool) -> bool:
        if self._silent or self._tape.has_room(self._size):
            return True
        if last and not self._ended:
            self.lose()
        return last

    def give_up(self) -> None:
        self.lose(FAILED)

    def lose(self, why: str = "") -> None:
        """This exchange's record is lost from here on; nothing more is told of it."""
        if not self._silent:
            self._silent = True
            self._tape.forget(self._number)
            self._tape.lose(self._number, self._id, self._size, self._tape.clock(), why)

    def _tell_handed(self) -> None:
        """What was handed on without anything having been received just then."""
        there, back = self._there, self._back
        if there is not None:
            known, self._unsent, self._there = self._unsent, [], None
            written, size = _written(there, known)
            self._tell((HANDED, self._number, "upstream", written), EVENT + size)
        if back is not None:
            self._back = None
            self._tell((HANDED, self._number, "client", back), EVENT + _length(back))

    def _tell(self, event: Event, size: int) -> None:
        if self._silent:
            return
        tape = self._tape
        if tape.overfull and not self._ended:
            self.lose()
            return
        self._size += size
        if tape.tell(event, size) or tape.has_room(self._size):
            return
        if self._ended:
            if self.on_full is not None:
                self.on_full()  # all of it is told; only the client's next request is to wait
        elif self.on_full is None or tape.stalled(tape.clock()):
            self.lose()
        else:
            self.on_full()


def _length(payload: list[bytes]) -> int:
    return len(payload[0]) if len(payload) == 1 else sum(map(len, payload))


Written: TypeAlias = Literal[True] | list[bytes | int] | None
"""How pieces handed on are told: True are those received, the same objects; a number is one of them, counted from 0; None are none."""


def _written(pieces: list[bytes], known: list[bytes]) -> tuple[Written, int]:
    """The pieces as they are told beside the `known` ones, and how many bytes that takes."""
    if len(pieces) == 1 == len(known) and pieces[0] is known[0]:
        return True, 0
    told: list[bytes | int] = []
    at, most, size = 0, len(known), 0
    for piece in pieces:
        if at < most and piece is known[at]:
            told.append(at)
            at += 1
        else:
            told.append(piece)
            size += len(piece)
    return told, size


def _with_large(event: list[Any], beside: list[bytes]) -> list[Any]:
    """The event as it was before `Tape` set its large pieces aside."""
    return [
        [beside[piece[0]] if type(piece) is tuple else piece for piece in part]
        if type(part) is list
        else beside[part[0]]
        if type(part) is tuple
        else part
        for part in event
    ]


class Player:
    """Replays tapes into captures. Belongs to the keeper's main thread; `recorder.put` may block it, which holds back the tape."""

    def __init__(
        self,
        recorder: Recorder,
        limits: CaptureLimits,
        upstreams: dict[str, Upstream],
        lost: Callable[[bytes, int, str, float | None], None],
        declined: Callable[[int], None],
        *,
        most: int = 64 << 20,
    ) -> None:
        """`lost` is called for each exchange whose record had to be given up: id, bytes told, why, and when if not just now;
        `declined` with the number of those whose clients wished not to be recorded.

        `most` bounds the bytes gathered in parts not yet cut, of all exchanges together.
        """
        self._recorder = recorder
        self._limits = limits
        self._upstreams = upstreams
        self._lost = lost
        self._declined = declined
        self._most = most
        self._unweighed = 0
        self._captures: dict[int, Capture] = {}
        self._unsent: dict[int, list[bytes]] = {}

    def know(self, upstreams: dict[str, Upstream]) -> None:
        """What follows on the tape speaks of these upstreams. Others are remembered: exchanges of theirs may still be under way."""
        self._upstreams.update(upstreams)

    def play(self, tape: bytes | memoryview) -> None:
        """Replay what one `Tape.take` gave. Never raises: an exchange that cannot be replayed loses its record, and that is counted."""
        try:
            end = 4 + int.from_bytes(tape[:4], "little")
            events, sizes = marshal.loads(tape[4:end])  # noqa: S302 - written by the process that started this one, over a private socket
        except (ValueError, EOFError, TypeError):
            self._lost(b"", len(tape), "what the relay told could not be read", None)
            return
        self._unweighed += len(tape)
        captures = self._captures
        beside: list[bytes] = []
        for size in sizes:
            beside.append(bytes(tape[end : end + size]))
            end += size
        for event in events:
            kind = event[0]
            if kind == BESIDE:
                event = _with_large(event[2], beside)  # noqa: PLW2901 - as it was told
                kind = event[0]
            if kind == LOST:
                self._give_up(*event[1:])
                continue
            if kind == DECLINED:
                self._declined(event[1])
                continue
            capture = captures.get(event[1])
            try:
                if kind == RESPONSE_DATA and capture is not None:  # most events are a stream's
                    number, payload, written = event[1], event[2], event[4]
                    if written is True:
                        capture.handed("client", payload)
                    elif written is not None:
                        self._handed(capture, number, "client", written, payload)
                    capture.response_data(payload, event[3])
                    if len(event) > 5:
                        self._end(capture, number, *event[5:])
                elif kind == OPEN:
                    self._open(*event[1:])
                elif capture is not None:
                    self._replay(capture, event)
            except Exception as error:  # a bug of ours
                self._captures.pop(event[1], None)
                self._unsent.pop(event[1], None)
                self._lost(event[2] if capture is None else capture.id, 0, _failed(error), None)

    def _replay(self, capture: Capture, event: Event) -> None:
        kind = event[0]
        if kind == REQUEST_DATA:
            _, number, payload, now, written, ended = event
            if written is None:
                self._unsent[number] = self._unsent.get(number, []) + payload
            else:
                self._handed(capture, number, "upstream", written, payload)
            capture.request_data(payload, now)
            if ended:
                capture.request_end()
        elif kind == FRAMES:
            _, number, side, data, now, written = event
            self._handed(capture, number, "upstream" if side == "client" else "client", written, [data])
            capture.frames(side, data, now)
        elif kind == HANDED:
            self._handed(capture, event[1], event[2], event[3], [])
        elif kind == REQUEST_END:
            capture.request_end()
        elif kind == RESPONSE_HEAD:
            capture.response_head(_response(*event[2]), event[3])
        elif kind == OWN:
            capture.own_response(*event[2:])
        elif kind == AGAIN:
            capture.again()
        else:
            self._end(capture, event[1], *event[2:])

    def _end(self, capture: Capture, number: int, whole: bool, reason: str, detail: str, now: float) -> None:
        if whole:
            capture.response_end()
        capture.end(EndReason(reason), detail, now)
        del self._captures[number]
        self._unsent.pop(number, None)

    def _handed(self, capture: Capture, number: int, to: Side, written: Written, payload: list[bytes]) -> None:
        """Give the capture the very objects again that were told once for both sides."""
        known = self._unsent.pop(number, []) + payload if to == "upstream" and self._unsent else payload
        pieces = known if written is True else [known[piece] if isinstance(piece, int) else piece for piece in written or ()]
        capture.handed(to, pieces)

    def tick(self, now: float) -> None:
        """Cut parts that are old enough. About once a second."""
        for number, capture in list(self._captures.items()):
            try:
                capture.tick(now)
            except Exception as error:
                del self._captures[number]
                self._lost(capture.id, 0, _failed(error), None)

    def relieve(self, now: float) -> None:
        """Cut the largest parts early when all of them together hold too much: a thousand exchanges with a part each are a gigabyte."""
        if self._unweighed < self._most // 8:
            return
        self._unweighed = 0
        weight = sum(capture.weight for capture in self._captures.values())
        if weight <= self._most:
            return
        for capture in sorted(self._captures.values(), key=lambda capture: capture.weight, reverse=True):
            weight -= capture.weight
            capture.cut(now)
            if weight <= self._most // 2:
                return

    def cut(self, now: float) -> None:
        """The other process is gone: keep what has been told of unfinished exchanges. Their records stay without an end."""
        for capture in self._captures.values():
            try:
                capture.cut(now)
            except Exception as error:
                self._lost(capture.id, 0, _failed(error), None)
        self._captures.clear()

    def _open(
        self,
        number: int,
        id: bytes,
        at: float,
        now: float,
        who: tuple[str, str | None, str | None],
        upstream: str,
        what: tuple[bytes, bytes, bytes, bytes, Framing, int],
        kept: Kept,
    ) -> None:
        capture = Capture(self._recorder, self._limits, id, at, now, Client(*who), self._upstreams[upstream], kept)
        method, target, version, fields, framing, size = what
        head = Head(fields)
        head.method, head.target, head.version, head.framing, head.size = method, target, version, framing, size
        capture.request_head(head)
        self._captures[number] = capture

    def _give_up(self, lost: list[Loss], more: int) -> None:
        for number, exchange, size, why, when in lost:
            self._captures.pop(number, None)
            self._unsent.pop(number, None)
            self._lost(exchange, size, why, when)
        for nth in range(more):
            self._lost(nth.to_bytes(16, "big"), 0, "more were lost than are told one by one", None)


def _failed(error: Exception) -> str:
    """Its text might quote what passed."""
    return f"recording failed ({type(error).__name__})"


def _response(status: int, reason: bytes, version: bytes, fields: bytes, framing: Framing, size: int) -> Head:
    head = Head(fields)
    head.status, head.reason, head.version, head.framing, head.size = status, reason, version, framing, size
    return head
