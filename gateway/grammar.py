"""The grammar of HTTP/1.1 heads (RFC 9112): the bytes of one whole head in, a `Head` out, or a refusal. No connection, no body, no routing.

One regular expression matches a whole head, or none: each byte of it is one the grammar names. A second finds the few fields that mean
something to this hop; all others are taken apart only where somebody asks. What is taken llhttp takes too, but for methods (see the tests).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Final, Literal, TypeAlias

from gateway.control import PREFIX

__all__ = [
    "CONTROL",
    "MAX_LENGTH",
    "Framing",
    "Head",
    "ProtocolError",
    "malformed_request",
    "malformed_response",
    "parse_request",
    "parse_response",
]

Framing: TypeAlias = Literal["none", "length", "chunked", "close"]
"""How a message's end is known (RFC 9112 section 6.3): no body, Content-Length, chunked, or the connection's end."""

MAX_LENGTH: Final = 2**63 - 1
"""Largest Content-Length taken. What does not fit a signed 64-bit integer is read differently by different peers."""

CONTROL: Final = bytes(b for b in range(256) if (b < 32 and b not in b"\t\r\n") or b == 127)
"""Bytes that have no business in a head beside its line ends (RFC 9110 section 5.5)."""

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_TEXT: Final = rb"[\x20-\x7e\t\x80-\xff]"  # what is no control byte; as ranges, which re tries in this order
_LINES: Final = rb"((?:\r\n" + _TOKEN + rb"++:" + _TEXT + rb"*+)*)\r\n\r\n"
"""Field lines, each with the CRLF before it, up to the blank line. No line can be read in two ways, so going back is short: a line at a
time, once. (A possessive group would never go back, but before Python 3.11.5 one misses matches: CPython issue 106052.)"""

_REQUEST_LINE: Final = rb"([!#$%&'*+\-.^_`|~0-9A-Z]++) ([\x21-\x7e]++) (HTTP/1\.[01])"
"""Any token is a method but those with small letters: a server that reads `head` as HEAD would answer without the body we wait for."""

_REQUEST: Final = re.compile(_REQUEST_LINE + _LINES).match
_RESPONSE: Final = re.compile(rb"(HTTP/1\.[01]) ([1-5][0-9][0-9])(?: (" + _TEXT + rb"*+))?" + _LINES).match
_WELL_BEGUN: Final = re.compile(_REQUEST_LINE + rb"\r\n").match
_SOME_VERSION: Final = re.compile(rb"[^ ]+ [^ ]+ HTTP/[0-9]\.[0-9]\r\n").match
_ABSOLUTE: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*://[^/?#@\\]+(?:[/?#]|$)").match
"""A target in absolute-form. Userinfo is refused, as RFC 9110 section 4.2.4 advises: it would be a credential in a log line."""

_HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z\-._~!$&'()*+;=]+)(?::[0-9]{0,5})?").fullmatch
"""RFC 3986 section 3.2.2, without escapes and commas, which no name on the network has. Empty is refused (RFC 9110 section 4.2.1)."""

_FIELD: Final = rb"\r\n(%b):[ \t]*+([^\r]*+)"
_FIELDS: Final = re.compile(_FIELD % rb"[^:]++").findall
_EACH: Final = re.compile(_FIELD % rb"[^:]++").finditer
_NOTED: Final = re.compile(
    _FIELD
    % (
        rb"connection|content-length|expect|host|keep-alive|origin|proxy-authenticate|proxy-authorization|proxy-connection|sec-fetch-site|"
        rb"te|trailer|transfer-encoding|upgrade|" + PREFIX + rb"[^:]*+"
    )
).finditer
_CODINGS: Final = frozenset((b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress"))


class ProtocolError(Exception):
    """The peer's bytes are no acceptable HTTP/1.1. `status` is what a server would answer to them."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Head:
    """A message's head: its start line taken apart, its field lines as they came, and what of them matters to this hop."""

    __slots__ = (
        "_headers",
        "_names",
        "browser",
        "connection",
        "expect",
        "fields",
        "framing",
        "keep_alive",
        "length",
        "method",
        "noted",
        "reason",
        "reserved",
        "size",
        "status",
        "target",
        "upgrade",
        "version",
    )

    def __init__(self, fields: bytes) -> None:
        self.fields = fields
        """All field lines as they came, each with the CRLF before it."""
        self.noted: list[re.Match[bytes]] = []
        """Where in `fields` those are that mean something to this hop: framing, Host, hop-by-hop and reserved names. All others just
        cross. Group 1 is the name and group 2 the value, in lower case."""
        self._headers: list[tuple[bytes, bytes]] | None = None
        self._names: list[bytes] | None = None
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
        """The Expect header's value, lower case."""
        self.size: int = 0
        """Bytes of the head on the wire."""
        self.upgrade: bytes = b""
        """The Upgrade header's value, lower case, where Connection names it and the message may be a handshake; else empty."""
        self.browser: bool = False
        """Whether it has fields that browsers send of themselves: `gateway.guard` looks at them."""
        self.reserved: bool = False
        """Whether it has names that begin with `PREFIX`."""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Raw names and values in order."""
        if self._headers is None:
            self._headers = _FIELDS(self.fields)
        return self._headers

    @property
    def names(self) -> list[bytes]:
        """The names of `headers` in lower case, index for index."""
        if self._names is None:
            self._names = [name.lower() for name, _ in self.headers]
        return self._names

    def fields_named(self, names: Collection[bytes]) -> list[re.Match[bytes]]:
        """As `noted`, and also the fields that have one of these `names`."""
        noted = {field.start() for field in self.noted}
        return [field for field in _EACH(self.fields.lower()) if field.start() in noted or field[1] in names]

    def rewrite(self, change: Callable[[bytes, bytes], bytes]) -> None:
        """Put `change(name, value)` in place of each field's value, the name in lower case."""
        lines = [(name, change(name.lower(), value)) for name, value in self.headers]
        self.fields = b"".join([b"\r\n%b: %b" % line for line in lines])
        self.noted = list(_NOTED(self.fields.lower()))
        self._headers = self._names = None


