"""The application: paths, errors and description together."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from registry.errors import PragregError
from registry.serving import chat, health, lookups
from registry.serving.description import describe
from registry.serving.failures import (
    CLIENT_GONE,
    ApiError,
    ClientGoneError,
    api_error,
    error_response,
    is_trouble,
    validation_error,
)
from registry.serving.front import Front
from registry.serving.service import Service, line_of, service_of

_NO_TELEMETRY: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}


def make_app(service: Service, *, only_loopback: bool) -> ASGIApp:
    """Return the application that answers with ``service``; see ``Front`` for ``only_loopback``."""
    app = FastAPI(
        title="pragreg",
        version=importlib.metadata.version("pragreg"),
        description="Answers out of the adapters of a corpus' documents, as OpenAI's interface has them.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=_NO_TELEMETRY,
    )
    app.state.service = service
    app.state.descriptions = {}
    for module in (chat, lookups, health):
        app.include_router(module.router)
    app.add_route("/openapi.json", _description, methods=["GET"], include_in_schema=False)
    app.add_exception_handler(RequestValidationError, _invalid)
    for kind in (HTTPException, PragregError, TimeoutError, Exception):
        app.add_exception_handler(kind, _failed)
    app.add_exception_handler(ClientGoneError, _gone)
    return Front(app, service, only_loopback=only_loopback)


async def _description(request: Request) -> Response:
    service = service_of(request)
    needs_key = await service.look_up(lambda: service.access.is_needed)
    known: dict[bool, JSONResponse] = request.app.state.descriptions
    if needs_key not in known:  # it takes a fifth of a second to make
        known[needs_key] = JSONResponse(describe(request.app, service.settings, needs_key=needs_key))
    return known[needs_key]


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _told(request, validation_error(error.errors()), None)


async def _failed(request: Request, error: Exception) -> Response:
    return _told(request, api_error(error), error)


async def _gone(request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


def _told(request: Request, told: ApiError, error: Exception | None) -> Response:
    line_of(request).error = told.code or type(error or told).__name__
    if error is not None and is_trouble(error, told):
        service_of(request).journal.trouble(line_of(request).request_id, error)
    return error_response(told)
