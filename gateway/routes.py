"""Which upstream a request target means. Pure: bytes in, a Target out; no sockets, no clock, no files.

Only the configuration names upstreams: nothing in a path, header or body can choose another host (catalogue 99). Paths are never
decoded, normalised or re-encoded; what follows the route's name goes upstream byte for byte.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from gateway.proxies import environment_proxy
from gateway.redaction import redact_url

__all__ = ["DEFAULT_UPSTREAMS", "Route", "Routes", "SettingsError", "Shape", "Target", "proxy_named", "valid_session"]

Shape = Literal["openai", "anthropic", "gemini"]
"""Whose error format the gateway's own errors take on this route."""

SHAPES: tuple[Shape, ...] = ("openai", "anthropic", "gemini")

DEFAULT_UPSTREAMS: Mapping[str, str] = {
    "openai": "https://api.openai.com",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com",
}

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")
_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)\Z")  # RFC 1123 section 2.1, with the underscore container names use
_DEFAULT_PORTS = {"http": 80, "https": 443}
_PROXY_SCHEMES = frozenset({"http", "https", "socks5", "socks5h"})
_PROXIES = "http://, https://, socks5:// or socks5h://"
_NOTHING: Mapping[str, str] = {}
_OWN = b"_verbatim"


class SettingsError(Exception):
    """A setting that cannot be used. The message is one sentence for the one who wrote it, and holds no secret."""


@dataclass(frozen=True, slots=True)
class Route:
    """One configured upstream, taken apart once so that a request only joins bytes."""

    name: str
    scheme: Literal["http", "https"]
    host: str
    """As for a socket: no brackets around IPv6, non-ASCII names in IDNA form."""
    port: int
    authority: bytes
    """What the Host header says: brackets around IPv6, the port only where it is not the scheme's own."""
    base_path: bytes
    """The upstream URL's path without a slash at its end; empty for none."""
    base_query: bytes
    """The upstream URL's query, put before the client's own."""
    shape: Shape
    http2: bool
    proxy: str | None = field(repr=False)  # may hold the proxy's password
    ca_file: str | None
    url: str
    """For display and records: no credentials."""
    websockets: bool = True
    """Whether handshakes go upstream; see `tunnels`."""
    client_cert: str | None = None
    client_key: str | None = None
    read_timeout: float | None = None
    """Seconds the upstream may be silent, 0 for ever; None: the gateway's own setting."""
    idle_timeout: float | None = None
    """Seconds an unused connection is kept, whatever the upstream promises; None: the gateway's own setting."""
    proxy_from: str = ""
    """The environment's variable that named the proxy; empty where the route itself does."""

    @property
    def tunnels(self) -> bool:
        """Whether websockets can pass: they are not switched off, and the route takes the wire."""
        return self.websockets and not self.second_path

    @property
    def second_path(self) -> bool:
        """Whether httpcore reaches the upstream: for HTTP/2, and for an HTTP proxy that is to be asked in absolute form, as plain
        upstreams are (RFC 9112 section 3.2.2; many proxies tunnel to port 443 only)."""
        return self.http2 or (self.scheme == "http" and self.proxy is not None and self.proxy.startswith("http"))

    @staticmethod
    def parse(
        name: str,
        url: str,
        *,
        shape: str = "",
        http2: bool = False,
        proxy: str = "",
        ca_file: str = "",
        websockets: bool = True,
        client_cert: str = "",
        client_key: str = "",
        read_timeout: float | None = None,
        idle_timeout: float | None = None,
        environment: Mapping[str, str] = _NOTHING,
    ) -> Route:
        """The route `name` to the upstream at `url`. Raises SettingsError with one sentence that says what to write instead.

        `environment` is asked for a proxy where `proxy` is empty; "none" means none.
        """
        if not _NAME.match(name):
            raise SettingsError(
                f"route name {_shown(name)} must be lower-case letters, digits, '-' and '_', at most 63, not beginning with '-' or '_'"
            )
        if shape and shape not in SHAPES:
            raise SettingsError(f"route {name!r}: shape must be one of {', '.join(SHAPES)}")
        route = _parse_upstream(name, url.strip(), shape, http2, _proxy(name, proxy.strip()), ca_file or None)
        if route.scheme == "http" and (client_cert or client_key):
            raise SettingsError(f"route {name!r}: client_cert must belong to an https:// upstream; {route.url} has no TLS")
        if not proxy.strip() and (found := environment_proxy(environment, route.scheme, route.host, route.port)):
            through, variable = found
            if not _usable_proxy(through):
                raise SettingsError(
                    f'route {name!r}: {variable} in the environment must be a URL beginning with {_PROXIES}; or set proxy = "none" for it'
                )
            route = replace(route, proxy=through, proxy_from=variable)
        return replace(
            route,
            websockets=websockets,
            client_cert=client_cert or None,
            client_key=client_key or None,
            read_timeout=read_timeout,
            idle_timeout=idle_timeout,
        )

    def join(self, rest: bytes) -> bytes:
        """The target to send upstream for `rest`: what followed the route's name, "" or beginning with "/" or "?"."""
        if self.base_query:
            path, mark, query = rest.partition(b"?")
            joined = self.base_query + b"&" + query if mark and query else self.base_query
            return (self.base_path + path or b"/") + b"?" + joined
        if rest.startswith(b"/"):
            return self.base_path + rest
        return (self.base_path or b"/") + rest


