"""Templates to HTML: one Jinja environment in which nothing is HTML unless it was made so on purpose.

Every string a template prints is escaped, and its invisible characters are named first, without the template asking for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse, Response

from dashboard import text, timeline, views, words

__all__ = ["Asset", "Renderer", "assets"]

_HERE = Path(__file__).parent
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of ours, in memory: there is no path for a request to leave by."""

    content: bytes
    media_type: str
    version: str


def assets() -> dict[str, Asset]:
    """The viewer's own files by name. Reads the disk: call it once, before serving."""
    found = {}
    for path in sorted((_HERE / "static").iterdir()):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            found[path.name] = Asset(content, _TYPES[path.suffix], hashlib.sha256(content).hexdigest()[:12])
    return found


def _shown(value: object) -> object:
    return text.plain(value) if type(value) is str else value


def _recorded(value: str) -> Markup:
    """A recorded value; where the gateway took a credential out, one can see so."""
    return text.marked(value).replace("[redacted]", Markup('<span class="redacted">[redacted]</span>'))


def _with_query(query: Mapping[str, str], name: str, value: object) -> str:
    """This page's address with one parameter set anew."""
    return "?" + urlencode({**query, name: str(value)})


class Renderer:
    """Renders the templates. Thread-safe; reads each template from disk once."""

    def __init__(self, files: Mapping[str, Asset], **shared: object) -> None:
        """`shared` values are there in every template."""
        self._env = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            auto_reload=False,
            finalize=_shown,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._env.filters |= {
            "bytes": text.size,
            "clock": text.clock,
            "day": text.day,
            "duration": text.duration,
            "exact": escape,  # a form gives back what was typed, without the names of what cannot be seen
            "iso": lambda at: at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "marked": text.marked,
            "recorded": _recorded,
            "plural": lambda count, one, many: f"{count:,} {one if count == 1 else many}",
        }
        self._env.globals |= {
            "asset": lambda name: f"/static/{name}?v={files[name].version}",
            "bar_width": timeline.WIDTH,
            "ended": words.ended,
            "found_at": words.found_at,
            "tone": words.tone,
            "trouble": words.trouble,
            "view_titles": views.TITLES,
            "with_query": _with_query,
            **shared,
        }

    def html(self, template: str, **values: Any) -> str:
        """The page as text. May read a template from disk the first time."""
        return self._env.get_template(template).render(values)

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """The page as a response."""
        return HTMLResponse(self.html(template, **values), status)
