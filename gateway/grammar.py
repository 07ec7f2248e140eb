"""The grammar of HTTP/1.1 heads (RFC 9112): the bytes of one whole head in, a `Head` out, or a refusal. No connection, no body, no routing.

One pass takes every byte that is text out of the head: what remains must be line ends and nothing else. One regular expression then
splits all field lines; a line that is none has no name. Both run in C, and take nothing that llhttp refuses but methods (see the tests).
"""

from __future__ import annotations

import re
from typing import Final, Literal, NoReturn, TypeAlias

from gateway.control import PREFIX

__all__ = ["CONTROL", "MAX_LENGTH", "Framing", "Head", "ProtocolError", "parse_request", "parse_response"]

Framing: TypeAlias = Literal["none", "length", "chunked", "close"]
"""How a message's end is known (RFC 9112 section 6.3): no body, Content-Length, chunked, or the connection's end."""

MAX_LENGTH: Final = 2**63 - 1
"""Largest Content-Length taken. What does not fit a signed 64-bit integer is read differently by different peers."""

CONTROL: Final = bytes(b for b in range(256) if (b < 32 and b not in b"\t\r\n") or b == 127)
"""Bytes that have no business in a head beside its line ends (RFC 9110 section 5.5)."""

_TEXT: Final = bytes(b for b in range(256) if b not in CONTROL and b not in b"\r\n")
_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_FIELDS: Final = re.compile(rb"(?:(" + _TOKEN + rb"++):[ \t]*+([^\r]*+)|[^\r]*+)\r\n").findall
"""Names and values, line by line; a line that is none gives an empty name. Sound only with the counts in `_fields`."""

_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Z]++) ([\x21-\x7e]++) (HTTP/1\.[01])\r\n").match
"""Any token is a method but those with small letters: a server that reads `head` as HEAD would answer without the body we wait for."""

_STATUS_LINE: Final = re.compile(rb"(HTTP/1\.[01]) ([1-5][0-9][0-9])(?: ([^\r]*+))?\r\n").match
_SOME_VERSION: Final = re.compile(rb"[^ ]+ [^ ]+ HTTP/[0-9]\.[0-9]\r\n").match
_ABSOLUTE: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*://[^/?#@\\]+(?:[/?#]|$)").match
"""A target in absolute-form. Userinfo is refused, as RFC 9110 section 4.2.4 advises: it would be a credential in a log line."""

_HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z\-._~!$&'()*+;=]+)(?::[0-9]{0,5})?").fullmatch
"""RFC 3986 section 3.2.2, without escapes and commas, which no name on the network has. Empty is refused (RFC 9110 section 4.2.1)."""