class Target(NamedTuple):
    """Where one request goes. A tuple because one is made per request, at a third of a frozen dataclass's cost."""

    route: Route
    target: bytes
    """The raw request target to send upstream."""
    session: str | None = None
    """The session's name where the path began with "/~NAME"."""


class Routes:
    """All routes of one gateway. Immutable; any thread may call."""

    __slots__ = ("_by_segment", "default", "routes")

    def __init__(self, routes: Mapping[str, Route], default: str | None = None) -> None:
        """`default` names the route that takes every path no route's name begins. Raises SettingsError when there is none so named."""
        if default is not None and default not in routes:
            raise SettingsError(f"default_route {_shown(default)} is no route; there are: {', '.join(sorted(routes)) or 'none'}")
        self.routes = dict(routes)
        self.default = routes[default] if default is not None else None
        self._by_segment = {name.encode("ascii"): route for name, route in routes.items()}

    def resolve(self, target: bytes, *, page: bool = True) -> Target | None:
        """The upstream for a raw request target, or None: the gateway's own paths, unknown names, forms that name no path.

        Takes origin-form, absolute-form (its authority is ignored) and `*` (RFC 9112 section 3.2). `page`: whether a bare `/` is the
        gateway's own page, as it is to who looks at it (GET, HEAD).
        """
        parts = target.split(b"/", 2)
        if len(parts) == 3 and not parts[0] and (route := self._by_segment.get(parts[1])) is not None:  # by far the usual case
            return Target(route, route.join(target[1 + len(parts[1]) :]))
        if not target.startswith(b"/"):
            if target == b"*":
                return Target(self.default, b"*") if self.default is not None else None
            absolute = _ABSOLUTE.match(target)
            if absolute is None:
                return None
            target = target[absolute.end() :]
            if not target.startswith(b"/"):
                target = b"/" + target
        session = None
        if target.startswith(b"/~"):
            end = _segment_end(target)
            session = target[2:end].decode("latin-1")
            if not valid_session(session):
                return None
            target = target[end:]
            if not target.startswith(b"/"):
                target = b"/" + target
        end = _segment_end(target)
        segment = target[1:end]
        route = self._by_segment.get(segment)
        if route is not None:
            return Target(route, route.join(target[end:]), session)
        if self.default is None or segment == _OWN or (page and not segment and not target.startswith(b"//")):
            return None
        return Target(self.default, self.default.join(target), session)


def proxy_named(route: Route) -> str:
    """The route's proxy for people: its URL without the password, and the variable of the environment where that names it."""
    return redact_url(route.proxy or "") + (f" ({route.proxy_from})" if route.proxy_from else "")


