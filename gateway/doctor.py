"""`verbatim doctor`: what would keep the gateway from working here, found by trying it. Sends no request to any upstream."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from archive.errors import ArchiveError, BadKey
from archive.folder import strangers
from archive.keeping.retention import hours
from archive.proof.keys import load_key
from archive.reader import Reader
from archive.record import Client, End, EndReason, Record, Request, Upstream, new_id
from archive.writer import Writer
from gateway import __version__, alarms
from gateway.alarms import Alarm, Bounds
from gateway.child import gateway_version, viewer_answers
from gateway.errors import GatewayError
from gateway.front import front_of
from gateway.logs import one_line
from gateway.routes import Route, proxy_named
from gateway.serving import is_exposed, listen
from gateway.settings import Settings, SettingsError
from gateway.values import show_bytes

__all__ = ["Finding", "examine"]

State = Literal["ok", "warn", "fail"]

EARLIEST: Final = 1_760_000_000.0
"""October 2025, before the first release: a clock that shows less is wrong, and so would be every file name and certificate check."""
YEARS: Final = 1000.0
"""Days: beyond that nobody counts them."""
EXPIRES_SOON: Final = 30.0
"""Days before a certificate's end: when a renewal that works by itself (ACME's) has long happened."""
STRANGERS: Final = 5
"""Foreign names told one by one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `advice` says what to do when it is not "ok"."""

    state: State
    about: str
    text: str
    advice: str = ""


def examine(settings: Settings, now: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Look at TLS, ports, disk, the seals' key, an archive's round trip, every upstream and the clock, in turn. Blocks; raises nothing."""
    yield from _front(settings, now())
    yield _port(settings.host, settings.port, "port", secure=settings.tls_cert is not None)
    yield from _exposure(settings)
    if settings.viewer:
        yield _port(settings.viewer_host, settings.viewer_port, "viewer_port")
    yield from _disk(settings, now())
    if settings.record and settings.seal and settings.seal_key is not None:
        yield _key(settings.seal_key)
    yield _round_trip()
    routes = [route for _, route in sorted(settings.routes.items())]
    with ThreadPoolExecutor(max(1, len(routes))) as pool:
        yield from pool.map(lambda route: _upstream(route, settings.connect_timeout), routes)
    yield _clock(now())


def _exposure(settings: Settings) -> Iterator[Finding]:
    """Whether others may use the gateway without being asked."""
    if is_exposed(settings.host) and settings.relay_token is None:
        text = f"whoever reaches {settings.host} over the network can use the gateway, with upstreams that need no key as well"
        yield Finding("warn", "exposure", text, "set relay_token, or listen on 127.0.0.1")


def _front(settings: Settings, now: float) -> Iterator[Finding]:
    """The certificate the gateway is to serve with."""
    about = "tls"
    try:
        front = front_of(settings)
    except SettingsError as error:
        what, _, advice = str(error).partition("; ")
        yield Finding("fail", about, one_line(what), one_line(advice) or "see tls_cert and tls_key")
        return
    if front is None:
        return
    shown = f"{front.file} is for {', '.join(front.names)}, until {time.strftime('%Y-%m-%d', time.gmtime(front.ends))}"
    days = (front.ends - now) / 86400
    if days < EXPIRES_SOON:
        yield Finding(
            "warn", about, one_line(f"{shown}: {days:.0f} days left"), "renew it in time; clients stop at once when it has expired"
        )
    elif not front.covers(settings.host) and settings.host not in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        yield Finding(
            "warn", about, one_line(f"{shown}, and not for {settings.host}"), "clients must use one of these names, or they refuse it"
        )
    else:
        yield Finding("ok", about, one_line(shown))
    if mode := front.key.stat().st_mode & 0o077:
        yield Finding(
            "warn", about, f"the private key in {front.key} is open to other users (mode {0o600 | mode:o})", f"chmod 600 {front.key}"
        )


def _port(host: str, port: int, setting: Literal["port", "viewer_port"], *, secure: bool = False) -> Finding:
    """Free, or held by what is to listen there."""
    what = "viewer" if setting == "viewer_port" else "gateway"
    about = f"{what} port"
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        listen(host, port, setting).close()
    except SettingsError as error:
        running = viewer_answers if what == "viewer" else gateway_version
        if running(f"{'https' if secure else 'http'}://{shown}"):
            return Finding("ok", about, f"a {what} is already running on {shown}")
        flag = setting.replace("_", "-")
        return Finding("fail", about, str(error).partition(";")[0], f"choose another with --{flag}, or stop what listens there")
    return Finding("ok", about, f"{shown} is free")


