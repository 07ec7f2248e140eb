"""What the kernel knows of a connection's other end."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from gateway import peer

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")


class Transport:
    """As much of a transport as is asked."""

    def __init__(self, sock: socket.socket, **instead: Any) -> None:
        self._told = {"socket": sock, "peername": sock.getpeername(), "sockname": sock.getsockname(), **instead}

    def get_extra_info(self, name: str) -> Any:
        return self._told[name]


def connected(family: int, address: str, via: str) -> tuple[socket.socket, socket.socket]:
    """A client's socket and ours."""
    with socket.socket(family) as listener:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((address, 0))
        listener.listen()
        client = socket.create_connection((via, listener.getsockname()[1]))
        return client, listener.accept()[0]


@pytest.fixture(params=[("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")], ids=["IPv4", "IPv6", "IPv4 in IPv6"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, Any]]:
    """A client's socket, and the transport of the connection to it."""
    address, via = request.param
    client, ours = connected(socket.AF_INET6 if ":" in address else socket.AF_INET, address, via)
    yield client, Transport(ours)
    client.close()
    ours.close()


def test_a_client_that_only_finished_sending_is_held(pair: tuple[socket.socket, Any]) -> None:
    client, transport = pair
    assert peer.still_held(transport)
    client.shutdown(socket.SHUT_WR)
    assert peer.still_held(transport)
    assert peer.finished(transport)
    assert not peer.broken(transport)


def test_a_client_that_closed_is_not(pair: tuple[socket.socket, Any]) -> None:
    client, transport = pair
    client.close()
    assert not peer.still_held(transport)


def test_a_client_that_reads_no_more_is_not(pair: tuple[socket.socket, Any]) -> None:
    client, transport = pair
    client.shutdown(socket.SHUT_RDWR)
    assert not peer.still_held(transport)


def test_a_reset_connection_is_broken(pair: tuple[socket.socket, Any]) -> None:
    client, transport = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert peer.broken(transport)
    assert not peer.still_held(transport)


@pytest.mark.parametrize("name", [("192.0.2.1", 40000), ("no address", 1), "/run/socket", None, ("127.0.0.1",)])
def test_of_a_client_elsewhere_nothing_is_known(name: Any) -> None:
    client, ours = connected(socket.AF_INET, "127.0.0.1", "127.0.0.1")
    transport: Any = Transport(ours, peername=name)
    assert not peer.still_held(transport)
    client.close()
    ours.close()


def test_a_kernel_that_does_not_answer_knows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    client, ours = connected(socket.AF_INET, "127.0.0.1", "127.0.0.1")
    transport: Any = Transport(ours)
    assert peer.still_held(transport)

    def refuse(*_: object) -> bytes:
        raise OSError("no netlink in this sandbox")

    monkeypatch.setattr(peer, "_ask", refuse)
    assert not peer.still_held(transport)
    monkeypatch.setattr(peer, "_ask", lambda *_: b"short")
    assert not peer.still_held(transport)
    client.close()
    ours.close()
