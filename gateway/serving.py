"""`verbatim serve` put together: sockets, recorder, viewer, relay; and taken apart again in order. Relays and records nothing itself."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import shlex
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Final
from urllib.parse import quote

import click

from gateway import __version__, logs
from gateway.ending import Ending, at_a_terminal
from gateway.front import Front, front_of
from gateway.routes import proxy_named
from gateway.settings import Settings, SettingsError
from gateway.supervisor import Supervisor, python_command

__all__ = [
    "activated",
    "base_url",
    "base_with_token",
    "environment_lines",
    "is_exposed",
    "listen",
    "serve",
    "siblings",
    "url_of",
    "viewer_url",
]

log = logging.getLogger("verbatim.serve")

BACKLOG: Final = 4096
"""As the relay asks for; the viewer needs less and does not mind."""

FIRST_ACTIVATED: Final = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""


def listen(host: str, port: int, setting: str, *, shared: bool = False) -> socket.socket:
    """A listening socket; one that `siblings` may join if `shared`. Resolves names, so it blocks.

    Raises SettingsError naming `setting`, the one to change, when it cannot be had.
    """
    flag = "--" + setting.replace("_", "-")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingsError(f"{host} is no address to listen on ({error.strerror}); change {flag.replace('port', 'host')}") from None
    from gateway.dialing import keep_alive

    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keep_alive(listener)  # a client that vanishes, a laptop that is closed say, is noticed; each connection inherits it
        listener.bind(address)  # alone on its port, whatever options another gateway there has
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.listen(BACKLOG)  # at once: two that merely bound could both believe the port theirs
    except OSError as error:
        listener.close()
        if isinstance(error, PermissionError):
            raise SettingsError(f"port {port} needs privileges; choose one from 1024 up with {flag}") from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise SettingsError(f"{host} is no address of this machine; change {flag.replace('port', 'host')}") from None
        variable = "VERBATIM_" + setting.upper()
        raise SettingsError(
            f"port {port} on {host} is already in use; choose another with {flag} or {variable}, or stop what listens there"
        ) from None
    return listener


def siblings(first: socket.socket, count: int) -> list[socket.socket]:
    """`first`, made to be shared, and further sockets on its port: `count` in all, over which the kernel spreads connections evenly.

    Only Linux does (3.9 and newer, socket(7)): elsewhere `first` alone, for all. Measured with 200 connections on two processes: 93 to 107
    with sockets of their own, up to 1 to 199 with one for both, because who is awake takes all that wait.
    """
    from gateway.dialing import keep_alive

    found = [first]
    while sys.platform == "linux" and len(found) < count:
        listener = socket.socket(first.family, first.type, first.proto)
        found.append(listener)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        keep_alive(listener)
        listener.bind(first.getsockname())
        listener.listen(BACKLOG)
    return found


def activated(environment: MutableMapping[str, str]) -> socket.socket | None:
    """The socket that systemd listens on for us (sd_listen_fds(3)), None when it does not. Who uses one is never refused by a restart:
    connections wait in it meanwhile. Takes the variables out of `environment`. Raises SettingsError when there are several."""
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or count in ("", "0"):
        return None
    if count != "1":
        raise SettingsError(f"systemd hands over {count} sockets, and the gateway takes one: leave one ListenStream= in the .socket unit")
    os.set_inheritable(FIRST_ACTIVATED, False)
    return socket.socket(fileno=FIRST_ACTIVATED)


def base_url(listener: socket.socket, front: Front | None = None) -> str:
    """The URL under which this machine reaches `listener`; behind `front`, by a name that its certificate is for."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return url_of(host, port, front)


def url_of(host: str, port: int, front: Front | None) -> str:
    """The base URL of a gateway on `host` and `port`."""
    if front is not None:
        host = front.name_for(host)
    return f"{'https' if front is not None else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def viewer_url(listener: socket.socket, token: str) -> str:
    """The address that opens the viewer: the token in it becomes a cookie at once."""
    return f"{base_url(listener)}/?token={quote(token, safe='')}"


def base_with_token(gateway: str, token: str | None) -> str:
    """The gateway's URL for SDKs that can be told nothing else, with `token` before the path where there is one."""
    return f"{gateway}/~~{token}" if token else gateway


def environment_lines(gateway: str) -> list[str]:
    """What to set so that the providers' own SDKs speak through `gateway`."""
    return [
        f"OPENAI_BASE_URL={gateway}/openai/v1",
        f"ANTHROPIC_BASE_URL={gateway}/anthropic",
        f"GOOGLE_GEMINI_BASE_URL={gateway}/gemini",
    ]


