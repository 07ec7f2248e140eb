"""The keeper process: replays the relay's tape into captures and writes their records. Started by `gateway.keeper`, ends with it.

One thread here reads the tape, the writer's own thread encodes and appends: neither takes the relay's interpreter lock. When the relay
is killed, the socket ends: what was told is written, then the keeper leaves.
"""

from __future__ import annotations

import contextlib
import gc
import marshal
import select
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from archive.errors import Unwritable
from archive.record import Record, Upstream
from archive.writer import Writer
from gateway.capture import CaptureLimits
from gateway.tape import MARSHAL_VERSION, Player

__all__ = ["FRAME", "Channel", "main"]

FRAME: Final = struct.Struct("<IIB")
"""Before each message: its length, its size as the tape counts it, and what it is."""

TAPE, OPTIONS, CLOSE, READY, FAILED, READ, STATS, CLOSED = range(8)

TICK: Final = 0.5
"""Seconds between two looks at old parts, and between two reports of the writer's counters."""

GARBAGE: Final = (50_000, 20, 100)
"""Thresholds of the cyclic collector (the default is 700, 10, 10), here and in the relay."""

PATIENCE: Final = 1.0
"""Seconds the tape stands still for the writer's queue before a record is dropped and counted: the writer says much earlier when its
disk is stuck, so this is only ever reached by a machine that is too slow."""


class Channel:
    """Messages over a blocking socket, for the keeper's side."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()

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
        data = self._sock.recv(1 << 20)
        if not data:
            return None
        self._buffer += data
        messages = []
        at, view = 0, memoryview(bytes(self._buffer))
        while len(view) - at >= FRAME.size:
            length, size, kind = FRAME.unpack_from(view, at)
            if len(view) - at - FRAME.size < length:
                break
            messages.append((kind, size, view[at + FRAME.size : at + FRAME.size + length]))
            at += FRAME.size + length
        del self._buffer[:at]
        return messages


class _Patient:
    """A Recorder that waits for room, which holds the tape back."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def put(self, record: Record, *, may_wait: bool = False) -> bool:
        deadline = perf_counter() + PATIENCE
        while not self._writer.put(record, may_wait=perf_counter() < deadline):
            time.sleep(0.002)
        return True


def main() -> int:
    """Run on the socket whose descriptor is the only argument, until the other side closes it or says so."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a Ctrl-C is the relay's business: it closes us when it has drained
    gc.freeze()
    gc.set_threshold(*GARBAGE)  # records are freed by reference count; walking thousands of queued ones in search of cycles took a third
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    options = None
    while options is None:
        messages = channel.receive(None)
        if messages is None:
            return 0
        for _, _, data in messages:
            options = marshal.loads(data)  # noqa: S302 - from the process that started this one
    writer = Writer(Path(options["folder"]), **options["writer"])
    try:
        writer.start()
    except Unwritable as error:
        channel.send(FAILED, error.strerror or str(error))
        return 1
    channel.send(READY, options["writer"]["version"])
    upstreams = {name: Upstream(name, url) for name, url in options["upstreams"].items()}
    player = Player(_Patient(writer), CaptureLimits(*options["limits"]), upstreams, writer.lose)
    clean = _keep(channel, player, writer)
    return 0 if clean else 1


def _keep(channel: Channel, player: Player, writer: Writer) -> bool:
    reported = ticked = perf_counter()
    timeout = 10.0
    closing = False
    try:
        while not closing:
            messages = channel.receive(TICK)
            if messages is None:
                break
            read = 0
            for kind, size, data in messages:
                if kind == TAPE:
                    player.play(data)
                    read += size
                elif kind == CLOSE:
                    timeout, closing = marshal.loads(data), True  # noqa: S302 - as above
            now = perf_counter()
            if now - ticked >= TICK:
                player.tick(now)
                ticked = now
            if read:
                channel.send(READ, None, read)
            if now - reported >= TICK:
                channel.send(STATS, _stats(writer))
                reported = now
    except OSError:
        pass  # the relay was killed: write what it had told
    player.cut(perf_counter())
    clean = writer.close(timeout)
    with contextlib.suppress(OSError):
        channel.send(CLOSED, (clean, _stats(writer)))
    return clean


def _stats(writer: Writer) -> dict[str, Any]:
    stats = writer.stats()
    return {name: getattr(stats, name) for name in stats.__slots__}