def valid_session(name: str) -> bool:
    """Whether `name` may be a session's: 1 to 128 of letters, digits, '.', '_', '-', the first a letter or digit."""
    return _SESSION.match(name) is not None


def _segment_end(target: bytes) -> int:
    """Where the first path segment of `target` ends."""
    slash, query = target.find(b"/", 1), target.find(b"?", 1)
    if slash < 0:
        return query if query >= 0 else len(target)
    return query if 0 <= query < slash else slash


def _shown(text: str) -> str:
    """`text` for an error message: quoted, escaped, short."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _parse_upstream(name: str, url: str, shape: str, http2: bool, proxy: str | None, ca_file: str | None) -> Route:
    def wrong(what: str) -> SettingsError:
        return SettingsError(f"route {name!r}: upstream {_shown(redact_url(url))} {what}")

    if not url:
        raise SettingsError(f"route {name!r} has no upstream; write one such as https://api.openai.com")
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise wrong("holds a space, a backslash or a control character; percent-encode it")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise wrong("is no URL; an IPv6 address stands in brackets, as in http://[::1]:8080") from None
    scheme = _scheme(url)
    if scheme is None:
        raise wrong("must begin with http:// or https://")
    if "@" in parts.netloc:
        raise wrong("holds a user name or key before '@'; leave it out and give the key to the SDK")
    if "#" in url:
        raise wrong("holds a '#'; leave out the fragment")
    host = _host(parts.netloc, parts.hostname)
    if host is None:
        raise wrong("names no usable host")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise wrong("has a port that is no number from 1 to 65535")
    try:
        path, query = parts.path.encode("ascii"), parts.query.encode("ascii")
    except UnicodeEncodeError:
        raise wrong("holds a character outside ASCII in its path or query; percent-encode it") from None
    shown_host = f"[{host}]" if ":" in host else host
    authority = shown_host if port in (None, _DEFAULT_PORTS[scheme]) else f"{shown_host}:{port}"
    return Route(
        name=name,
        scheme=scheme,
        host=host,
        port=port or _DEFAULT_PORTS[scheme],
        authority=authority.encode("ascii"),
        base_path=path.rstrip(b"/"),
        base_query=query,
        shape=_shape(shape, name, host),
        http2=http2,
        proxy=proxy,
        ca_file=ca_file,
        url=redact_url(f"{scheme}://{authority}{parts.path.rstrip('/')}" + (f"?{parts.query}" if parts.query else "")),
    )


def _scheme(url: str) -> Literal["http", "https"] | None:
    word, separator, _ = url.partition("://")
    if not separator:
        return None
    return "https" if word.lower() == "https" else "http" if word.lower() == "http" else None


def _host(netloc: str, hostname: str | None) -> str | None:
    """The host in the form a socket and a Host header take, or None when it is not one."""
    if not hostname or "%" in hostname:
        return None
    if netloc.startswith("["):
        try:
            return str(ipaddress.IPv6Address(hostname))
        except ValueError:
            return None
    try:
        host = hostname if hostname.isascii() else hostname.encode("idna").decode("ascii")
    except UnicodeError:
        return None
    labels = host.removesuffix(".").split(".")
    return host if len(host) <= 253 and all(map(_LABEL.match, labels)) else None


def _shape(shape: str, name: str, host: str) -> Shape:
    """`shape` where one is set, else a guess by the route's name and the host; OpenAI's format is the one most others speak."""
    for known in SHAPES:
        if shape == known:
            return known
    for text in (name, host):
        if "anthropic" in text or "claude" in text:
            return "anthropic"
        if "gemini" in text or "google" in text or "vertex" in text:
            return "gemini"
    return "openai"


def _proxy(name: str, url: str) -> str | None:
    if not url or url == "none":
        return None
    if not _usable_proxy(url):
        raise SettingsError(f'route {name!r}: proxy must be a URL beginning with {_PROXIES}, with a host; or "none"')
    return url


def _usable_proxy(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in _PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0 and url.isprintable()
    except ValueError:
        return False
