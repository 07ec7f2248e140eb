"""Whether a client that has finished sending still waits for its answer. Asks the kernel; waits for nothing, knows no HTTP.

A FIN comes from shutdown(SHUT_WR), after which a client reads on, and from close(), after which nobody does, and TCP does not tell them
apart: a keep-alive probe is acknowledged by both (Linux keeps a closed socket's FIN_WAIT2 for a minute), only data is answered with RST.
Where the client runs on this machine its kernel is ours, and knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
import sys
from typing import Final

__all__ = ["broken", "finished", "still_held"]

SOCK_DIAG_BY_FAMILY: Final = 20
DIAG_SHUTDOWN: Final = 8
RCV_SHUTDOWN: Final = 1
NO_COOKIE: Final = 0xFFFFFFFF
"""linux/sock_diag.h, linux/inet_diag.h, net/sock.h (sock_diag(7))."""

_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_REQUEST: Final = struct.Struct("=BBBxI")  # inet_diag_req_v2: family, protocol, extensions, states
_SOCKET: Final = struct.Struct("!HH16s16s")  # inet_diag_sockid: the ports and addresses, then interface and cookie
_MESSAGE: Final = struct.Struct("=BBBB48sIIIII")  # inet_diag_msg: family, state, timer, retransmits, id; expires, queues, uid, inode
_ATTRIBUTE: Final = struct.Struct("=HH")
_ANY: Final = struct.pack("=III", 0, NO_COOKIE, NO_COOKIE)


def still_held(transport: asyncio.Transport) -> bool:
    """Whether the client's own socket is on this machine, belongs to a process, and is open for reading: about 30 us.

    False says that nobody there reads any more, or that it cannot be known: a client on another machine or behind another network
    namespace, a kernel that does not answer (other than Linux, some sandboxes).
    """
    if not sys.platform.startswith("linux"):
        return False
    client, here = _address(transport.get_extra_info("peername")), _address(transport.get_extra_info("sockname"))
    if client is None or here is None:
        return False
    try:
        return _reads(_ask(client, here))
    except (OSError, struct.error):
        return False


def broken(transport: asyncio.Transport) -> bool:
    """Whether the connection was reset, though nobody reads from it just now."""
    return bool(_poll(transport, 0) & (select.POLLERR | select.POLLHUP))


def finished(transport: asyncio.Transport) -> bool:
    """Whether the peer has finished sending or broken the connection, though nobody reads from it just now."""
    return bool(_poll(transport, getattr(select, "POLLRDHUP", 0)))  # errors and hang-ups are always told


def _poll(transport: asyncio.Transport, events: int) -> int:
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), events)
    found = poll.poll(0)
    return found[0][1] if found else 0


def _address(name: object) -> tuple[int, bytes, int] | None:
    """Family, packed address and port; IPv4 through an IPv6 socket as what it is."""
    if not isinstance(name, tuple) or len(name) < 2:
        return None
    host, port = str(name[0]).partition("%")[0].removeprefix("::ffff:"), int(name[1])
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.suppress(OSError):
        return family, socket.inet_pton(family, host), port
    return None


def _ask(client: tuple[int, bytes, int], here: tuple[int, bytes, int]) -> bytes:
    """The kernel's answer about the socket whose own end is `client` and whose far end is `here`. Raises OSError."""
    family, address, port = client
    wanted = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (DIAG_SHUTDOWN - 1), NO_COOKIE) + _SOCKET.pack(port, here[2], address, here[1])
    message = _HEADER.pack(_HEADER.size + len(wanted) + len(_ANY), SOCK_DIAG_BY_FAMILY, 1, 1, 0) + wanted + _ANY
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as kernel:  # NETLINK_SOCK_DIAG
        kernel.setblocking(False)  # the answer is there when send() returns
        kernel.send(message)
        return kernel.recv(4096)


def _reads(answer: bytes) -> bool:
    length, kind, _, _, _ = _HEADER.unpack_from(answer)
    if kind != SOCK_DIAG_BY_FAMILY:  # an error: there is no such socket here
        return False
    inode = _MESSAGE.unpack_from(answer, _HEADER.size)[-1]
    at, shut = _HEADER.size + _MESSAGE.size, 0
    while at + _ATTRIBUTE.size <= length:
        size, name = _ATTRIBUTE.unpack_from(answer, at)
        if name == DIAG_SHUTDOWN:
            shut = answer[at + _ATTRIBUTE.size]
        at += max((size + 3) & ~3, _ATTRIBUTE.size)
    return bool(inode) and not shut & RCV_SHUTDOWN  # without an inode no process has it any more
