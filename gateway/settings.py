"""The settings: one field is one setting, and its flag, environment variable, file key and documentation all come from it.

Reads `verbatim.toml` and the environment; opens no socket and no archive. What is wrong is a SettingsError that names the place.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast, get_args, get_type_hints

from gateway import values
from gateway.routes import DEFAULT_UPSTREAMS, SHAPES, Route, Routes, SettingsError
from gateway.tomlplace import line_of
from gateway.values import BadValueError

__all__ = ["CONFIG_NAME", "SETTINGS", "Setting", "Settings", "SettingsError", "find_config", "load", "settings_table"]

CONFIG_NAME = "verbatim.toml"
ENV_PREFIX = "VERBATIM_"
OTHER_VARIABLES = frozenset({"VERBATIM_CONFIG", "VERBATIM_SESSION", "VERBATIM_GATEWAY"})
"""Variables with the prefix that are no setting: the file to read, and what `verbatim run` tells its child."""
FOREIGN_PREFIXES = ("VERBATIM_SERVICE_", "VERBATIM_PORT_")
"""Kubernetes sets these in every pod beside a service named "verbatim"."""

TOKEN_FORM = (r"[A-Za-z0-9._-]+", "letters, digits, '.', '_' and '-', which need no escape in a URL")
"""RFC 3986 section 2.3."""
_ORIGIN_FORM = r"(?:\*|null|[A-Za-z][A-Za-z0-9+.-]*://(?:\[[0-9A-Fa-f:.]+\]|[^\s/:,\[\]]+)(?::[0-9]{1,5})?)"
ORIGINS_FORM = (rf"{_ORIGIN_FORM}(?:\s*,\s*{_ORIGIN_FORM})*", "origins such as https://chat.example.com, with no path, separated by commas")
"""What a text setting must look like whole, and how to say so."""

Kind = Literal["text", "path", "whole", "size", "seconds", "switch", "choice"]
T = TypeVar("T")

_ARCHIVE = Path("data/archive")


def _setting(
    default: T,
    help: str,
    *,
    kind: Kind = "text",
    least: float = 0,
    most: float = float("inf"),
    secret: bool = False,
    live: bool = False,
    form: tuple[str, str] | None = None,
) -> T:
    """A field of Settings. `least` and `most` bound numbers, `least` a text's length; a `secret` is never shown; a `live` one is taken
    anew on SIGHUP; `form` is a pattern for a text, and its name."""
    metadata = {"help": help, "kind": kind, "least": least, "most": most, "secret": secret, "live": live, "form": form}
    return field(default=default, metadata=metadata, repr=not secret)


def _default_routes() -> Mapping[str, Route]:
    return {name: Route.parse(name, url) for name, url in DEFAULT_UPSTREAMS.items()}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set, with its default. Sizes are bytes, times seconds."""

    host: str = _setting("127.0.0.1", "Address the gateway listens on. Anything but a loopback address lets others use it.")
    port: int = _setting(8787, "Port the gateway listens on; 0 takes a free one.", kind="whole", most=65535)
    tls_cert: Path | None = _setting(  # noqa: RUF009 - a Path does not change
        None, "File of the certificate (PEM, its chain after it) to serve https and wss with; `verbatim cert` makes one.", kind="path"
    )
    tls_key: Path | None = _setting(None, "File of the certificate's private key, where it is not in the same file.", kind="path")  # noqa: RUF009 - as above
    relay_token: str | None = _setting(
        None,
        "Token clients must send to use the gateway, at least 16 characters: as the header `x-verbatim-token`, or before the base URL's "
        "path, as in `/~~TOKEN/openai/v1`. Without one, whoever reaches the port may use it.",
        least=16,
        secret=True,
        live=True,
        form=TOKEN_FORM,
    )
    allow_origins: str | None = _setting(
        None,
        "Web pages that may use the gateway, such as `https://chat.example.com`, separated by commas; `*` for all. "
        "Programs, and pages of this machine, may anyhow.",
        live=True,
        form=ORIGINS_FORM,
    )
    max_streams: int = _setting(
        0,
        "Exchanges that may be under way at once in each worker; more are answered 503 at once. 0 sets no bound.",
        kind="whole",
        live=True,
    )
    half_close: Literal["auto", "wait", "leave"] = _setting(
        "auto",
        "What it means when a client finishes sending while it is answered: it waits, it has left, or (auto) it waits if it did not ask "
        "for keep-alive and a process on this machine still holds its socket.",
        kind="choice",
        live=True,
    )
    workers: int = _setting(
        1, "Processes that relay, each with a recorder of its own; they share the port.", kind="whole", least=1, most=64
    )
    viewer: bool = _setting(True, "Run the viewer beside the gateway.", kind="switch")
    viewer_host: str = _setting("127.0.0.1", "Address the viewer listens on.")
    viewer_port: int = _setting(8788, "Port the viewer listens on; 0 takes a free one.", kind="whole", most=65535)
    viewer_token: str | None = _setting(
        None, "Token the viewer asks for, at least 16 characters; a new one at each start when not set.", least=16, secret=True
    )
    viewer_hosts: str | None = _setting(None, "Further names the viewer is reached by, NAME:PORT, separated by commas.")
    archive: Path = _setting(_ARCHIVE, "Folder the recordings are written to; made when it does not exist.", kind="path")  # noqa: RUF009 - a Path does not change
    record: bool = _setting(True, "Record what passes. Off, the gateway only relays.", kind="switch")
    allow_unrecorded: bool = _setting(
        True,
        "Let a client keep a call out of the record, with `x-verbatim-record: none`; how many do is recorded.",
        kind="switch",
        live=True,
    )
    default_route: str | None = _setting(
        None, "Route that takes paths no route's name begins, such as a bare /v1/chat/completions.", live=True
    )
    queue_records: int = _setting(
        8192, "Records that may wait to be written; beyond that they are dropped and counted.", kind="whole", least=1
    )
    queue_bytes: int = _setting(64 << 20, "Memory that records waiting to be written may hold.", kind="size", least=1 << 16)
    sync: Literal["1s", "record", "never"] = _setting(
        "1s", "When writes are forced to disk: once a second, per record, never.", kind="choice"
    )
    compression: Literal["adaptive", "always"] = _setting(
        "adaptive",
        "Whether records are compressed always, or stored as they are while the writer cannot keep up; packing makes up for it.",
        kind="choice",
    )
    min_free: int = _setting(256 << 20, "Free disk space below which recording pauses; relaying goes on.", kind="size")
    keep_days: int = _setting(0, "Days that recordings are kept; hours older than that are removed. 0 keeps them for ever.", kind="whole")
    keep_bytes: int = _setting(
        0, "Disk space the recordings may take; beyond it the oldest hours are removed. 0 sets no bound.", kind="size"
    )
    pack_after_days: int = _setting(
        0, "Days after which sealed hours are packed, to a fraction of their size; `zstd -dc` reads them. 0 never does.", kind="whole"
    )
    seal: bool = _setting(True, "Seal each hour when it is over, so that a later change of it shows.", kind="switch")
    seal_key: Path | None = _setting(None, "File of the private key that signs seals, made by `verbatim keygen`.", kind="path")  # noqa: RUF009 - as above
    part_bytes: int = _setting(1 << 20, "Bytes after which a long exchange is cut into a further part.", kind="size", least=1 << 12)
    part_seconds: float = _setting(10.0, "Seconds after which a long exchange is cut into a further part.", kind="seconds", least=0.1)
    max_body: int = _setting(
        64 << 20, "Bytes of body recorded per direction and exchange; the rest is relayed, counted and hashed.", kind="size"
    )
    max_header_bytes: int = _setting(
        96 << 10, "Largest request or response head accepted.", kind="size", least=1 << 10, most=16 << 20, live=True
    )
    max_header_fields: int = _setting(256, "Most header fields accepted in one head.", kind="whole", least=8, most=10_000, live=True)
    max_request_bytes: int = _setting(
        0,
        "Longest request body taken; a longer one gets 413, before it is read where it says its length. 0 sets no bound.",
        kind="size",
        live=True,
    )
    header_timeout: float = _setting(20.0, "Seconds a client may take to send a request's head.", kind="seconds", least=0.1, live=True)
    connect_timeout: float = _setting(10.0, "Seconds to reach an upstream, TLS included.", kind="seconds", least=0.01, live=True)
    handshake_timeout: float = _setting(
        30.0,
        "Seconds an upstream may take to answer a websocket's handshake, connecting included; 0 waits for ever.",
        kind="seconds",
        live=True,
    )
    read_timeout: float = _setting(
        0.0, "Seconds an upstream may be silent; 0 waits for ever, as long thinking needs.", kind="seconds", live=True
    )
    idle_timeout: float = _setting(
        4.0, "Seconds an unused upstream connection is kept; below the 5 s after which many servers close.", kind="seconds", live=True
    )
    idle_timeout_max: float = _setting(
        60.0, "The same where the upstream promises to keep it longer (`Keep-Alive: timeout=N`).", kind="seconds", live=True
    )
    grace: float = _setting(10.0, "Seconds running exchanges get to finish when the gateway stops.", kind="seconds", live=True)
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "How much is logged.", kind="choice", live=True)
    access_log: bool = _setting(True, "Log one line for each exchange.", kind="switch", live=True)
    routes: Mapping[str, Route] = field(default_factory=_default_routes)

    def table(self) -> Routes:
        """The routes as the relay asks them. Raises SettingsError when `default_route` names none."""
        return Routes(self.routes, self.default_route)


