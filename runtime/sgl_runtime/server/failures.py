"""Errors as HTTP: OpenAI's error object, and which status each error of ours has."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from sgl_lang.errors import InvalidRequest, SglError

__all__ = ["Forbidden", "NotFound", "TooLarge", "Unauthorized", "error_body", "error_response"]


class NotFound(InvalidRequest):
    """No such model, program or path."""

    code = "not_found"
    status = 404


class Unauthorized(InvalidRequest):
    """No or a wrong API key."""

    code = "invalid_api_key"
    status = 401


class Forbidden(InvalidRequest):
    """Not for the page that asks."""

    code = "forbidden"
    status = 403


class TooLarge(InvalidRequest):
    """The body exceeds the server's limit."""

    code = "request_too_large"
    status = 413


_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    503: "overloaded_error",
}


def error_body(error: SglError) -> dict[str, Any]:
    """``{"error": {message, type, param, code}}``; `param` names the field or the place in it."""
    status = error.status
    kind = _TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")
    message = error.message if error.hint is None else f"{error.message} ({error.hint})"
    if error.place is not None:
        message = f"{error.place}: {message}"
    return {"error": {"message": message, "type": kind, "param": error.place, "code": error.code}}


def error_response(error: SglError) -> Response:
    headers = {"retry-after": "1"} if error.retryable else {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(
        msgspec.json.encode(error_body(error)),
        status_code=error.status,
        headers=headers,
        media_type="application/json",
    )
