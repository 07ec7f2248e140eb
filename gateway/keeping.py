"""The keeper process: replays the relay's tape into captures and writes their records. Started by `gateway.keeper`, ends with it.

One thread here reads the tape, the writer's own thread encodes and appends: neither takes the relay's interpreter lock. When the relay
is killed, the socket ends: what was told is written, then the keeper leaves. Nothing it says quotes what it was told.
"""

from __future__ import annotations

import contextlib
import logging
import marshal
import select
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Final

from archive.errors import Unwritable
from archive.record import Record, Upstream
from archive.writer import Writer
from gateway import logs, memory
from gateway.capture import CaptureLimits
from gateway.tape import MARSHAL_VERSION, Player

__all__ = ["FRAME", "Channel", "main"]

log = logging.getLogger("verbatim.keeping")

FRAME: Final = struct.Struct("<IIB")
"""Before each message: its length, its size as the tape counts it, and what it is."""

TAPE, OPTIONS, CLOSE, READY, FAILED, READ, STATS, CLOSED, CHANGE = range(9)

TICK: Final = 0.5
"""Seconds between two looks at old parts, and between two reports of the writer's counters."""

IDLE: Final = 0.1
"""Share of its time in which the tape's reader finds nothing to read, below which this process lacks processor time. It then stores records
as they are: compressing them is a tenth of its work for small ones."""

AHEAD: Final = 64
"""Records, of a few KB each when there are so many: about half of a processor's own cache."""

PAUSE: Final = 0.02

PATIENCE: Final = 1.0
"""Seconds the tape stands still for the writer's queue before a record is dropped and counted: the writer says much earlier when its
disk is stuck, so this is only ever reached by a machine that is too slow."""


class Channel:
    """Messages over a blocking socket, for the keeper's side. A large one is read straight into its own place: no copy but the kernel's."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray(1 << 20)
        self._at = 0  # where the first message not yet handed out begins
        self._filled = 0
        self._wanted = 0  # how long that one is, as far as known

    def send(self, kind: int, value: Any, size: int = 0) -> None:
        """Send one message; blocks. Raises OSError when the other side is gone."""
        data = marshal.dumps(value, MARSHAL_VERSION)
        self._sock.sendall(FRAME.pack(len(data), size, kind) + data)

    def receive(self, timeout: float | None) -> list[tuple[int, int, memoryview]] | None:
        """All messages here after at most `timeout` seconds: kind, size and bytes. None: the other side has closed.

        The views are good until the next call.
        """
        if not select.select([self._sock], [], [], timeout)[0]:
            return []
        self._make_room()
        buffer = self._buffer
        count = self._sock.recv_into(memoryview(buffer)[self._filled :])
        if not count:
            return None
        self._filled += count
        self._wanted = 0
        messages = []
        while self._filled - self._at >= FRAME.size:
            length, size, kind = FRAME.unpack_from(buffer, self._at)
            begin, end = self._at + FRAME.size, self._at + FRAME.size + length
            if end > self._filled:
                self._wanted = FRAME.size + length
                break
            messages.append((kind, size, memoryview(buffer)[begin:end]))
            self._at = end
        return messages

    def _make_room(self) -> None:
        """Move what was not handed out to the front; into a larger buffer when the message that has begun needs one."""
        rest = bytes(memoryview(self._buffer)[self._at : self._filled])
        if self._wanted > len(self._buffer):
            self._buffer = bytearray(self._wanted)
        self._buffer[: len(rest)] = rest
        self._at, self._filled = 0, len(rest)


class _Patient:
    """A Recorder that waits for room, which holds the tape back."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def put(self, record: Record, *, may_wait: bool = False) -> bool:
        deadline = perf_counter() + PATIENCE
        while not self._writer.put(record, may_wait=perf_counter() < deadline):
            time.sleep(0.002)
        return True