class Setting(NamedTuple):
    """One setting as flags, documentation and readers of files need it."""

    name: str
    kind: Kind
    help: str
    default: Any
    choices: tuple[str, ...]
    least: float
    most: float
    secret: bool
    live: bool
    form: tuple[str, str] | None

    @property
    def variable(self) -> str:
        return ENV_PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def read(self, value: object, *, text: bool) -> Any:
        """`value` as the field's type; `text` allows numbers and switches to be written as text. Raises BadValueError."""
        result = self._read(value, text)
        if self.kind in ("whole", "size", "seconds") and not self.least <= result <= self.most:
            raise BadValueError(f"must be {_range(self)}")
        if self.kind == "text" and len(result) < self.least:
            raise BadValueError(f"must have at least {self.least:g} characters")
        if self.form is not None and not re.fullmatch(self.form[0], result):
            raise BadValueError(f"must be {self.form[1]}")
        return result

    def _read(self, value: object, text: bool) -> Any:
        if self.kind == "size":
            return values.size(value)
        if self.kind == "seconds":
            return values.duration(value)
        if self.kind in ("whole", "switch"):
            if isinstance(value, str) and not text:
                raise BadValueError(f"must be {'a whole number' if self.kind == 'whole' else 'true or false'}, without quotes")
            return values.number(value) if self.kind == "whole" else values.boolean(value)
        if isinstance(value, Path) and self.kind == "path":
            return value
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise BadValueError(
                "must be text" if self.secret else f"must be text, for example {self.default!s}" if self.default else "must be text"
            )
        if self.kind == "choice" and value not in self.choices:
            raise BadValueError(f"must be one of {', '.join(self.choices)}")
        return Path(value).expanduser() if self.kind == "path" else value.strip()

    def show(self) -> str:
        """The default as one would write it."""
        if self.default is None:
            return ""
        if self.kind == "size":
            return values.show_size(self.default)
        if self.kind == "seconds":
            return values.show_duration(self.default)
        return str(self.default).lower() if self.kind == "switch" else str(self.default)


