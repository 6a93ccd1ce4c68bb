"""The OpenAPI description: what each path takes, and every status that it may answer with."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from registry.serving.replies import ErrorBody
from registry.serving.settings import ServeSettings

_ERRORS = {
    400: "What was sent is not as described, or cannot be answered.",
    401: "A key is needed, or this is none that is good.",
    403: "The key is not good for this, or the server is for this machine alone and was not asked as localhost.",
    404: "There is no such model or document.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    431: "The headers are too large.",
    429: "The queue is full; the header Retry-After says when to try again.",
    500: "Stored bytes are damaged, or a bug.",
    503: "The server is stopping, or its catalog or the Hub cannot be reached.",
    504: "The answer took longer than this server gives a request.",
}
_RETRY = {"Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer", "minimum": 1}}}
_OPEN_PATHS = ("/health",)
_EVERYWHERE = (403, 413, 431)

SSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answers; with `stream` as server-sent events, each a chunk as OpenAI's, the last [DONE].",
        "content": {"text/event-stream": {}},
    }
}


def answers_with(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the errors that a path may answer with, as FastAPI takes them."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        found[status] = {"model": ErrorBody, "description": _ERRORS[status]}
        if status == 429:
            found[status]["headers"] = _RETRY
    return found


def _error(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ErrorBody"}
    return {"description": _ERRORS[status], "content": {"application/json": {"schema": schema}}}


def describe(app: FastAPI, settings: ServeSettings, *, needs_key: bool) -> dict[str, Any]:
    """Return the description of ``app`` as it is now: with this server's limits, and keys if they are needed."""
    whole = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = whole["components"]["schemas"]
    # What FastAPI adds to every path; wrong bodies are answered by 400 here.
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for name in ("ChatRequest", "CompletionRequest"):
        for field in ("max_tokens", "max_completion_tokens"):
            if (described := schemas[name]["properties"].get(field)) is not None:
                described["anyOf"][0]["maximum"] = settings.max_tokens
    if needs_key:
        whole["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in whole["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            for status in _EVERYWHERE:
                operation["responses"].setdefault(str(status), _error(status))
            if not needs_key or path in _OPEN_PATHS:
                operation["responses"].pop("401", None)
            else:
                operation["security"] = [{"key": []}]
    return whole
