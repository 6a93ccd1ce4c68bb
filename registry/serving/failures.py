"""Errors as OpenAI's interface tells them: a status and ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from registry.errors import (
    BusyError,
    HubError,
    InputError,
    NotFoundError,
    PragregError,
    StorageError,
    UsageError,
)
from registry.masking import masked
from registry.serving.requests import NOT_SUPPORTED

CLIENT_GONE = 499
"""The status in the log of a request whose client did not wait for the answer; nobody receives it."""

_STATUS: tuple[tuple[type[PragregError], int], ...] = (
    (UsageError, 400),
    (InputError, 400),
    (NotFoundError, 404),
    (BusyError, 503),
    (StorageError, 503),
    (HubError, 503),
)
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}
_CODES = {400: "invalid_value", 404: "not_found", 405: "method_not_allowed", 408: "timeout", 503: "unavailable"}
_NOT_TEXT = "it is blank, or has a NUL character"
_LONGEST_MESSAGE, _LONGEST_PARAM = 1000, 200
_BRANCHES = ("str", "system", "developer", "user", "assistant")
_BRANCH_STARTS = ("list[", "function-", "constrained-")
"""How pydantic names the branches of a union, which are no part of where a value stands."""


class ApiError(HTTPException):
    """A request that is answered by an error; ``code`` is for programs, ``param`` names the wrong parameter."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Keep what the error says."""
        super().__init__(status, message, dict(headers) if headers else None)
        self.code, self.param = code or _CODES.get(status), param


class ClientGoneError(Exception):
    """The client closed the connection before it had its answer."""


def error_body(status: int, message: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return the body of an error."""
    default = "invalid_request_error" if status < 500 else "server_error"
    kind = _TYPES.get(status, default)
    told = _sendable(masked(message), _LONGEST_MESSAGE)
    named = None if param is None else _sendable(param, _LONGEST_PARAM)
    return {"error": {"message": told, "type": kind, "param": named, "code": code}}


def error_response(error: ApiError) -> JSONResponse:
    """Return an error as the client gets it."""
    body = error_body(error.status_code, str(error.detail), code=error.code, param=error.param)
    return JSONResponse(body, error.status_code, dict(error.headers) if error.headers else None)


def api_error(error: BaseException) -> ApiError:
    """Return what a client is told of any error: those of this project in their own words, of a bug only its name."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        return _http_error(error)
    if isinstance(error, PragregError):
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        hint = f"; try: {error.hint}" if error.hint else ""
        return ApiError(status, f"{error.message}{hint}")
    if isinstance(error, TimeoutError):
        return ApiError(504, "the answer took longer than this server gives a request", code="timeout")
    return ApiError(500, f"a bug in pragreg: {type(error).__name__}; the server's log has more", code="internal_error")


def is_trouble(error: BaseException, told: ApiError) -> bool:
    """Return whether the operator should look at an error: neither the client's doing nor a limit."""
    return told.status_code >= 500 and not isinstance(error, (ApiError, TimeoutError))


def validation_error(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """Return the error of a body or path that is not as described."""
    # Of a union every branch tells what it misses; the one that got farthest is the one that was meant.
    error = max(errors, key=lambda each: len(_where(each)))
    where = _where(error)
    kind = str(error["type"])
    if kind == "json_invalid":
        return ApiError(400, "the body is not JSON", code="invalid_json")
    if not where:
        return ApiError(400, "the body must be a JSON object, sent with content-type: application/json")
    if kind == "extra_forbidden":
        return ApiError(400, f"there is no parameter {where!r} here", code="unknown_parameter", param=where)
    if error["loc"][1] in NOT_SUPPORTED:
        return ApiError(
            400, f"{where!r} is not supported here: leave it out", code="unsupported_parameter", param=where
        )
    if kind == "missing":
        return ApiError(400, f"the parameter {where!r} is missing", code="missing_required_parameter", param=where)
    is_text = kind == "string_pattern_mismatch" and error["loc"][0] == "body"
    return ApiError(400, f"{where}: {_NOT_TEXT if is_text else error['msg']}", param=where)


def _sendable(text: str, longest: int) -> str:
    """Return text that can be encoded, whatever a client called its parameters, and is not as long as its body."""
    text = text.encode("utf-8", errors="replace").decode()
    return text if len(text) <= longest else text[:longest] + "..."


def _where(error: Mapping[str, Any]) -> str:
    """Return where a value stands, as ``messages[0].content``."""
    place = ""
    for part in error["loc"][1:]:
        if isinstance(part, int):
            place += f"[{part}]"
        elif not place:
            place = str(part)
        elif part not in _BRANCHES and not str(part).startswith(_BRANCH_STARTS):
            place += f".{part}"
    return place


def _http_error(error: HTTPException) -> ApiError:
    if error.status_code == 404:
        return ApiError(404, "there is nothing at this path; GET /openapi.json describes what there is")
    if error.status_code == 405:
        return ApiError(405, "this path does not take this method", headers=error.headers)
    if error.status_code == 400:
        return ApiError(400, "the body is not JSON that can be read", code="invalid_json")
    return ApiError(error.status_code, HTTPStatus(error.status_code).phrase, headers=error.headers)
