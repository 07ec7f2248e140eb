"""The keeper's side of the socket: messages come out as they went in, however they are cut."""

from __future__ import annotations

import marshal
import os
import socket
import threading

import pytest

from gateway.keeping import FRAME, TAPE, Channel


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
