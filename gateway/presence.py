"""Whether a peer that owes an acknowledgement is still there. Reads what TCP knows of a socket; opens and closes none.

Keep-alive (see `gateway.dialing`) finds peers that vanished while nothing was to be sent. While something is, TCP asks by sending it
again, and Linux does so for 15 minutes. TCP_USER_TIMEOUT would shorten that, but it also breaks connections to peers that are there and
merely do not read (measured: at a closed window, with all probes answered), which a wire does not.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from typing import Final

__all__ = ["LOOK_EVERY", "PATIENCE", "Presence"]

PATIENCE: Final = 60.0
"""Seconds without any acknowledgement, while one is owed, after which a peer is taken to have vanished."""

LOOK_EVERY: Final = 10.0
"""Seconds between two looks: a look costs a system call for each side of an exchange."""

_INFO: Final = struct.Struct("2xBB52xI")
"""Of struct tcp_info (linux/tcp.h): tcpi_retransmits, tcpi_probes; tcpi_last_ack_recv, in milliseconds."""


class Presence:
    """Which peers are doubted, and since when. For the loop's thread."""

    def __init__(self) -> None:
        self._doubted: dict[asyncio.BaseTransport, float] = {}
        self._next = 0.0

    def due(self, now: float) -> bool:
        """Whether it is time for a look at all connections. Forgets those that were not doubted for long."""
        if sys.platform != "linux" or now < self._next:
            return False
        self._next = now + LOOK_EVERY
        self._doubted = {transport: since for transport, since in self._doubted.items() if not transport.is_closing()}
        return True

    def vanished(self, transport: asyncio.BaseTransport, now: float) -> bool:
        """Whether the peer has acknowledged nothing for `PATIENCE` although something was owed all that time."""
        sock = transport.get_extra_info("socket")
        if sock is None or transport.is_closing() or sock.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        retransmits, probes, since_ack = _INFO.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size))
        if not (retransmits or probes):
            self._doubted.pop(transport, None)
            return False
        doubted = self._doubted.setdefault(transport, now)
        if since_ack / 1000 < now - doubted:  # it has answered since
            self._doubted[transport] = now
            return False
        return now - doubted >= PATIENCE