_NOTED: Final = frozenset(
    b"connection content-length expect host keep-alive origin proxy-authenticate proxy-authorization proxy-connection sec-fetch-site te "
    b"trailer transfer-encoding upgrade".split()
)
_BROWSERS: Final = frozenset((b"origin", b"sec-fetch-site"))
_PREFIX_LINE: Final = re.compile(rb"\r\n" + PREFIX, re.IGNORECASE).search
_CODINGS: Final = frozenset((b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress"))


class ProtocolError(Exception):
    """The peer's bytes are no acceptable HTTP/1.1. `status` is what a server would answer to them."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Head:
    """A message's head. `headers` are raw names and values in order; `names` the same names in lower case, index for index."""

    __slots__ = (
        "browser",
        "connection",
        "expect",
        "framing",
        "headers",
        "keep_alive",
        "length",
        "method",
        "names",
        "noted",
        "reason",
        "reserved",
        "size",
        "status",
        "target",
        "upgrade",
        "version",
    )

    def __init__(self, headers: list[tuple[bytes, bytes]], names: list[bytes], noted: list[int] | None = None) -> None:
        self.headers = headers
        self.names = names
        self.version: bytes = b"HTTP/1.1"
        self.method: bytes = b""
        self.target: bytes = b""
        self.status: int = 0
        self.reason: bytes = b""
        self.framing: Framing = "none"
        self.length: int = 0
        self.keep_alive: bool = True
        self.connection: list[bytes] = []
        """Tokens of all Connection lines, lower case."""
        self.expect: bytes = b""
        self.size: int = 0
        """Bytes of the head on the wire."""
        self.upgrade: bytes = b""
        """The Upgrade header's value, lower case, where Connection names it and the message may be a handshake; else empty."""
        self.noted = noted if noted is not None else _noted(names)
        """Indexes of the fields that mean something to this hop: framing, Host, hop-by-hop and reserved names. All others just cross."""
        self.browser: bool = False
        """Whether it has fields that browsers send of themselves: `gateway.guard` looks at them."""
        self.reserved: bool = False
        """Whether a request has names that begin with `PREFIX`."""


def _noted(names: list[bytes]) -> list[int]:
    return [index for index, name in enumerate(names) if name in _NOTED or name.startswith(PREFIX)]


def parse_request(block: bytes, most_fields: int) -> Head:
    """A request's head, from its start line to its blank line. Raises ProtocolError with 400, 405, 417, 431, 501 or 505."""
    start = _REQUEST_LINE(block)
    if start is None:
        _refuse_request_line(block)
    head = _fields(block, start.end(), most_fields)
    if _PREFIX_LINE(block):
        head.reserved, head.noted = True, _noted(head.names)
    head.method, head.target, head.version = method, target, version = start.groups()
    if target[0] != 47:
        _check_target(method, target)
    if method == b"CONNECT" or method == b"TRACE":
        raise ProtocolError(405, f"{method.decode()} is refused")  # TRACE would echo credentials (RFC 9110 section 9.3.8)
    lengths, codings, hosts = _survey(head)
    if len(hosts) != 1 and (hosts or version == b"HTTP/1.1"):
        raise ProtocolError(400, "exactly one Host header is needed (RFC 9112 section 3.2)")
    if hosts and not _HOST(hosts[0]):
        raise ProtocolError(400, "invalid Host header")
    if codings:
        if lengths or version == b"HTTP/1.0":
            raise ProtocolError(400, "ambiguous framing: Transfer-Encoding with Content-Length or HTTP/1.0")
        if codings != [b"chunked"]:
            understood = codings[-1] == b"chunked" and _CODINGS.issuperset(codings[:-1])
            raise ProtocolError(501 if understood and len(codings) > 1 else 400, "only the transfer coding chunked is understood")
        head.framing = "chunked"
    elif lengths:
        head.framing, head.length = "length", _length(lengths, 400)
    if head.expect and head.expect.lower() != b"100-continue":
        raise ProtocolError(417, "unknown expectation")
    if head.upgrade and (method != b"GET" or version != b"HTTP/1.1" or head.framing == "chunked" or head.length):
        head.upgrade = b""  # no handshake (RFC 6455 section 4.1), and a body must keep its framing
    return head


def parse_response(block: bytes, most_fields: int, method: bytes) -> Head:
    """A response's head to a request with this `method`: HEAD has no body. Raises ProtocolError with 502."""
    start = _STATUS_LINE(block)
    if start is None:
        raise ProtocolError(502, "malformed status line")
    try:
        head = _fields(block, start.end(), most_fields)
    except ProtocolError as error:
        raise ProtocolError(502, str(error)) from None
    head.version, code, reason = start.groups()
    head.reason = reason or b""
    head.status = status = int(code)
    lengths, codings, _ = _survey(head)
    if codings and (lengths or head.version == b"HTTP/1.0" or codings != [b"chunked"]):
        raise ProtocolError(502, "ambiguous framing: Transfer-Encoding with Content-Length, another coding or HTTP/1.0")
    length = _length(lengths, 502) if lengths else 0
    if status < 200 or status == 204 or status == 304 or method == b"HEAD":
        head.framing = "none"
    elif codings:
        head.framing = "chunked"
    elif lengths:
        head.framing, head.length = "length", length
    else:
        head.framing, head.keep_alive = "close", False
    return head


def _fields(block: bytes, start: int, most: int) -> Head:
    """The field lines of `block`, the first of which begins at `start`: at most so many, all well-formed, under CRLFs and nothing else."""
    ends = block.translate(None, _TEXT)
    lines = (len(ends) >> 1) - 2
    if ends != b"\r\n" * (lines + 2):
        raise ProtocolError(400, "a control byte in the head" if ends.translate(None, b"\r\n") else "a line does not end in CRLF")
    if lines > most:
        raise ProtocolError(431, f"more than {most} header fields")
    headers: list[tuple[bytes, bytes]] = _FIELDS(block, start, len(block) - 2)
    names = [name.lower() for name, _ in headers]
    if len(names) != lines or not all(names):  # a bare CR and, later, a bare LF look like one more line end in `ends`
        raise ProtocolError(400, "malformed header field")
    head = Head(headers, names, [index for index, name in enumerate(names) if name in _NOTED])
    head.size = len(block)
    return head


def _refuse_request_line(block: bytes) -> NoReturn:
    if _SOME_VERSION(block):
        line = block[: block.find(b"\r\n")]
        if not line.endswith((b"HTTP/1.1", b"HTTP/1.0")):
            raise ProtocolError(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    raise ProtocolError(400, "malformed request line")


def _check_target(method: bytes, target: bytes) -> None:
    """What does not begin with a slash: `*` for OPTIONS, or a URL (RFC 9112 section 3.2). CONNECT's own form is refused with CONNECT."""
    if method == b"CONNECT" or _ABSOLUTE(target) or (target == b"*" and method == b"OPTIONS"):
        return
    raise ProtocolError(400, "malformed request target")


def _survey(head: Head) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """One look over the names: Content-Length values, transfer codings, Host values; the rest goes into `head`."""
    lengths: list[bytes] = []
    codings: list[bytes] = []
    hosts: list[bytes] = []
    upgrade = b""
    for index in head.noted:
        name = head.names[index]
        value = head.headers[index][1].strip(b" \t")
        if name == b"host":
            hosts.append(value)
        elif name == b"connection":
            head.connection += [token.strip(b" \t") for token in value.lower().split(b",")]
        elif name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            codings += [token.strip(b" \t") for token in value.lower().split(b",")]
        elif name == b"expect":
            head.expect = head.expect + b", " + value if head.expect else value
        elif name == b"upgrade":
            upgrade = upgrade + b", " + value if upgrade else value
        elif name in _BROWSERS:
            head.browser = True
    if head.version == b"HTTP/1.0":
        head.keep_alive = b"keep-alive" in head.connection
    elif head.connection:
        head.keep_alive = b"close" not in head.connection
    if upgrade and b"upgrade" in head.connection:
        head.upgrade = upgrade.lower()
    return lengths, codings, hosts


def _length(values: list[bytes], status: int) -> int:
    value = values[0]
    if len(values) > 1 or not value.isdigit() or len(value) > 19 or int(value) > MAX_LENGTH:
        raise ProtocolError(status, "invalid or repeated Content-Length")
    return int(value)