def _range(setting: Setting) -> str:
    show: Callable[[Any], str] = values.show_size if setting.kind == "size" else lambda number: f"{number:g}"
    if setting.most == float("inf"):
        return f"{show(setting.least)} or more"
    return f"from {show(setting.least)} to {show(setting.most)}"


def _all_settings() -> tuple[Setting, ...]:
    hints = get_type_hints(Settings)
    return tuple(
        Setting(
            f.name,
            m["kind"],
            m["help"],
            f.default,
            get_args(hints[f.name]) if m["kind"] == "choice" else (),
            m["least"],
            m["most"],
            m["secret"],
            m["live"],
            m["form"],
        )
        for f in fields(Settings)
        if (m := f.metadata)
    )


SETTINGS: tuple[Setting, ...] = _all_settings()
"""Every setting but the routes, in order."""

_BY_NAME = {setting.name: setting for setting in SETTINGS}


class RouteKey(NamedTuple):
    """One key of a [routes.NAME] table."""

    name: str
    kind: type
    help: str


ROUTE_KEYS = (
    RouteKey("upstream", str, "Base URL of the upstream; may have a path and a query of its own."),
    RouteKey("http2", bool, "Speak HTTP/2 to the upstream."),
    RouteKey(
        "proxy",
        str,
        "Proxy to reach the upstream through: http://, https://, socks5:// or socks5h://. Not set, `HTTPS_PROXY`, `HTTP_PROXY`, "
        '`ALL_PROXY` and `NO_PROXY` say it, but for upstreams on this machine; "none" takes none.',
    ),
    RouteKey("shape", str, f"Error format of the gateway's own answers: {', '.join(SHAPES)}. Guessed from name and host when not set."),
    RouteKey("ca_file", str, "File of certificates to trust for this upstream instead of the system's."),
    RouteKey("client_cert", str, "File of the certificate (PEM) that the gateway shows this upstream, the key in it or in `client_key`."),
    RouteKey("client_key", str, "File of the private key of `client_cert`, not encrypted."),
    RouteKey("read_timeout", float, "Seconds this upstream may be silent; goes before the gateway's own `read_timeout`."),
    RouteKey(
        "idle_timeout", float, "Seconds an unused connection to this upstream is kept, at most; goes before the gateway's `idle_timeout`."
    ),
    RouteKey("websockets", bool, "false answers websocket handshakes with 426, upon which clients such as Codex use HTTP at once."),
)
_ROUTE_KEYS = {key.name: key for key in ROUTE_KEYS}


