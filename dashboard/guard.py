"""The viewer's door: who may come in, and what a browser may do with what it is shown. Plain ASGI around the app.

A request passes when its Host is one of ours (else a foreign page could reach us by rebinding its own name, and read answers) and
when it shows the token, in a cookie or as a bearer. Nothing here reads the archive.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Sequence
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["LEAST_TOKEN", "Guard", "local_hosts", "same_origin"]

Refuse = Callable[[Scope, int], Response]

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"  # our script makes no HTML of strings, so no string may become HTML
)

_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "X-Robots-Tag": "noindex",
}

LEAST_TOKEN = 16
"""Characters a token must have: nobody tries 36 to the power of 16 over a network."""

_OPEN = ("/static/", "/health")
"""Paths that show nothing of the archive: the stylesheet of the page that says "no", and whether the viewer lives."""


def local_hosts(port: int) -> list[str]:
    """The Host values by which this machine itself reaches `port`."""
    names = ["127.0.0.1", "localhost", "[::1]"]
    return [f"{name}:{port}" for name in names] + (names if port == 80 else [])


class Guard:
    """Lets a request through to `app`, or answers with what `refuse(scope, status)` makes: 401 without token, 403 for a strange Host."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: Sequence[str], refuse: Refuse) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = frozenset(host.lower().encode() for host in hosts)
        self._refuse = refuse
        # The cookie is made from the token but is not the token: what a browser stores opens this viewer and says nothing else.
        self._cookie = hmac.new(self._token, b"verbatim viewer cookie", "sha256").hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, _with_headers(scope, send))
        else:  # a websocket: the viewer has none, so there is nothing to open
            await send({"type": "websocket.close", "code": 1008, "reason": ""})

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            await self._answer(403, scope, receive, send)
        elif scope["path"].startswith(_OPEN):
            await self._app(scope, receive, send)
        elif (redirect := self._taken_from_url(scope, hosts[0])) is not None:
            await redirect(scope, receive, send)
        elif self._shown(scope, hosts[0]):
            await self._app(scope, receive, send)
        else:
            await self._answer(401, scope, receive, send)

    async def _answer(self, status: int, scope: Scope, receive: Receive, send: Send) -> None:
        await self._refuse(scope, status)(scope, receive, send)

    def _taken_from_url(self, scope: Scope, host: bytes) -> Response | None:
        """For `?token=...`: the same page without it, and the cookie when it was right. So it stays in no history, log or Referer."""
        if scope["method"] != "GET" or scope["path"].startswith("/api/"):
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        if not given:
            return None
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        response = RedirectResponse(same_origin(scope["path"]) + ("?" + rest if rest else ""), status_code=303)
        if self._right(given[-1].encode("utf-8", "surrogatepass")):
            response.set_cookie(_cookie_name(host), self._cookie, path="/", httponly=True, samesite="strict")
        return response

    def _shown(self, scope: Scope, host: bytes) -> bool:
        for name, value in scope["headers"]:
            if name == b"authorization" and value[:7].lower() == b"bearer " and self._right(value[7:].strip()):
                return True
            if name == b"cookie" and self._in_cookie(value, _cookie_name(host)):
                return True
        return False

    def _right(self, given: bytes) -> bool:
        return secrets.compare_digest(given, self._token)

    def _in_cookie(self, header: bytes, name: str) -> bool:
        """Split by hand: a cookie of another program on this host that `http.cookies` cannot read would hide ours."""
        for pair in header.split(b";"):
            key, _, value = pair.strip().partition(b"=")
            if key == name.encode() and secrets.compare_digest(value.strip(b'"'), self._cookie.encode()):
                return True
        return False


def same_origin(path: str) -> str:
    """`path` as a link or Location that cannot leave this origin: `//evil.example` and `/\\evil.example` are other hosts to a browser."""
    return "/" + quote(path.lstrip("/\\"), safe="/-._~!$&'()*+,;=:@")


def _cookie_name(host: bytes) -> str:
    """Cookies know no ports (RFC 6265 section 8.5): two viewers on one machine must not overwrite each other's."""
    port = host.rpartition(b":")[2].decode("latin-1")
    return f"verbatim_viewer_{port}" if port.isdigit() else "verbatim_viewer"


def _with_headers(scope: Scope, send: Send) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return sender
