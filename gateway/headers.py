"""What crosses: heads put together from the field lines as they came, by the rules for intermediaries and nothing more. Pure functions.

Their bytes, order and duplicates are kept. Dropped are the hop-by-hop fields (RFC 9110 section 7.6.1) and
those Connection names; Host is rewritten in its place; exactly one framing header goes out.
"""

from __future__ import annotations

from typing import Final

from gateway.control import PREFIX, WARNING
from gateway.wire import Head

__all__ = ["interim_head", "request_head", "response_head", "upgrade_head"]

HOP_BY_HOP: Final = frozenset(
    (
        b"connection",  # RFC 9110 section 7.6.1: about this connection only
        b"keep-alive",  # likewise
        b"proxy-connection",  # a mistake of old browsers that RFC 9110 says to treat like Connection
        b"te",  # what this hop may receive as transfer coding and trailers
        b"trailer",  # announces trailers of this hop's chunked coding
        b"transfer-encoding",  # this hop's framing; one is written anew
        b"upgrade",  # this hop's protocol
        b"proxy-authenticate",  # RFC 9110 section 11.7: between a client and its next proxy
        b"proxy-authorization",
    )
)

_CHUNKED: Final = b"\r\nTransfer-Encoding: chunked"
"""A field, as all of them here, with the CRLF before it."""

_NO_NAMES: Final = frozenset((b"keep-alive", b"close"))
_NOTHING: Final[frozenset[bytes]] = frozenset()


def request_head(head: Head, target: bytes, authority: bytes) -> bytes:
    """The request head for the upstream. Nothing is added: no Via, no User-Agent, no Connection."""
    fields, at, host = head.fields, 0, False
    lines = [b"%b %b HTTP/1.1" % (head.method, target)]
    dropped = _named(head)
    for field in head.noted if not dropped else head.fields_named(dropped):
        name = field[1]
        if name == b"host":
            lines += fields[at : field.end(1)], b": ", authority
            host = True
        elif name == b"content-length":
            lines += fields[at : field.end(1)], b": ", field[2]
        elif name == b"transfer-encoding" and head.framing == "chunked":
            lines += fields[at : field.start()], _CHUNKED
        elif name in HOP_BY_HOP or name in dropped or name.startswith(PREFIX):
            lines.append(fields[at : field.start()])
        else:
            continue
        at = field.end()
    if not host:  # HTTP/1.0 may come without; we speak 1.1, which may not
        lines.insert(1, b"\r\nHost: " + authority)
    lines += fields[at:], b"\r\n\r\n"
    return b"".join(lines)


def response_head(head: Head, id: bytes, *, chunked: bool, close: bool, warning: bytes = b"") -> bytes:
    """The response head for the client, with `x-verbatim-id` (the exchange's id) as the only new field.

    `chunked`: the body follows in chunks; `close`: the connection ends after it (said in a Connection field of our own hop). `warning`:
    what of the client's wishes could not be used, in one more field.
    """
    fields, at = head.fields, 0
    lines = [b"HTTP/1.1 %d %b" % (head.status, head.reason)]
    dropped = _named(head)
    for field in head.noted if not dropped else head.fields_named(dropped):
        name = field[1]
        if name == b"transfer-encoding" and chunked:
            lines += fields[at : field.start()], _CHUNKED
            chunked = False
        elif name in HOP_BY_HOP or name in dropped:
            lines.append(fields[at : field.start()])
        else:
            continue
        at = field.end()
    lines.append(fields[at:])
    if chunked:
        lines.append(_CHUNKED)
    if close:
        lines.append(b"\r\nConnection: close")
    if warning:
        lines.append(b"\r\n%b: %b" % (WARNING, warning))
    lines.append(b"\r\nx-verbatim-id: %b\r\n\r\n" % id)
    return b"".join(lines)


def interim_head(head: Head) -> bytes:
    """A 1xx response for the client (RFC 9110 section 15.2: a proxy forwards them)."""
    lines = [b"HTTP/1.1 %d %b" % (head.status, head.reason)]
    dropped = HOP_BY_HOP | _named(head)
    lines += [name + b": " + value for (name, value), lower in zip(head.headers, head.names, strict=True) if lower not in dropped]
    return b"\r\n".join([*lines, b"\r\n"])


def upgrade_head(head: Head, start: bytes, authority: bytes | None = None, id: bytes | None = None, warning: bytes = b"") -> bytes:
    """A websocket handshake's head (RFC 6455 section 4): as `request_head` and `response_head`, but Connection and Upgrade cross too."""
    lines = [start]
    dropped = HOP_BY_HOP | _named(head)
    named = False
    for (name, value), lower in zip(head.headers, head.names, strict=True):
        if lower == b"host" and authority is not None:
            lines.append(name + b": " + authority)
        elif lower == b"connection":
            if not named:
                lines.append(name + b": Upgrade")
            named = True
        elif lower == b"upgrade" or (lower not in dropped and not (authority and lower.startswith(PREFIX))):
            lines.append(name + b": " + value)
    if warning:
        lines.append(WARNING + b": " + warning)
    if id is not None:
        lines.append(b"x-verbatim-id: " + id)
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def _named(head: Head) -> frozenset[bytes]:
    """Names that Connection lists and that are dropped with it (RFC 9110 section 7.6.1); framing and Host cannot be dropped so."""
    tokens = head.connection
    if not tokens or (len(tokens) == 1 and tokens[0] in _NO_NAMES):
        return _NOTHING
    return frozenset(tokens) - {b"content-length", b"host"}
