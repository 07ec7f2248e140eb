"""The keeper's side of the socket: messages come out as they went in, however they are cut."""

from __future__ import annotations

import marshal
import os
import socket
import threading
from typing import Any, cast

import pytest

from archive.writer import WriterStats
from gateway import keeping
from gateway.keeping import AHEAD, FRAME, TAPE, Channel, _Pace


@pytest.mark.parametrize("piece", [1, 7, 1000, 1 << 22])
def test_messages_come_out_whole_however_they_are_cut(piece: int) -> None:
    bodies = [b"", os.urandom(10), os.urandom(3_000_000 if piece > 1 else 3000), b"x" * 100, os.urandom(1_200_000 if piece > 1 else 1200)]
    stream = b"".join(FRAME.pack(len(data), number, TAPE) + data for number, data in enumerate(bodies))
    ours, theirs = socket.socketpair()

    def send() -> None:
        with theirs:
            for at in range(0, len(stream), piece):
                theirs.sendall(stream[at : at + piece])

    thread = threading.Thread(target=send)
    thread.start()
    got: list[tuple[int, int, bytes]] = []
    with ours:
        channel = Channel(ours)
        while (messages := channel.receive(10)) is not None:
            got += [(kind, size, bytes(data)) for kind, size, data in messages]
    thread.join()
    assert got == [(TAPE, number, data) for number, data in enumerate(bodies)]


def test_nothing_to_read_is_no_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(ours)
        assert channel.receive(0) == []
        Channel(theirs).send(3, ("ready",), 5)
        (message,) = channel.receive(5) or []
        assert (message[0], message[1], marshal.loads(message[2])) == (3, 5, ("ready",))


def test_what_a_killed_relay_had_sent_is_read_to_its_end() -> None:
    ours, theirs = socket.socketpair()
    played: list[bytes] = []

    class Playing:
        """While it plays the first batch the relay sends another and is killed."""

        def play(self, tape: memoryview) -> None:
            played.append(bytes(tape))
            if len(played) == 1:
                theirs.sendall(FRAME.pack(6, 6, TAPE) + b"second")
                theirs.close()

        def relieve(self, now: float) -> None: ...
        def tick(self, now: float) -> None: ...
        def cut(self, now: float) -> None: ...

    class Closing:
        ahead = 0

        def hurry(self, hurried: bool) -> None: ...

        def close(self, timeout: float) -> bool:
            return True

        def stats(self) -> WriterStats:
            return WriterStats(0, 0, 0, 0, 0, 0, 0, False, None, 0, "")

    with ours:
        theirs.sendall(FRAME.pack(5, 5, TAPE) + b"first")
        assert keeping._keep(Channel(ours), cast(Any, Playing()), cast(Any, Closing()))
    assert played == [b"first", b"second"]


def test_an_error_of_the_recording_process_is_told_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="sk-canary") as raised:
        int("sk-canary-1f2e")
    keeping._stumbled(raised.type, raised.value, raised.tb)
    assert [record.getMessage().split(" at ")[0] for record in caplog.records] == ["the recording process failed: ValueError"]
    assert "sk-canary" not in caplog.text
    assert caplog.records[0].exc_info is None


class Behind:
    """A writer with so many records ahead of it, of which it writes `each` while it is waited for."""

    def __init__(self, ahead: int, each: int) -> None:
        self.ahead, self.each, self.written, self.waits = ahead, each, 0, 0

    def stats(self) -> Behind:
        return self

    def stay_close(self, records: int, seconds: float) -> bool:
        self.waits += 1
        self.ahead, self.written = self.ahead - self.each, self.written + self.each
        return self.each > 0


def test_the_tape_waits_for_a_writer_that_works_and_not_for_one_that_hangs() -> None:
    near = Behind(AHEAD, 0)
    _Pace(near).keep()  # type: ignore[arg-type]
    assert near.waits == 0
    working = Behind(AHEAD + 100, 10)
    pace = _Pace(working)  # type: ignore[arg-type]
    for _ in range(12):
        pace.keep()
    assert (working.waits, working.ahead) == (10, AHEAD)
    hanging = Behind(AHEAD + 1, 0)
    pace = _Pace(hanging)  # type: ignore[arg-type]
    for _ in range(5):
        pace.keep()
    assert hanging.waits == 1
    hanging.written += 1  # it goes on
    pace.keep()
    assert hanging.waits == 2
    pace.keep()
    assert hanging.waits == 2
