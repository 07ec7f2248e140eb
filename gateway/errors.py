"""Verbatim's own answers: what a client gets when the upstream could not be asked. JSON in the provider's error shape."""

from __future__ import annotations

import json
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final, Literal

__all__ = ["GatewayError", "Shape", "answer", "answer_head", "no_route", "reason_phrase"]

Shape = Literal["openai", "anthropic", "gemini"]

_GEMINI_STATUS: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""google.rpc.Code names for our statuses (https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto)."""


_ANTHROPIC_KIND: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""https://docs.anthropic.com/en/api/errors"""

RETRY_AFTER: Final = b"1"
"""Seconds after which one may ask again when the gateway is full. SDKs follow it, and then back off by themselves."""


class GatewayError(Exception):
    """The upstream could not be asked, or did not answer. `message` has no secrets; `code` goes into `x-verbatim-error`."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def no_route(names: Iterable[str]) -> GatewayError:
    """For a path that begins with none of the routes' `names`."""
    known = ", ".join(f"/{name}" for name in names)
    why = f"no route for this path; there are: {known}. The setting default_route names one for all other paths, such as a bare /v1/..."
    return GatewayError(404, "no_route", why)


def answer(failure: GatewayError, shape: Shape, id: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body of our own answer. Shapes: the vendors' error pages (OpenAI error codes, Anthropic errors, google.rpc.Status).

    `id` is the exchange's, empty where there is none.
    """
    message = f"Verbatim: {failure.message}"
    body: dict[str, object]
    if shape == "anthropic":
        kind = _ANTHROPIC_KIND.get(failure.status, "api_error" if failure.status >= 500 else "invalid_request_error")
        body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": id or None}
    elif shape == "gemini":
        body = {"error": {"code": failure.status, "message": message, "status": _GEMINI_STATUS.get(failure.status, "UNKNOWN")}}
    else:
        kind = "server_error" if failure.status >= 500 else "invalid_request_error"
        body = {"error": {"message": message, "type": kind, "param": None, "code": failure.code}}
    content = json.dumps(body).encode()
    fields = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(content)),
        (b"x-verbatim-error", failure.code.encode()),
    ]
    if id:
        fields.append((b"x-verbatim-id", id.encode()))
    if failure.status == 401:  # RFC 9110 section 15.5.2 wants a challenge; browsers ask nobody for a scheme they do not know
        fields.append((b"www-authenticate", b"x-verbatim-token"))
    if failure.code == "overloaded":
        fields.append((b"retry-after", RETRY_AFTER))
    if failure.status == 426:  # RFC 9110 section 15.5.22: it must name a protocol that would do
        fields += [(b"upgrade", b"HTTP/1.1"), (b"connection", b"upgrade")]
    return fields, content


def answer_head(failure: GatewayError, fields: list[tuple[bytes, bytes]]) -> bytes:
    """The raw head of our own answer."""
    start = b"HTTP/1.1 %d %b" % (failure.status, reason_phrase(failure.status))
    return b"\r\n".join([start, *[name + b": " + value for name, value in fields], b"", b""])


def reason_phrase(status: int) -> bytes:
    """The standard phrase for a status (RFC 9110 section 15)."""
    return HTTPStatus(status).phrase.encode()