def parse_request(data: bytes, most_fields: int, answers: bytes = b"") -> Head | None:
    """The request's head that `data` begins with, or None: it is not whole, or malformed (see `malformed_request`). It answers nothing.

    Raises ProtocolError with 400, 405, 417, 431 or 501: it is well-formed, but not acceptable.
    """
    found = _REQUEST(data)
    if found is None:
        return None
    method, target, version, fields = found.groups()
    head = Head(fields)
    head.method, head.target, head.version, head.size = method, target, version, found.end()
    if len(fields) > 4 * most_fields:
        _count(head, most_fields)
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
    if head.expect and head.expect != b"100-continue":
        raise ProtocolError(417, "unknown expectation")
    if head.upgrade and (method != b"GET" or version != b"HTTP/1.1" or head.framing == "chunked" or head.length):
        head.upgrade = b""  # no handshake (RFC 6455 section 4.1), and a body must keep its framing
    return head


def parse_response(data: bytes, most_fields: int, answers: bytes) -> Head | None:
    """The response's head that `data` begins with, or None: it is not whole, or malformed (see `malformed_response`). `answers` is the
    method of the request: to HEAD there is no body. Raises ProtocolError with 502: it is well-formed, but not acceptable."""
    found = _RESPONSE(data)
    if found is None:
        return None
    version, code, reason, fields = found.groups()
    head = Head(fields)
    head.version, head.reason, head.status, head.size = version, reason or b"", int(code), found.end()
    if len(fields) > 4 * most_fields:
        _count(head, most_fields)
    status = head.status
    lengths, codings, _ = _survey(head)
    if codings and (lengths or head.version == b"HTTP/1.0" or codings != [b"chunked"]):
        raise ProtocolError(502, "ambiguous framing: Transfer-Encoding with Content-Length, another coding or HTTP/1.0")
    length = _length(lengths, 502) if lengths else 0
    if status < 200 or status == 204 or status == 304 or answers == b"HEAD":
        head.framing = "none"
    elif codings:
        head.framing = "chunked"
    elif lengths:
        head.framing, head.length = "length", length
    else:
        head.framing, head.keep_alive = "close", False
    return head


def malformed_request(block: bytes) -> ProtocolError:
    """What is wrong with a whole request head that `parse_request` took for none: 400 or 505."""
    if _WELL_BEGUN(block) is not None:
        return ProtocolError(400, _malformed(block))
    if _SOME_VERSION(block) and not block[: block.find(b"\r\n")].endswith((b"HTTP/1.1", b"HTTP/1.0")):
        return ProtocolError(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    return ProtocolError(400, "malformed request line")


def malformed_response(block: bytes) -> ProtocolError:
    """The same for a response's head: 502."""
    return ProtocolError(502, _malformed(block))


def _malformed(block: bytes) -> str:
    if len(block.translate(None, CONTROL)) != len(block):
        return "a control byte in the head"
    ends = block.count(b"\r\n")
    return "a line does not end in CRLF" if block.count(b"\r") != ends or block.count(b"\n") != ends else "malformed header field"


def _count(head: Head, most: int) -> None:
    """Only for heads whose length has room for too many: the shortest field, `a:` with its CRLF, has four bytes."""
    if head.fields.count(b"\n") > most:
        raise ProtocolError(431 if head.method else 502, f"more than {most} header fields")


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
    connection: list[bytes] = []
    upgrade = b""
    head.noted = list(_NOTED(head.fields.lower()))
    for field in head.noted:
        name, value = field.groups()
        value = value.rstrip(b" \t")
        if name == b"host":
            hosts.append(value)
        elif name == b"connection":
            if b"," in value:
                connection += [token.strip(b" \t") for token in value.split(b",")]
            else:
                connection.append(value)
        elif name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            codings += [token.strip(b" \t") for token in value.split(b",")]
        elif name == b"expect":
            head.expect = head.expect + b", " + value if head.expect else value
        elif name == b"upgrade":
            upgrade = upgrade + b", " + value if upgrade else value
        elif name == b"origin" or name == b"sec-fetch-site":
            head.browser = True
        elif name.startswith(PREFIX):
            head.reserved = True
    head.connection = connection
    if head.version == b"HTTP/1.0":
        head.keep_alive = b"keep-alive" in connection
    elif connection:
        head.keep_alive = b"close" not in connection
    if upgrade and b"upgrade" in connection:
        head.upgrade = upgrade
    return lengths, codings, hosts


def _length(values: list[bytes], status: int) -> int:
    value = values[0]
    if len(values) > 1 or not value.isdigit() or len(value) > 19 or int(value) > MAX_LENGTH:
        raise ProtocolError(status, "invalid or repeated Content-Length")
    return int(value)