class _Pace:
    """Keeps the tape's reader close to the writer: records encoded while they are still in the processor's cache cost a fifth less, and two
    threads that take turns cost less than two that fight for the interpreter lock."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._stuck: int | None = None

    def keep(self) -> None:
        """Wait for the writer when it is more than AHEAD records behind, PAUSE seconds at most. One that makes no headway meanwhile, on
        a disk that hangs, is not waited for again before it has written something: its queue is there to be filled."""
        writer = self._writer
        if writer.ahead <= AHEAD:
            self._stuck = None
        elif self._stuck is None or self._stuck != writer.stats().written:
            self._stuck = None if writer.stay_close(AHEAD, PAUSE) else writer.stats().written


def main() -> int:
    """Run on the socket whose descriptor is the only argument, until the other side closes it or says so."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a Ctrl-C is the relay's business: it closes us when it has drained
    memory.forbid_core_dumps()  # whoever started us: the tape holds credentials
    sys.excepthook = _stumbled
    threading.excepthook = lambda stumble: _stumbled(stumble.exc_type, stumble.exc_value, stumble.exc_traceback)
    memory.tune()
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    options = None
    while options is None:
        messages = channel.receive(None)
        if messages is None:
            return 0
        for _, _, data in messages:
            options = marshal.loads(data)  # noqa: S302 - from the process that started this one
    logs.configure(options["log_level"])
    try:
        return _run(channel, options)
    finally:
        logs.stop()


def _run(channel: Channel, options: dict[str, Any]) -> int:
    writer = Writer(Path(options["folder"]), **options["writer"])
    try:
        writer.start()
    except Unwritable as error:
        channel.send(FAILED, error.strerror or str(error))
        return 1
    with contextlib.suppress(OSError):  # who started us is gone already: then there is nothing to read, either
        channel.send(READY, options["writer"]["version"])
    upstreams = {name: Upstream(name, url) for name, url in options["upstreams"].items()}

    def lost(id: bytes, size: int, why: str, when: float | None) -> None:
        writer.lose(id, size, why, 0.0 if when is None else max(0.0, perf_counter() - when))

    most = options["writer"]["queue_bytes"]
    player = Player(_Patient(writer), CaptureLimits(*options["limits"]), upstreams, lost, writer.decline, most=most)
    clean = _keep(channel, player, writer)
    return 0 if clean else 1


def _keep(channel: Channel, player: Player, writer: Writer) -> bool:
    reported = ticked = perf_counter()
    pace = _Pace(writer)
    timeout = 10.0
    idle = 0.0
    closing = False
    while not closing:
        began = perf_counter()
        try:
            messages = channel.receive(TICK)
        except OSError:  # the relay was killed; this comes only after all it had sent (unix(7))
            break
        if messages is None:
            break
        idle += perf_counter() - began
        read = 0
        for kind, size, data in messages:
            if kind == TAPE:
                player.play(data)
                player.relieve(perf_counter())
                read += size
                pace.keep()
            elif kind == CHANGE:
                names, level = marshal.loads(data)  # noqa: S302 - as above
                player.know({name: Upstream(name, url) for name, url in names.items()})
                logs.set_level(level)
            elif kind == CLOSE:
                timeout, closing = marshal.loads(data), True  # noqa: S302 - as above
        now = perf_counter()
        if now - ticked >= TICK:
            player.tick(now)
            writer.hurry(idle < IDLE * (now - ticked))
            idle, ticked = 0.0, now
        with contextlib.suppress(OSError):  # nobody is there to hear it: what was told before is still to be read
            if read:
                channel.send(READ, None, read)
            if now - reported >= TICK:
                channel.send(STATS, _stats(writer))
                reported = now
    player.cut(perf_counter())
    clean = writer.close(timeout)
    with contextlib.suppress(OSError):
        channel.send(CLOSED, (clean, _stats(writer)))
    return clean


def _stumbled(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    """In place of a traceback, whose text may quote what was told: what kind of error, and where."""
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    place = f"{Path(traceback.tb_frame.f_code.co_filename).name}:{traceback.tb_lineno}" if traceback is not None else "?"
    log.error("the recording process failed: %s at %s", kind.__name__, place)


def _stats(writer: Writer) -> dict[str, Any]:
    stats = writer.stats()
    return {name: getattr(stats, name) for name in stats.__slots__}
