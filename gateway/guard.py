"""Who may use the relay: whoever knows the token, where one is set, and no web page that is not allowed to. Pure.

A browser sends a page's requests to this machine with no question asked; an upstream that needs no key would answer them. What it says
of the page (Origin, Sec-Fetch-Site) no page can change. Programs send neither, or an Origin of their own scheme, or a key: a page that
wants to send one has the browser ask first (a CORS preflight), and that question is refused.
"""

from __future__ import annotations

import hmac
import re
from typing import Final

from gateway.errors import GatewayError
from gateway.wire import Head

__all__ = ["TOKEN_HEADER", "TOKEN_PREFIX", "Guard", "without_token"]

TOKEN_HEADER: Final = b"x-verbatim-token"
TOKEN_PREFIX: Final = b"/~~"
"""Before the path, for SDKs that can be told a base URL and nothing else: `/~~TOKEN/openai/v1`. No session begins with '~'."""

OPEN_PAGE: Final = b"/_verbatim/health"
"""Asked by container health checks and `verbatim run`, which tells from it whether a gateway is there. It names no upstream."""

_KEYS: Final = frozenset((b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"))
"""Headers that no page sends to another origin without a preflight (Fetch, section 3.3.2), and not at all with a websocket."""

_HIDDEN: Final = b"[redacted]"
_SEGMENT: Final = re.compile(rb"[^/?]*")
_AUTHORITY: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_ORIGIN: Final = re.compile(rb"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^:/]*)(?::[0-9]{1,5})?(?:/.*)?\Z")
_LOOPBACK: Final = re.compile(rb"(?:.+\.)?localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]|0\.0\.0\.0")
"""Hosts that mean the browser's own machine. Every browser resolves *.localhost itself (RFC 6761 section 6.3)."""


class Guard:
    """Immutable but for the heads it is given; any thread may call."""

    __slots__ = ("_origins", "_token", "asks")

    def __init__(self, token: str | None = None, origins: str | None = None) -> None:
        """`token`: what clients must send. `origins`: web origins that may use the gateway, separated by commas; `*` for all."""
        self._token = token.encode() if token else None
        self._origins = frozenset(part.strip().lower().encode() for part in (origins or "").split(",") if part.strip())
        self.asks = token is not None
        """Whether every request has to be looked at, not only one that may be a browser's (`Head.browser`)."""

    def refusal(self, head: Head) -> GatewayError | None:
        """Why this request may not pass, or None. Takes the token off the head: off its target, and out of its header's value."""
        origin = _page(head)
        if origin is not None and not self._allowed(origin) and (_KEYS.isdisjoint(head.names) or _same_origin(head, origin)):
            shown = origin[:100].decode("ascii", "replace")
            return GatewayError(
                403,
                "origin_refused",
                f"a web page of {shown!r} may not use this gateway; if it is yours, name it in the setting allow_origins",
            )
        given = _take_token(head)
        if self._token is None:
            return None
        if any(hmac.compare_digest(token, self._token) for token in given) or head.target.partition(b"?")[0] == OPEN_PAGE:
            _hide(head, self._token)
            return None
        return GatewayError(
            401,
            "token_wrong" if given else "token_missing",
            "this gateway asks for its token: send it as the header x-verbatim-token, or put /~~TOKEN before the base URL's path"
            " (http://HOST:PORT/~~TOKEN/openai/v1)",
        )

    def _allowed(self, origin: bytes) -> bool:
        if origin in self._origins or b"*" in self._origins:
            return True
        parts = _ORIGIN.match(origin)
        if parts is None:  # "null": a sandboxed frame of any page; "cross-site": a page that was not named
            return False
        scheme, host = parts[1], parts[2]
        if scheme not in (b"http", b"https"):  # vscode-webview://, app://, tauri://, file://, an extension's: no web page can have them
            return True
        return _LOOPBACK.fullmatch(host) is not None


def without_token(target: bytes) -> tuple[bytes, bytes | None]:
    """A request target without the token before its path, and that token; None where there is none."""
    authority = _AUTHORITY.match(target)
    at = authority.end() if authority is not None else 0
    if not target.startswith(TOKEN_PREFIX, at):
        return target, None
    rest = target[at + len(TOKEN_PREFIX) :]
    token = _SEGMENT.findall(rest)[0]
    rest = rest[len(token) :]
    return target[:at] + (rest if rest.startswith(b"/") else b"/" + rest), token


def _page(head: Head) -> bytes | None:
    """The origin that a browser names, in lower case; `cross-site` where it names none but says that it is another; None for no page."""
    origins = set(_values(head, b"origin")) - {b""}
    if origins:
        return origins.pop() if len(origins) == 1 else b"null"  # of several, whose is it?
    return b"cross-site" if b"cross-site" in _values(head, b"sec-fetch-site") else None


def _same_origin(head: Head, origin: bytes) -> bool:
    """Whether the page came from the name that it asks: then it may send what it likes. One that is not ours to know is rebound to us."""
    return origin.partition(b"://")[2] in _values(head, b"host")


def _values(head: Head, wanted: bytes) -> list[bytes]:
    return [value.strip().lower() for (_, value), name in zip(head.headers, head.names, strict=True) if name == wanted]


def _take_token(head: Head) -> list[bytes]:
    head.target, token = without_token(head.target)
    given = [] if token is None else [token]
    if head.reserved and TOKEN_HEADER in head.names:
        given += [value.strip() for (_, value), name in zip(head.headers, head.names, strict=True) if name == TOKEN_HEADER]
        head.rewrite(lambda name, value: _HIDDEN if name == TOKEN_HEADER else value)
    return given


def _hide(head: Head, token: bytes) -> None:
    """Take the token out of wherever else it stands: a page of an upstream's that was asked for with it before the path names that path
    in the Referer of whatever it loads."""
    head.target = head.target.replace(token, _HIDDEN)
    if token in head.fields:
        head.rewrite(lambda _, value: value.replace(token, _HIDDEN))
