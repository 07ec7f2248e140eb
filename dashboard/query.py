"""What a list is asked for: the query parameters that pages and API share, checked once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.exceptions import HTTPException

from archive.errors import BadName
from archive.reader import Page, Reader

__all__ = ["STATUSES", "Filter"]

_STATUS = re.compile(r"[1-5]xx|[1-5][0-9][0-9]|none")
_BEFORE = re.compile(r"[0-9a-f-]{36}")
_PAGE = 50
STATUSES = (
    ("", "Any status"),
    ("2xx", "2xx success"),
    ("4xx", "4xx client error"),
    ("429", "429 too many"),
    ("5xx", "5xx server error"),
    ("none", "No answer"),
)
"""What the page offers to choose; the query takes any status."""
_MOST = 500
_NAMES = ("route", "text", "session", "user", "tag")
"""What is given by name, and taken as it is."""


@dataclass(frozen=True, slots=True)
class Filter:
    """`status` is "429", "4xx" or "none" (no answer came); `before` the id after which the page begins."""

    route: str = ""
    status: str = ""
    text: str = ""
    before: str = ""
    limit: int = _PAGE
    session: str = ""
    user: str = ""
    tag: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Filter:
        """From query parameters. Raises a 400 whose words tell what would be right."""
        status = query.get("status", "").strip().lower()
        if status and not _STATUS.fullmatch(status):
            raise HTTPException(400, "The status filter is a number like 429, a class like 4xx, or none.")
        before = query.get("before", "")
        if before and not _BEFORE.fullmatch(before):
            raise HTTPException(400, "\u201cbefore\u201d is the id of an exchange, as the link to older ones has it.")
        limit = query.get("limit", str(_PAGE))
        if not (limit.isascii() and limit.isdigit() and len(limit) <= 3 and 1 <= int(limit) <= _MOST):
            raise HTTPException(400, f"\u201climit\u201d is a number from 1 to {_MOST}.")
        named = {name: query.get(name, "").strip() for name in _NAMES}
        return cls(status=status, before=before, limit=int(limit), **named)

    @property
    def narrows(self) -> bool:
        """Whether anything is filtered out."""
        return bool(self.status or any(getattr(self, name) for name in _NAMES))

    @property
    def called(self) -> dict[str, str]:
        """By which names of calls it filters."""
        return {name: value for name in ("session", "user", "tag") if (value := getattr(self, name))}

    def query(self, *, before: str | None = None) -> dict[str, str]:
        """The parameters that ask for the same, from `before` on."""
        wanted = {"route": self.route, "status": self.status, "text": self.text, **self.called, "before": before or ""}
        if self.limit != _PAGE:
            wanted["limit"] = str(self.limit)
        return {name: value for name, value in wanted.items() if value}

    def page(self, reader: Reader) -> Page:
        """The page asked for. Blocks on the disk. Raises a 400 for a text that cannot be looked for."""
        try:
            return reader.page(
                before=self.before or None,
                limit=self.limit,
                status=self.status or None,
                **{name: getattr(self, name) or None for name in _NAMES},
            )
        except BadName as error:
            raise HTTPException(400, f"{str(error)[:1].upper()}{str(error)[1:]}.") from error
