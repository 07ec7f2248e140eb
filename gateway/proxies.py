"""Outbound proxies: which one a URL takes by the environment, and what is said to one to be let through. No sockets.

Talking to a proxy is a generator: it yields bytes to send and is sent the bytes that came, until it returns; ProxyRefusedError says why
not. The caller does the reading and writing, and afterwards the connection is as if the upstream had been dialled.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Generator, Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote, urlsplit

__all__ = ["ProxyRefusedError", "Talk", "environment_proxy", "is_loopback", "talk"]

Talk = Generator[bytes, bytes, None]

LOOPBACK_NAMES: Final = frozenset({"localhost", "localhost.localdomain"})

MOST_HEAD: Final = 16 << 10
"""Bytes of an answer to CONNECT that are read: proxies put pages of error text after it, not into it."""

# RFC 1928 section 6
_SOCKS_REFUSALS: Final = {
    1: "General SOCKS server failure",
    2: "Connection not allowed by ruleset",
    3: "Network unreachable",
    4: "Host unreachable",
    5: "Connection refused",
    6: "TTL expired",
    7: "Command not supported",
    8: "Address type not supported",
}


class ProxyRefusedError(Exception):
    """The proxy does not let us through, or is none. The message is for the client, and holds no password."""


# Which


def environment_proxy(env: Mapping[str, str], scheme: str, host: str, port: int) -> tuple[str, str] | None:
    """The proxy's URL for an upstream and the variable that names it, as curl and httpx read them; None: there is none.

    `https_proxy` or `http_proxy` by the upstream's scheme, else `all_proxy`; lower case goes before upper. `no_proxy` lists hosts that
    take none. A URL without scheme is an http proxy's. Upstreams on this machine never take one.
    """
    if is_loopback(host) or _excepted(env.get("no_proxy") or env.get("NO_PROXY") or "", host, port):
        return None
    for name in (f"{scheme}_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            value = env.get(variable, "").strip()
            if variable == "HTTP_PROXY" and "REQUEST_METHOD" in env:
                continue  # under CGI it is a client's header (CVE-2016-5385)
            if value:
                return (value if "://" in value else f"http://{value}"), variable
    return None


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine by its name alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().removesuffix(".") in LOOPBACK_NAMES or host.lower().removesuffix(".").endswith(".localhost")  # RFC 6761


def _excepted(no_proxy: str, host: str, port: int) -> bool:
    """Whether NO_PROXY lists the host: `*`, names with all below them, `name:port`, addresses, and networks such as 10.0.0.0/8."""
    host = host.lower().removesuffix(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    for entry in no_proxy.lower().replace(",", " ").split():
        name, _, wanted = entry.rpartition(":") if entry.count(":") == 1 or entry.startswith("[") else (entry, "", "")
        if wanted.endswith("]"):  # [::1], without a port
            name, wanted = entry, ""
        if wanted and wanted != str(port):
            continue
        name = name.strip("[]").removeprefix("*").removeprefix(".").removesuffix(".")
        if entry == "*" or (name and (host == name or (address is None and host.endswith("." + name)))):
            return True
        if address is not None and name:
            try:
                if address in ipaddress.ip_network(name, strict=False):
                    return True
            except (ValueError, TypeError):  # a name, or the other kind of address
                continue
    return False


# How


def talk(proxy: str, host: str, port: int) -> Talk:
    """What to say to the proxy at the URL `proxy` to be let through to `host`, which it looks up itself."""
    parts = urlsplit(proxy)
    login = (unquote(parts.username).encode(), unquote(parts.password or "").encode()) if parts.username is not None else None
    return _socks5(host, port, login) if parts.scheme.startswith("socks5") else _connect(host, port, login)


def _connect(host: str, port: int, login: tuple[bytes, bytes] | None) -> Talk:
    """HTTP CONNECT (RFC 9110 section 9.3.6)."""
    authority = b"[%b]:%d" % (host.encode(), port) if ":" in host else b"%b:%d" % (host.encode(), port)
    lines = [b"CONNECT %b HTTP/1.1" % authority, b"Host: " + authority]
    if login is not None:
        lines.append(b"Proxy-Authorization: Basic " + base64.b64encode(b"%b:%b" % login))
    said, out = bytearray(), b"\r\n".join([*lines, b"", b""])
    while (end := said.find(b"\r\n\r\n")) < 0:
        if len(said) > MOST_HEAD:
            raise ProxyRefusedError("its answer is too long")
        said += yield out
        out = b""
    start = bytes(said[: said.find(b"\r\n")])
    if not start.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")) or not start[9:12].isdigit() or start[12:13] not in (b"", b" "):
        raise ProxyRefusedError("it cannot be reached, or speaks another protocol")
    status = int(start[9:12])
    if not 200 <= status < 300:
        phrase = HTTPStatus(status).phrase if status in frozenset(HTTPStatus) else ""
        raise ProxyRefusedError(f"{status} {phrase}".rstrip())
    if len(said) > end + 4:
        raise ProxyRefusedError("it speaks before the upstream was asked")


def _socks5(host: str, port: int, login: tuple[bytes, bytes] | None) -> Talk:
    """RFC 1928, with RFC 1929 where there is a password."""
    said = bytearray()
    version, method = yield from _take(said, 2, b"\x05\x02\x00\x02" if login else b"\x05\x01\x00")
    if version != 5:
        raise ProxyRefusedError("it cannot be reached, or speaks another protocol")
    if method == 2 and login:
        name, password = login
        if not (0 < len(name) < 256 and 0 < len(password) < 256):
            raise ProxyRefusedError("SOCKS5 takes a user name and password of 1 to 255 bytes")
        _, failed = yield from _take(said, 2, b"\x01%c%b%c%b" % (len(name), name, len(password), password))
        if failed:
            raise ProxyRefusedError("it refuses the user name or password")
    elif method != 0:
        raise ProxyRefusedError("it asks for a user name and password" if not login else "it takes no user name and password")
    try:
        address = ipaddress.ip_address(host)
        where = bytes((1 if address.version == 4 else 4,)) + address.packed
    except ValueError:
        where = b"\x03%c%b" % (len(host), host.encode())
    version, refused, _, kind = yield from _take(said, 4, b"\x05\x01\x00" + where + port.to_bytes(2))
    if version != 5 or kind not in (1, 3, 4):
        raise ProxyRefusedError("it cannot be reached, or speaks another protocol")
    if refused:
        raise ProxyRefusedError(_SOCKS_REFUSALS.get(refused, f"it refuses with code {refused}"))
    size = (yield from _take(said, 1))[0] if kind == 3 else 4 if kind == 1 else 16
    yield from _take(said, size + 2)
    if said:
        raise ProxyRefusedError("it speaks before the upstream was asked")


def _take(said: bytearray, count: int, out: bytes = b"") -> Generator[bytes, bytes, bytes]:
    """Send `out`; the next `count` bytes."""
    while len(said) < count or out:
        said += yield out
        out = b""
    taken = bytes(said[:count])
    del said[:count]
    return taken
