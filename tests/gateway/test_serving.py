"""Sockets that several processes listen on, and those that systemd hands over."""

from __future__ import annotations

import contextlib
import os
import socket
import sys

import pytest

from gateway.serving import activated, listen, siblings
from gateway.settings import SettingsError


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel does not spread connections")
def test_siblings_share_a_port_that_nobody_else_gets() -> None:
    first = listen("127.0.0.1", 0, "port", shared=True)
    found = siblings(first, 3)
    port = first.getsockname()[1]
    try:
        assert [one.getsockname() for one in found] == [("127.0.0.1", port)] * 3
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(120)]
        shares = []
        for one in found:
            one.setblocking(False)
            shares.append(0)
            with contextlib.suppress(BlockingIOError):
                while True:
                    one.accept()[0].close()
                    shares[-1] += 1
        assert sum(shares) == 120
        assert min(shares) >= 12  # 40 by right; so few come by chance once in 10^9 runs
        for shared in (False, True):
            with pytest.raises(SettingsError, match="already in use"):
                listen("127.0.0.1", port, "port", shared=shared)
        for client in clients:
            client.close()
    finally:
        for one in found:
            one.close()


def test_who_is_alone_shares_with_nobody() -> None:
    with listen("127.0.0.1", 0, "port") as first:
        assert siblings(first, 1) == [first]
        assert not first.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)


def test_sockets_of_systemds_are_taken_only_where_they_are_meant_for_us() -> None:
    ours = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b", "PATH": "/bin"}
    with pytest.raises(SettingsError, match="hands over 2 sockets"):
        activated(ours)
    assert ours == {"PATH": "/bin"}
    assert activated({"LISTEN_PID": str(os.getppid()), "LISTEN_FDS": "1"}) is None
    assert activated({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"}) is None
    assert activated({}) is None
