"""`verbatim run`: how one asks for a command to be recorded."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from gateway import child
from gateway.commands.options import WrongInput, read_settings, settings_options
from gateway.front import front_of, trust_variables
from gateway.routes import valid_session
from gateway.serving import url_of
from gateway.settings import SettingsError


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--session", metavar="NAME", help="Name the recordings carry. [default: the time and a few random characters]")
@settings_options("host", "port", "archive", routes=True)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True, metavar="COMMAND...")
def run(session: str | None, command: tuple[str, ...], **flags: Any) -> None:
    """Run COMMAND so that its LLM calls are recorded, with no other change.

    Sets the base URLs that the SDKs of OpenAI, Anthropic and Google read from the environment, and where the gateway has a certificate of
    its own authority (tls_cert), which one to trust. Uses the gateway that runs; where none does, one is started for as long as the
    command lasts. Signals reach the command, and its exit code is handed on.

    \b
    Examples:
      verbatim run -- python app.py
      verbatim run --session nightly -- npm test
    """
    session = session or child.new_session(time.time())
    if not valid_session(session):
        raise WrongInput("a session's name is 1 to 128 letters, digits, '.', '_' and '-', the first a letter or digit")
    settings = read_settings(flags)
    try:
        front = front_of(settings)
    except SettingsError as error:
        raise WrongInput(str(error)) from None
    gateway = os.environ.get("VERBATIM_GATEWAY") or url_of(settings.host, settings.port, front)
    with contextlib.ExitStack() as stack:
        if child.gateway_version(gateway) is None:
            if front is not None and front.name_for("127.0.0.1") not in ("127.0.0.1", "localhost"):
                raise WrongInput(
                    f"no gateway answers at {gateway}, and one of our own cannot use {front.file}, which is not for localhost; "
                    "start `verbatim serve`, or make another with `verbatim cert`"
                )
            click.echo(f"verbatim: no gateway answers at {gateway}; recording through one of our own into {settings.archive}", err=True)
            try:
                gateway = stack.enter_context(child.own_gateway(_own_arguments(flags), front))
            except child.GatewayFailed as error:
                raise WrongInput(str(error)) from None
        trust: dict[str, str] = {}
        if front is not None and front.authority is not None and gateway.startswith("https:"):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="verbatim-trust-"))
            trust = trust_variables(front.authority, Path(folder), os.environ)
        code = child.run(command, child.environment(gateway, session, os.environ, trust, token=settings.relay_token))
    sys.exit(code)


def _own_arguments(flags: dict[str, Any]) -> list[str]:
    """What a gateway of our own is told beside its socket: our flags, and to leave the terminal to the command."""
    arguments = ["--no-viewer", "--no-access-log", "--log-level", "warning"]
    for flag, value in (("--config", flags["config"]), ("--archive", flags["archive"])):
        arguments += [flag, str(value)] if value is not None else []
    return [*arguments, *(part for route in flags["routes"] for part in ("--route", route))]