def serve(
    settings: Settings,
    *,
    listener: socket.socket | None = None,
    quiet: bool = False,
    lifeline: int | None = None,
    demo: bool = False,
    read: Callable[[], Settings] | None = None,
) -> None:
    """Run gateway and viewer until SIGTERM or SIGINT; then drain. Blocks; for a process's main thread. Raises SettingsError.

    On SIGHUP the settings are taken anew from `read`, which may block and raise SettingsError; at a terminal it ends the gateway.
    `listener` takes the place of `settings.host` and `settings.port`. `quiet` prints nothing. `lifeline` is a descriptor at whose end
    of file the gateway stops too. `demo` says that the upstreams are the demo's: some traffic is sent through.
    """
    from gateway import memory

    front = front_of(settings)
    memory.forbid_core_dumps()
    if settings.record and settings.seal and settings.seal_key is not None and not settings.seal_key.is_file():
        raise SettingsError(f"there is no key file {settings.seal_key}; make one with `verbatim keygen`, or leave out seal_key")
    with contextlib.ExitStack() as stack:
        ending = stack.enter_context(Ending(hangup_ends=at_a_terminal()))
        listeners = [listener] if listener is not None else _listeners(settings)
        for listener in listeners:
            stack.callback(listener.close)
        listener = listeners[0]
        gateway = base_url(listener, front)
        viewer = stack.enter_context(listen(settings.viewer_host, settings.viewer_port, "viewer_port")) if settings.viewer else None
        _warn_of_exposure(listener, viewer, guarded=settings.relay_token is not None)
        logs.configure(settings.log_level)
        stack.callback(logs.stop)
        token = settings.viewer_token or secrets.token_urlsafe(32)
        beside = [_viewer(settings, viewer, token, gateway)] if viewer is not None else []
        beside += [_caretaker(settings)] if settings.record else []
        for supervisor in beside:
            stack.callback(supervisor.stop)
        if lifeline is not None:
            threading.Thread(target=_watch, args=(lifeline,), name="lifeline", daemon=True).start()

        def ready() -> None:
            if not quiet:
                click.echo(_greeting(settings, gateway, front, viewer_url(viewer, token) if viewer is not None else None, demo=demo))
                sys.stdout.flush()
            if demo:
                sow(base_with_token(gateway, settings.relay_token), front)

        run = _run_alone if settings.workers == 1 else _run_workers
        run(settings, listeners, beside, ending, ready, read or (lambda: settings))


def _listeners(settings: Settings) -> list[socket.socket]:
    first = listen(settings.host, settings.port, "port", shared=settings.workers > 1)
    return siblings(first, settings.workers)


def _run_alone(
    settings: Settings,
    listeners: list[socket.socket],
    beside: Sequence[Supervisor],
    ending: Ending,
    ready: Callable[[], None],
    read: Callable[[], Settings],
) -> None:
    """All of the gateway in this process, but for the keeper and those `beside`."""
    from gateway.site import Site, start_keeper

    with contextlib.ExitStack() as stack:
        keeper = start_keeper(settings)
        if keeper is not None:
            stack.callback(keeper.kill)
        for supervisor in beside:
            supervisor.start()
        site = Site(settings, keeper)

        def begin() -> None:
            ending.on_end = lambda: None  # uvicorn looks after the two; it raises them again when it has done as they say
            ready()

        async def reload() -> None:
            loop, rung = asyncio.get_running_loop(), asyncio.Event()

            def ring() -> None:
                loop.call_soon_threadsafe(rung.set)

            ending.on_hangup = ring
            try:
                await site.reload(read, rung)
            finally:
                ending.on_hangup = lambda: None

        site.run(listeners, begin, beside=reload)


def _run_workers(
    settings: Settings,
    listeners: list[socket.socket],
    beside: Sequence[Supervisor],
    ending: Ending,
    ready: Callable[[], None],
    read: Callable[[], Settings],
) -> None:
    """The relay and its keepers in processes of their own, `settings.workers` of them."""
    from gateway.workers import Workers

    def begin() -> None:
        for supervisor in beside:
            supervisor.start()
        ready()

    Workers(settings, listeners, read).run(ending, begin)


