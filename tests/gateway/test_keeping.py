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
from gateway.keeping import AHEAD, FRAME, PAUSES, TAPE, Channel, _Pace


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
    """A writer with so many records queued, taking `each` of them between two looks."""

    def __init__(self, queued: int, each: int) -> None:
        self.queued, self.each, self.looks = queued, each, 0

    def stats(self) -> Behind:
        self.looks += 1
        self.queued = max(0, self.queued - self.each)
        return self


def test_the_tape_waits_for_a_writer_that_works_and_not_for_one_that_hangs() -> None:
    near = Behind(AHEAD, 0)
    _Pace(near).keep()  # type: ignore[arg-type]
    assert near.looks == 1
    working = Behind(AHEAD + 100, 30)
    _Pace(working).keep()  # type: ignore[arg-type]
    assert working.looks == 4
    hanging = Behind(AHEAD + 1, 0)
    pace = _Pace(hanging)  # type: ignore[arg-type]
    pace.keep()
    assert hanging.looks == PAUSES + 1
    pace.keep()
    assert hanging.looks == PAUSES + 2  # looked at, not waited for
    hanging.queued = 0
    pace.keep()
    hanging.queued = AHEAD + 1
    pace.keep()
    assert hanging.looks == 2 * PAUSES + 4