class _Given(NamedTuple):
    """A value somebody wrote, and where: "verbatim.toml, line 3", "VERBATIM_PORT", "--port"."""

    value: Any
    place: str


def find_config(flag: Path | None, env: Mapping[str, str]) -> Path | None:
    """The file to read: the flag's, the environment's, else ./verbatim.toml where it exists."""
    if flag is not None:
        return flag
    if named := env.get("VERBATIM_CONFIG"):
        return Path(named)
    return Path(CONFIG_NAME) if Path(CONFIG_NAME).exists() else None


def load(
    flags: Mapping[str, object], env: Mapping[str, str], toml_path: Path | None, *, defaults: Mapping[str, object] | None = None
) -> Settings:
    """The settings: flags over environment over file over defaults. Reads the file, so it blocks. Raises SettingsError.

    `flags` holds field names with raw values, None where not given; "routes" holds texts "NAME=URL". `defaults` stand in for ours.
    """
    given = {name: _Given(value, "default") for name, value in (defaults or {}).items()}
    routes: dict[str, dict[str, _Given]] = {name: {"upstream": _Given(url, "default")} for name, url in DEFAULT_UPSTREAMS.items()}
    if toml_path is not None:
        _from_file(toml_path, given, routes)
    _from_env(env, given, routes)
    _from_flags(flags, given, routes)
    settings = Settings(
        **{name: item.value for name, item in given.items()}, routes={name: _route(name, keys, env) for name, keys in routes.items()}
    )
    if settings.default_route is not None and settings.default_route not in settings.routes:
        raise SettingsError(f"{given['default_route'].place} must name a route; there are: {', '.join(sorted(settings.routes))}")
    return settings


def _from_file(path: Path, given: dict[str, _Given], routes: dict[str, dict[str, _Given]]) -> None:
    text, table = _parse(path)

    def place(*key: str) -> str:
        line = line_of(text, key)
        return f"{path}, line {line}" if line else str(path)

    for key, value in table.items():
        if key == "routes":
            continue
        if key not in _BY_NAME:
            raise SettingsError(f"{place(key)}: unknown setting {key!r}{_did_you_mean(key, [*_BY_NAME, 'routes'])}")
        given[key] = _read(_BY_NAME[key], value, f"{place(key)}: {key}", text=False)
    tables = table.get("routes", {})
    if not isinstance(tables, dict):
        raise SettingsError(f"{place('routes')}: routes must be tables, each written [routes.NAME]")
    for name, keys in tables.items():
        if not isinstance(keys, dict):
            raise SettingsError(
                f'{place("routes", name)}: route {name!r} must be a table: [routes.{name}] and below it upstream = "https://..."'
            )
        for key, value in keys.items():
            known = _ROUTE_KEYS.get(key)
            if known is None:
                raise SettingsError(f"{place('routes', name, key)}: unknown key {key!r} of route {name!r}{_did_you_mean(key, _ROUTE_KEYS)}")
            if known.kind is not float and not isinstance(value, known.kind):
                expected = "true or false" if known.kind is bool else "text in quotes"
                raise SettingsError(f"{place('routes', name, key)}: {key} of route {name!r} must be {expected}")
            routes.setdefault(name, {})[key] = _read_key(known, value, place("routes", name, key), f": {key} of route {name!r}")
        routes.setdefault(name, {}).setdefault("upstream", _Given("", place("routes", name)))


