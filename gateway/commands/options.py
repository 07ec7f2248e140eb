"""What the commands share: options made from the settings, and errors that are one sentence and exit code 2."""

from __future__ import annotations

import errno
import os
import pwd
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from gateway.settings import SETTINGS, Setting, Settings, SettingsError, find_config, load

__all__ = [
    "DEMO_ARCHIVE",
    "Decimal",
    "Whole",
    "WrongInput",
    "load_settings",
    "own_folder",
    "read_settings",
    "refused",
    "settings_options",
    "sha256",
]

F = TypeVar("F", bound=Callable[..., Any])

METAVARS: Final = {"text": "TEXT", "path": "PATH", "whole": "NUMBER", "size": "SIZE", "seconds": "SECONDS"}
NAMED_METAVARS: Final = {
    "host": "ADDRESS",
    "viewer_host": "ADDRESS",
    "viewer_hosts": "NAME:PORT,...",
    "archive": "FOLDER",
    "seal_key": "FILE",
    "tls_cert": "FILE",
    "tls_key": "FILE",
    "default_route": "NAME",
}

DEMO_ARCHIVE: Final = Path("data/demo")
"""Where demo traffic is recorded unless a folder is named: not among real recordings."""


class WrongInput(click.ClickException):
    """Something the user gave cannot be used: one clear sentence on stderr, exit code 2."""

    exit_code = 2


class Whole(click.IntRange):
    """A whole number within bounds, called so where it is wrong."""

    name = "whole number"


class Decimal(click.FloatRange):
    """A number within bounds, called so where it is wrong."""

    name = "number"


def refused(error: OSError) -> str:
    """What the system refused, in one sentence with the path and what to do."""
    said = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return f"the system refused: {said[:1].lower()}{said[1:]}"
    path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else str(error.filename)
    return f"{path} cannot be used: {said[:1].lower()}{said[1:]}; {_ADVICE.get(error.errno or 0, 'see what lies there, or name another')}"


_ACCESS: Final = "run this as the user it belongs to, or have that one let you read it"
_ADVICE: Final = {
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS,
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room on its disk",
    errno.EROFS: "its disk is mounted for reading only; name another",
    errno.EMFILE: "allow more open files with ulimit -n",
    errno.ENFILE: "the machine has too many files open",
    errno.EIO: "its disk fails: the system's log says more",
}


def settings_options(*names: str, routes: bool = False) -> Callable[[F], F]:
    """Options for the settings `names` (all without any), `--config`, and `--route` with `routes`; read them with `read_settings`.

    A command with routes starts a gateway; one without works on an archive that is there, and its help says so. A secret has no option:
    every user of a machine can read a command line. It comes from the file or the environment.
    """
    chosen = [setting for setting in SETTINGS if not setting.secret and (not names or setting.name in names)]
    if routes:
        options = [_route_option(), _config_option(), *map(_option, chosen)]
    else:
        options = [*(_option(_READ.get(setting.name, setting)) for setting in chosen), _config_option()]

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_READ: Final = {it.name: it._replace(help="Folder of the recordings.") for it in SETTINGS if it.name == "archive"}


def _option(setting: Setting) -> Callable[[F], F]:
    shown = f" [default: {setting.show()}]" if setting.show() else ""
    if setting.kind == "switch":
        flag = f"{setting.flag}/--no-{setting.flag.removeprefix('--')}"
        return click.option(flag, setting.name, default=None, help=setting.help + shown)
    metavar = "|".join(setting.choices) if setting.choices else NAMED_METAVARS.get(setting.name, METAVARS[setting.kind])
    return click.option(setting.flag, setting.name, metavar=metavar, default=None, help=setting.help + shown)


def _route_option() -> Callable[[F], F]:
    text = "A further upstream, or another URL for a built-in one: /NAME/... is relayed to URL/... May be repeated."
    return click.option("--route", "routes", metavar="NAME=URL", multiple=True, help=text)


def _config_option() -> Callable[[F], F]:
    text = "Settings file. [default: verbatim.toml where there is one]"
    return click.option("--config", type=click.Path(path_type=Path), default=None, metavar="FILE", help=text)


def sha256(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """For an option that takes a SHA-256: its callback. 64 hexadecimal digits, in lower case. Raises WrongInput for anything else."""
    if value is None or re.fullmatch(r"[0-9a-f]{64}", value.strip().lower()):
        return None if value is None else value.strip().lower()
    raise WrongInput(f"{option.opts[0]} takes a SHA-256, 64 hexadecimal digits, and {value[:80]!r} is none")


def load_settings(flags: Mapping[str, Any], *, routes: Iterable[str] = (), defaults: Mapping[str, object] | None = None) -> Settings:
    """As `read_settings`, for a gateway that reads them again. Raises SettingsError."""
    known = {setting.name for setting in SETTINGS} | {"routes"}
    given = {name: value for name, value in flags.items() if name in known} | {"routes": (*routes, *flags.get("routes", ()))}
    return load(given, os.environ, find_config(flags.get("config"), os.environ), defaults=defaults)


def read_settings(
    flags: Mapping[str, Any], *, routes: Iterable[str] = (), defaults: Mapping[str, object] | None = None, exists: str | None = None
) -> Settings:
    """The settings of a command with `settings_options`. `routes` ("NAME=URL") go before the flags'. Raises WrongInput.

    With `exists` the archive's folder must be there; the text says what for.
    """
    try:
        settings = load_settings(flags, routes=routes, defaults=defaults)
    except SettingsError as error:
        raise WrongInput(str(error)) from None
    if exists is not None and not settings.archive.is_dir():
        demo = (
            f" (the demo's is there: --archive {DEMO_ARCHIVE})" if settings.archive == Settings().archive and DEMO_ARCHIVE.is_dir() else ""
        )
        raise WrongInput(f"there is no archive folder {settings.archive} to {exists}; name one with --archive{demo}")
    return settings


def own_folder(folder: Path) -> None:
    """For a command that changes the archive in `folder`: raises WrongInput unless this user owns it. What another user made there, root
    included, the gateway could not open again: every file is private."""
    owner = folder.stat().st_uid
    if owner == os.geteuid():
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"#{owner}"
    raise WrongInput(f"{folder} belongs to another user; run this as that one: sudo -u {name!r} verbatim ...")