def _greeting(settings: Settings, gateway: str, front: Front | None, viewer: str | None, *, demo: bool) -> str:
    recordings = str(settings.archive.absolute()) if settings.record else "nothing is recorded (record = false)"
    lines = [
        f"Verbatim {__version__}",
        f"  gateway  {gateway}",
        f"  viewer   {viewer or 'off'}",
        f"  archive  {recordings}",
        "",
        "Point your SDKs at it (the demo takes any key):" if demo else "Point your SDKs at it:",
        *(f"  export {line}" for line in environment_lines(base_with_token(gateway, settings.relay_token and "$VERBATIM_RELAY_TOKEN"))),
    ]
    if front is not None and front.authority is not None:
        file = shlex.quote(str(front.file.absolute()))
        lines += [
            f"  export NODE_EXTRA_CA_CERTS={file}",
            f"  export SSL_CERT_FILE={file}  # Python; it then trusts nobody else (`{_our_name()} run` adds it to the others)",
        ]
    others = [route for name, route in settings.routes.items() if name not in ("openai", "anthropic", "gemini")]
    if others:
        lines += ["", "Further routes:", *(f"  {gateway}/{route.name}  ->  {route.url}" for route in others)]
    behind = [route for route in settings.routes.values() if route.proxy]
    if behind:
        lines += ["", "Through a proxy:", *(f"  {route.name}  through  {proxy_named(route)}" for route in behind)]
    if settings.record:
        folder = "" if settings.archive == Settings().archive else f" --archive {shlex.quote(str(settings.archive))}"
        lines += ["", "Look at what it records:", f"  {_our_name()} ls{folder}"]
    return "\n".join([*lines, "", "Ctrl-C stops it."]) + "\n"


def _our_name() -> str:
    """What to type for this command: its name where the shell finds it, else as it was called (`make run` calls .venv/bin/verbatim)."""
    called = sys.argv[0]
    if not called.endswith("/verbatim") or shutil.which("verbatim") == os.path.abspath(called):
        return "verbatim"
    return shlex.quote(called)


def _viewer(settings: Settings, listener: socket.socket, token: str, gateway: str) -> Supervisor:
    """The viewer's process, on our socket so that a restart keeps the port; the token goes by environment, which others cannot read."""
    folder, names = str(settings.archive.absolute()), (settings.viewer_hosts or "").split(",")
    hosts = [part for name in names if name.strip() for part in ("--allow-host", name.strip())]
    ours = ("--fd", str(listener.fileno()), "--gateway", gateway, *hosts, "--quiet", "--with-parent", str(os.getpid()))
    command = python_command("dashboard.server", folder, *ours)
    return Supervisor("viewer", command, environment={"VERBATIM_VIEWER_TOKEN": token}, descriptors=[listener.fileno()])


def _caretaker(settings: Settings) -> Supervisor:
    """The caretaker's process. Nothing on its command line is secret."""
    numbers = {name: getattr(settings, name) for name in ("min_free", "keep_days", "keep_bytes", "pack_after_days")}
    options = [part for name, number in numbers.items() for part in ("--" + name.replace("_", "-"), str(number))]
    options += [] if settings.seal else ["--no-seal"]
    options += [] if settings.seal_key is None else ["--seal-key", str(settings.seal_key.absolute())]
    options += ["--parent", str(os.getpid()), "--log-level", settings.log_level]  # a parent that is killed cannot stop its child
    return Supervisor("caretaker", python_command("gateway.caretaker", str(settings.archive.absolute()), *options))


def _warn_of_exposure(gateway: socket.socket, viewer: socket.socket | None, *, guarded: bool) -> None:
    names = {listener.getsockname()[0] for listener in (gateway, viewer) if listener is not None}
    exposed = sorted(name for name in names if is_exposed(name))
    if exposed and is_exposed(gateway.getsockname()[0]) and not guarded:
        why = "whoever reaches this machine over the network can use it, with upstreams that need no key as well; set relay_token"
        click.echo(f"Warning: listening on {', '.join(exposed)}: {why}.", err=True)
    elif exposed:
        click.echo(f"Warning: listening on {', '.join(exposed)}: this machine is reached over the network, with a token only.", err=True)


def is_exposed(address: str) -> bool:
    """Whether others than this machine reach a listener on `address`, a host name or an IP address."""
    return not (address.startswith("127.") or address in ("::1", "localhost"))


def _watch(lifeline: int) -> None:
    """Stop when whoever holds the other end of `lifeline` is gone."""
    with contextlib.suppress(OSError):
        while os.read(lifeline, 1024):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def demo_upstream() -> Iterator[list[str]]:
    """The demo upstream on a free loopback port; gives the three routes to it as "NAME=URL"."""
    from gateway import demo

    with demo.running() as url:
        yield [f"{name}={url}" for name in ("openai", "anthropic", "gemini")]


def sow(gateway: str, front: Front | None = None) -> None:
    """Send the demo's traffic through `gateway` in a thread of its own."""

    def work() -> None:
        from gateway import demo

        try:
            demo.seed(gateway, front.authority if front is not None else None)
        except Exception as error:
            log.warning("the demo's traffic was not sent whole: %s", type(error).__name__)

    threading.Thread(target=work, name="demo-traffic", daemon=True).start()
