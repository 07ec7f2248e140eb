"""`verbatim serve`, `verbatim demo` and `verbatim view`: the commands that listen."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import click

from gateway import serving
from gateway.commands.options import DEMO_ARCHIVE, Decimal, Whole, WrongInput, load_settings, read_settings, settings_options
from gateway.settings import Settings, SettingsError


@click.command(epilog="Every option is a setting, too: in verbatim.toml by its name, in the environment as VERBATIM_NAME.")
@click.option("--demo", is_flag=True, help="Answer from a built-in demo upstream, with some traffic to look at; needs no key.")
@settings_options(routes=True)
@click.option("--fd", type=int, hidden=True, help="Listen on this inherited socket.")
@click.option("--lifeline", type=int, hidden=True, help="Stop when this inherited descriptor ends.")
@click.option("--quiet", is_flag=True, hidden=True, help="Do not print the greeting.")
def serve(demo: bool, fd: int | None, lifeline: int | None, quiet: bool, **flags: Any) -> None:
    """Start the gateway, and the viewer beside it.

    Relays /openai/..., /anthropic/... and /gemini/... to the providers and records what passes. Prints the viewer's address and what
    to set so that your SDKs use it. Ctrl-C stops it: running exchanges get a few seconds, and what was recorded is written.

    \b
    Examples:
      verbatim serve
      verbatim serve --demo
      verbatim serve --port 9000 --archive /var/lib/verbatim
      verbatim serve --route ollama=http://127.0.0.1:11434
    """
    try:
        listener = socket.socket(fileno=fd) if fd is not None else serving.activated(os.environ)
    except SettingsError as error:
        raise WrongInput(str(error)) from None
    run_gateway(flags, demo=demo, listener=listener, lifeline=lifeline, quiet=quiet)


def run_gateway(
    flags: dict[str, Any], *, demo: bool, listener: socket.socket | None = None, lifeline: int | None = None, quiet: bool = False
) -> None:
    """Serve until a signal. Raises WrongInput when that cannot begin."""
    with contextlib.ExitStack() as stack:
        routes = stack.enter_context(serving.demo_upstream()) if demo else []

        def read() -> Settings:
            return load_settings(flags, routes=routes, defaults={"archive": DEMO_ARCHIVE} if demo else None)

        try:
            serving.serve(read(), listener=listener, lifeline=lifeline, quiet=quiet, demo=demo, read=read)
        except SettingsError as error:
            raise WrongInput(str(error)) from None


@click.command()
@click.option(
    "--all", "everything", is_flag=True, help="Start gateway and viewer in front of it, too: the same as `verbatim serve --demo`."
)
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8789, show_default=True, type=Whole(0, 65535), metavar="NUMBER", help="Port to listen on; 0 takes a free one."
)
@click.option(
    "--pace", default=1.0, show_default=True, type=Decimal(0, 100), metavar="NUMBER", help="Stretches the pauses; 0 answers at once."
)
def demo(everything: bool, host: str, port: int, pace: float) -> None:
    """Start only the demo upstream: a fake OpenAI, Anthropic and Gemini that needs no key.

    It answers chat completions, Responses, Messages and generateContent, plain and streaming, always the same for the same question.
    The models demo-429 and demo-abort misbehave on purpose.

    \b
    Examples:
      verbatim demo --all
      verbatim demo --port 8789
    """
    if everything:
        run_gateway({}, demo=True)
        return
    from gateway import demo as upstream

    try:
        with upstream.running(host, port, pace) as url:
            click.echo(f"Demo upstream: {url}\nPut the gateway before it with: verbatim serve --route openai={url}")
            _until_signal()
    except OSError as error:
        raise WrongInput(
            f"cannot listen on {host} port {port} ({error.strerror or error}); choose another with --host and --port"
        ) from None


def _until_signal() -> None:
    """Block until SIGTERM or SIGINT."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@settings_options("archive", "viewer_host", "viewer_port")
def view(folder: Path | None, **flags: Any) -> None:
    """Start only the viewer, on any FOLDER of recordings.

    Nothing is relayed and no recording is changed: for looking at an archive that was copied from elsewhere, say. An index for its
    lists and searches is kept in the folder, or in your cache where the folder cannot be written to.

    \b
    Examples:
      verbatim view
      verbatim view /mnt/backup/archive --viewer-port 9001
    """
    if folder is not None:
        flags["archive"] = folder
    settings = read_settings(flags, exists="show")
    try:
        listener = serving.listen(settings.viewer_host, settings.viewer_port, "viewer_port")
    except SettingsError as error:
        raise WrongInput(str(error)) from None
    from dashboard import server

    gateway = f"http://{settings.host}:{settings.port}"
    server.run(settings.archive, sock=listener, token=settings.viewer_token, gateway=gateway, on_ready=_announce)


def _announce(where: str) -> None:
    click.echo(f"Verbatim viewer: {where}")