def _disk(settings: Settings, now: float) -> Iterator[Finding]:
    folder = settings.archive
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        yield Finding("fail", "folder", f"{place} is no folder", "choose another with --archive")
        return
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        yield Finding(
            "fail", "folder", f"{place} cannot be written to by this user", "choose another with --archive, or change who owns it"
        )
        return
    yield Finding("ok", "folder", f"{folder} can be written to" if folder.exists() else f"{folder} can be made")
    if folder.exists() and (mode := folder.stat().st_mode & 0o077):
        yield Finding("warn", "permissions", f"{folder} is open to other users (mode {0o700 | mode:o})", f"chmod 700 {folder}")
    if foreign := strangers(folder):
        text = f"{len(foreign)} names in {folder} are none of ours; they are left alone: {', '.join(foreign[:STRANGERS])}"
        yield Finding("warn", "foreign files", one_line(text), "move them elsewhere")
    free = shutil.disk_usage(place).free
    tight = alarms.space(free, settings.min_free)
    yield _finding(tight, "disk", f"{show_bytes(free)} free")
    bounds = Bounds(settings.min_free, settings.keep_days, settings.keep_bytes)
    seen, filling = alarms.growth(hours(folder), free, bounds, now)
    lasts = (
        ""
        if seen.days is None
        else "; at this rate the disk lasts for years"
        if seen.days > YEARS
        else f"; at this rate the disk lasts {seen.days:.0f} days"
    )
    yield _finding(filling, "growth", f"{show_bytes(seen.bytes_a_day)} a day{lasts}")


def _finding(alarm: Alarm | None, about: str, text: str) -> Finding:
    return Finding("ok", about, text) if alarm is None else Finding(alarm.state, about, alarm.text, alarm.advice)


def _key(path: Path) -> Finding:
    about = "seal key"
    try:
        key = load_key(path)
    except BadKey as error:
        return Finding("fail", about, one_line(str(error)), "until then no hour is sealed; or leave out seal_key")
    return Finding("ok", about, f"seals are signed; the public key is {key.public}")


def _round_trip() -> Finding:
    """Write a record into an archive of its own, and read it back."""
    about = "archive"
    try:
        with tempfile.TemporaryDirectory(prefix="verbatim-doctor-") as temporary:
            now = time.time()
            record = Record(
                id=new_id(int(now * 1000)),
                part=0,
                at=now,
                client=Client("127.0.0.1:0"),
                upstream=Upstream("doctor", "http://127.0.0.1"),
                request=Request(b"GET", b"/doctor", [(b"host", b"doctor")]),
                end=End(EndReason.COMPLETE),
            )
            writer = Writer(Path(temporary), version=__version__, min_free=0)
            writer.start()
            writer.put(record)
            if not writer.close(10.0):
                return Finding("fail", about, f"a record could not be written: {writer.stats().last_error}", "see the disk above")
            (entry,) = Reader(Path(temporary)).page().entries
            if entry.target != "/doctor" or entry.end != "complete":
                return Finding("fail", about, "a record came back altered", "please report this")
    except (OSError, ArchiveError, ValueError) as error:
        return Finding(
            "fail", about, f"a record could not be written and read back: {error}", "set TMPDIR to a folder that can be written to"
        )
    return Finding("ok", about, "a record was written and read back")


def _upstream(route: Route, timeout: float) -> Finding:
    """TCP, and TLS where the URL asks for it; no request."""
    about = f"route {route.name}"
    if route.proxy:
        return _behind_proxy(route, timeout)
    try:
        with socket.create_connection((route.host, route.port), timeout) as plain:
            if route.scheme == "http":
                return Finding("ok", about, f"{route.url} accepts connections")
            with _tls(route).wrap_socket(plain, server_hostname=route.host) as secure:
                return Finding("ok", about, f"{route.url} accepts connections ({secure.version()})")
    except ssl.SSLCertVerificationError as error:
        return Finding(
            "fail",
            about,
            f"{route.url}: its certificate is not trusted: {error.verify_message}",
            "set ca_file for this route if it is your own",
        )
    except ssl.SSLError as error:
        return Finding("fail", about, f"{route.url}: no TLS: {error.reason or error}", "check scheme and port of the upstream")
    except TimeoutError:
        return Finding("warn", about, f"{route.url} did not answer within {timeout:g} s", "check network and firewall")
    except socket.gaierror as error:
        return Finding(
            "warn", about, f"{route.host} has no address ({error.strerror})", "check the name, DNS, and whether this machine is online"
        )
    except OSError as error:
        why = "refuses connections" if error.errno == errno.ECONNREFUSED else f"cannot be reached ({error.strerror or error})"
        return Finding("warn", about, f"{route.url} {why}", "check host and port, and whether this machine is online")


def _tls(route: Route) -> ssl.SSLContext:
    from gateway.tls import new_tls_context

    return new_tls_context(route.ca_file, route.client_cert, route.client_key)


def _behind_proxy(route: Route, timeout: float) -> Finding:
    """As the gateway itself would: through the proxy, TLS where the URL asks for it, no request."""
    about, where = f"route {route.name}", proxy_named(route)
    if route.second_path:
        return Finding("warn", about, f"{route.url} is reached through {where}, which was not tried", "send a request to be sure")
    import asyncio

    from gateway.upstream import Pool

    async def reach() -> None:
        (await Pool(connect_timeout=timeout, idle_timeout=0).connect(route)).abort()

    try:
        asyncio.run(reach())
    except GatewayError as failure:
        return Finding("warn", about, failure.message, f'check {where}, or set proxy = "none" for this route')
    return Finding("ok", about, f"{route.url} accepts connections, through {where}")


def _clock(now: float) -> Finding:
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < EARLIEST:
        return Finding("fail", "clock", f"it shows {shown}", "set it: files are named, and certificates checked, by it")
    return Finding("ok", "clock", shown)
