"""Settings taken anew by a gateway that runs: what changes at once, what needs a restart, and how that is said. Reads nothing itself."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping
from typing import Any, NamedTuple

from gateway.routes import Route
from gateway.settings import SETTINGS, Settings, SettingsError

__all__ = ["Change", "merge", "not_taken", "pack", "share", "unpack"]


class Change(NamedTuple):
    """Settings taken anew."""

    settings: Settings
    """What holds from now on: the new routes and live settings, the old of everything else."""
    taken: tuple[str, ...]
    """Names of what differs from before: settings, and routes as "routes.NAME"."""
    later: tuple[str, ...]
    """Names of settings that differ and need a restart."""

    def __str__(self) -> str:
        text = f"the settings were read again; changed: {', '.join(self.taken) or 'nothing'}"
        return f"{text}; only after a restart: {', '.join(self.later)}" if self.later else text


def merge(old: Settings, new: Settings) -> Change:
    """What becomes of a gateway with the settings `old` that is told of `new`. A route that says the same as before stays the same object:
    its idle connections are still good. Pure."""
    names = [setting.name for setting in SETTINGS if getattr(old, setting.name) != getattr(new, setting.name)]
    live = {setting.name for setting in SETTINGS if setting.live}
    routes = {name: old.routes[name] if old.routes.get(name) == route else route for name, route in new.routes.items()}
    taken = {name: getattr(new, name) for name in names if name in live}
    return Change(
        dataclasses.replace(old, **taken, routes=routes),
        (*taken, *_differing(old.routes, routes)),
        tuple(name for name in names if name not in live),
    )


def _differing(old: Mapping[str, Route], new: Mapping[str, Route]) -> list[str]:
    return [f"routes.{name}" for name in sorted({*old, *new}) if old.get(name) is not new.get(name)]


def not_taken(error: Exception) -> str:
    """What the log says of settings that could not be taken. Only an error of ours says what is wrong without quoting what is secret."""
    why = str(error) if isinstance(error, SettingsError) else type(error).__name__
    return f"the settings were not taken anew, those before hold: {why}"


def share(settings: Settings) -> Settings:
    """The settings of one worker: bounds on memory are divided, so that they bound all workers together as they bound one."""
    count = settings.workers
    return dataclasses.replace(
        settings,
        queue_bytes=max(settings.queue_bytes // count, 1 << 16),
        queue_records=max(settings.queue_records // count, 1),
    )


def pack(settings: Settings) -> bytes:
    """The settings for another process of this gateway. By name: that process may already be of the next version, installed meanwhile."""
    return pickle.dumps(_fields(settings) | {"routes": [_fields(route) for route in settings.routes.values()]})


def unpack(data: bytes) -> Settings:
    """What `pack` packed: names not known here are left out, what is new here has its default. Only for what a process of ours sent."""
    values = pickle.loads(data)  # noqa: S301 - see above
    routes = [Route(**_known(Route, route)) for route in values.pop("routes")]
    return Settings(**_known(Settings, values), routes={route.name: route for route in routes})


def _fields(value: Settings | Route) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _known(kind: type[Settings | Route], values: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: values[field.name] for field in dataclasses.fields(kind) if field.name in values and field.init}
