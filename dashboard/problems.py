"""When a page cannot be shown: what happened, and what to do about it, as a page or (under /api/) as JSON.

Says nothing of the inside: no traceback, no token, and what a stranger may read (401, 403) tells nothing of the archive.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from archive.errors import NotFound
from dashboard.api import answer
from dashboard.guard import same_origin
from dashboard.render import Renderer

__all__ = ["Problems"]


@dataclass(frozen=True, slots=True)
class _Words:
    title: str
    advice: str


_WORDS = {
    400: _Words("That question cannot be answered", "Change the filter, or go back to the list."),
    401: _Words("This viewer is locked", "Open the address that was printed when the viewer started: it carries the token."),
    403: _Words(
        "This address is not the viewer\u2019s",
        "Open it as 127.0.0.1 or localhost with its port. To use another name, start the viewer with that name allowed.",
    ),
    404: _Words("Not here", "It may be in another archive folder, or it was not written yet. The list shows all that is here."),
    405: _Words("The viewer only shows", "It has no page that changes anything; ask with GET."),
    500: _Words("The viewer stumbled", "The archive is not harmed: the viewer never changes what was recorded. Its log says more."),
    503: _Words("The archive cannot be read", "See that the folder is there and that this user may read it, then load the page again."),
}


class Problems:
    """Answers for what went wrong. Renders small pages only, so it may run on the event loop."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        renderer.html("problem.html", code=500, title="", detail="", advice="", inside=False, path="/", live=0)  # read it from disk now

    def refuse(self, scope: Scope, status: int) -> Response:
        """What the guard answers: 401 without the token, 403 for a strange Host."""
        response = self._answer(str(scope["path"]), status, "", inside=False)
        if status == 401:
            response.headers["WWW-Authenticate"] = 'Bearer realm="verbatim viewer"'
        return response

    async def asked(self, request: Request, error: Exception) -> Response:
        """A question with no answer: unknown path, odd id, unreadable filter."""
        assert isinstance(error, HTTPException)
        detail = "" if error.detail == HTTPStatus(error.status_code).phrase else error.detail
        response = self._answer(request.scope["path"], error.status_code, detail)
        response.headers.update(error.headers or {})
        return response

    async def archive(self, request: Request, error: Exception) -> Response:
        """What the archive cannot give."""
        return self._answer(request.scope["path"], 404 if isinstance(error, NotFound) else 503, str(error))

    async def disk(self, request: Request, error: Exception) -> Response:
        """The disk refused."""
        assert isinstance(error, OSError)
        return self._answer(request.scope["path"], 503, error.strerror or type(error).__name__)

    def ours(self, request: Request) -> Response:
        """A mistake of the viewer's own."""
        return self._answer(request.scope["path"], 500, "")

    def _answer(self, path: str, status: int, detail: str, *, inside: bool = True) -> Response:
        words = _WORDS.get(status) or _Words(HTTPStatus(status).phrase, "")
        if path.startswith("/api/"):
            return answer({"error": {"status": status, "message": detail or words.title, "advice": words.advice}}, status)
        return self._renderer.page(
            "problem.html",
            status,
            code=status,
            title=words.title,
            detail=detail,
            advice=words.advice,
            inside=inside,
            path=same_origin(path),
            live=0,
        )