def _parse(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise SettingsError(f"{path}: there is no such file; write one or leave out --config and VERBATIM_CONFIG") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: is no UTF-8 text") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, _, where = str(error).partition(" (at ")
        where = where.removesuffix(")").replace("end of document", f"line {text.count(chr(10)) + 1}, its end")
        raise SettingsError(f"{path}, {where or 'somewhere'}: {what[:1].lower()}{what[1:]}") from None


def _from_env(env: Mapping[str, str], given: dict[str, _Given], routes: dict[str, dict[str, _Given]]) -> None:
    for variable, value in env.items():
        if not variable.startswith(ENV_PREFIX) or variable.startswith(FOREIGN_PREFIXES) or variable in OTHER_VARIABLES or not value:
            continue
        name = variable.removeprefix(ENV_PREFIX).lower()
        if name in _BY_NAME:
            given[name] = _read(_BY_NAME[name], value, variable, text=True)
        elif name.startswith("routes_"):
            _route_from_env(variable, name.removeprefix("routes_"), value, routes)
        elif hint := _did_you_mean(variable, [setting.variable for setting in SETTINGS]):
            raise SettingsError(f"{variable}: there is no such setting{hint}")


def _route_from_env(variable: str, rest: str, value: str, routes: dict[str, dict[str, _Given]]) -> None:
    for key in ROUTE_KEYS:
        written = rest.removesuffix("_" + key.name)
        if written == rest or not written:
            continue
        # A variable's name has no '-': VERBATIM_ROUTES_MY_LLM_PROXY means the file's [routes.my-llm] where there is one.
        name = next((known for known in routes if known.replace("-", "_") == written), written)
        routes.setdefault(name, {})[key.name] = _read_key(key, value, variable)
        return
    raise SettingsError(
        f"{variable}: must be VERBATIM_ROUTES_NAME_KEY with one of the keys {', '.join(key.name.upper() for key in ROUTE_KEYS)}"
    )


def _read_key(key: RouteKey, value: object, place: str, what: str = "") -> _Given:
    try:
        read = values.boolean(value) if key.kind is bool else values.duration(value) if key.kind is float else value
    except BadValueError as error:
        raise SettingsError(f"{place}{what} {error}") from None
    return _Given(read, place)


def _from_flags(flags: Mapping[str, object], given: dict[str, _Given], routes: dict[str, dict[str, _Given]]) -> None:
    for name, value in flags.items():
        if name == "routes":
            for text in cast(Iterable[str], value or ()):
                route, equals, url = text.partition("=")
                if not equals:
                    raise SettingsError("--route: must be NAME=URL, for example local=http://127.0.0.1:11434")
                routes.setdefault(route.strip(), {})["upstream"] = _Given(url, "--route")
        elif value is not None:
            given[name] = _read(_BY_NAME[name], value, _BY_NAME[name].flag, text=True)


def _read(setting: Setting, value: object, place: str, *, text: bool) -> _Given:
    try:
        return _Given(setting.read(value, text=text), place)
    except BadValueError as error:
        raise SettingsError(f"{place} {error}") from None


def _route(name: str, keys: Mapping[str, _Given], env: Mapping[str, str]) -> Route:
    if "upstream" not in keys:
        place = next(iter(keys.values())).place
        raise SettingsError(f'{place}: route {name!r} has no upstream; add upstream = "https://..."')
    files = {key: keys[key].value or None for key in ("ca_file", "client_cert", "client_key") if key in keys}
    if any(files.values()):
        from gateway.tls import problem_with_files

        if problem := problem_with_files(**{key: files.get(key) for key in ("ca_file", "client_cert", "client_key")}):
            key, why = problem
            raise SettingsError(f"{keys[key].place}: {key} of route {name!r}: {why}")
    blamed = keys["upstream"].place
    try:
        return Route.parse(name, **{"url" if key == "upstream" else key: item.value for key, item in keys.items()}, environment=env)
    except SettingsError as error:
        for key in ("shape", "proxy", "client_cert"):
            if key in keys and f": {key} must" in str(error):
                blamed = keys[key].place
        raise SettingsError(f"{blamed}: {error}") from None


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    return f"; did you mean {close[0]!r}?" if close else ""


def settings_table() -> str:
    """The table of gateway/SETTINGS.md, in Markdown, one row a setting."""
    rows = ["| Setting | Default | Variable | What it does |", "|---|---|---|---|"]
    for setting in SETTINGS:
        choices = f" One of {', '.join(f'`{choice}`' for choice in setting.choices)}." if setting.choices else ""
        default = f"`{setting.show()}`" if setting.show() else "-"
        live = " Taken anew on SIGHUP." if setting.live else ""
        rows.append(f"| `{setting.name}` | {default} | `{setting.variable}` | {setting.help}{choices}{live} |")
    rows.extend(f"| `routes.NAME.{key.name}` | - | `VERBATIM_ROUTES_NAME_{key.name.upper()}` | {key.help} |" for key in ROUTE_KEYS)
    return "\n".join(rows) + "\n"
