"""The viewer as a process of its own: sockets, signals, the token's way in, and the catalog kept beside what it shows (`dashboard.app`).

Run as a child (`python -m dashboard.server FOLDER`), the token comes in the environment, never on the command line, which every user
of the machine can read.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import uvicorn

from archive.reader import Reader
from dashboard.app import create_app
from dashboard.guard import local_hosts

__all__ = ["TOKEN_VARIABLE", "address", "main", "make_token", "run"]

TOKEN_VARIABLE = "VERBATIM_VIEWER_TOKEN"  # noqa: S105 - the name of a variable, not a token

_GRACE = 2
"""Seconds a page under way gets when the viewer is stopped."""


def make_token() -> str:
    """A new token: 256 random bits in letters that survive any terminal and URL."""
    return secrets.token_urlsafe(32)


def address(host: str, port: int, token: str) -> str:
    """The address to print: it opens the viewer once, and the browser keeps a cookie instead."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - compared, not bound
    return f"http://{name}:{port}/?token={quote(token, safe='')}"


def run(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8788,
    token: str | None = None,
    sock: socket.socket | None = None,
    hosts: Sequence[str] = (),
    gateway: str = "http://127.0.0.1:8787",
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the viewer of `folder` until SIGTERM or SIGINT, then return. Blocks; call it in a process's main thread.

    Meanwhile a thread keeps the folder's catalog up to date, unless another process does.

    Listens on `sock` when one is given (bound; `host` and `port` are then read from it), else binds `host`:`port`, where port 0 takes
    any. `hosts` are further Host values to answer to. Without `token` it takes the environment's, or makes one. `on_ready(address)` is
    called once it listens. Raises OSError when the port is taken.
    """
    token = token or os.environ.get(TOKEN_VARIABLE) or make_token()
    listener = sock or _bind(host, port)
    bound_host, bound_port = listener.getsockname()[:2]
    names = [*local_hosts(bound_port), f"[{bound_host}]:{bound_port}" if ":" in bound_host else f"{bound_host}:{bound_port}", *hosts]
    with listener, _following(folder):
        config = uvicorn.Config(
            create_app(folder, token=token, hosts=names, gateway=gateway),
            access_log=False,  # its lines hold query strings
            log_level="warning",
            proxy_headers=False,  # nothing here depends on who a proxy says is asking
            server_header=False,
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=_GRACE,
        )
        ready = (lambda: on_ready(address(bound_host, bound_port, token))) if on_ready else None
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_serve(_Server(config, ready), listener))


@contextlib.contextmanager
def _following(folder: Path) -> Iterator[None]:
    stopped = threading.Event()
    thread = threading.Thread(target=Reader(folder.absolute()).follow, args=(stopped,), name="catalog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(_GRACE)


async def _serve(server: _Server, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    try:
        await server.serve([listener])
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


class _Server(uvicorn.Server):
    """uvicorn's, but says when it listens and leaves signals to us: its own way raises them again, which is no quiet end."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._ready = ready

    def stop(self) -> None:
        """End; at the second call at once."""
        self.force_exit = self.should_exit
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """No handlers: `_serve` has set ours on the loop."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; then tell that it listens."""
        await super().startup(sockets)
        if self._ready is not None and not self.should_exit:
            self._ready()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=128)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of the child process. Returns the exit code: 0 after a signal, 2 when it cannot listen."""
    parser = argparse.ArgumentParser(prog="dashboard.server", description="Show an archive folder in the browser.")
    parser.add_argument("folder", type=Path, help="the archive's folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8788, help="port to listen on, 0 for any (default: %(default)s)")
    parser.add_argument("--fd", type=int, help="listen on this inherited, bound socket instead")
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME[:PORT]", help="answer to this Host too; may be repeated")
    parser.add_argument("--gateway", default="http://127.0.0.1:8787", help="the gateway's base URL, for the first page's advice")
    parser.add_argument("--quiet", action="store_true", help="do not print the address: the one who started this already did")
    parser.add_argument(
        "--with-parent", type=int, nargs="?", const=os.getppid(), metavar="PID", help="end when the process that started this one is gone"
    )
    options = parser.parse_args(argv)
    if options.with_parent is not None:
        _end_with_parent(options.with_parent)
    try:
        run(
            options.folder,
            host=options.host,
            port=options.port,
            sock=socket.socket(fileno=options.fd) if options.fd is not None else None,
            hosts=options.allow_host,
            gateway=options.gateway,
            on_ready=None if options.quiet else _announce,
        )
    except KeyboardInterrupt:  # before our own handlers were set
        return 0
    except (OSError, OverflowError, ValueError) as error:
        sys.stderr.write(f"The viewer cannot start on {options.host} port {options.port}: {error}\n")
        return 2
    return 0


def _end_with_parent(parent: int) -> None:
    """A parent that was killed cannot stop its child; so the child looks, once a second, whether it has been handed to another. The
    parent says its number: it may be gone before we come to ask."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _announce(where: str) -> None:
    sys.stdout.write(f"Verbatim viewer: {where}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
