"""What every request passes first: its number, its key, its size, its time to arrive, and its line in the log."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import uuid
from functools import partial

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.serving.engine import stopping
from registry.serving.failures import CLIENT_GONE, ApiError, api_error, error_response, is_trouble
from registry.serving.logs import RequestLine
from registry.serving.protocol import MOST_HEAD_BYTES
from registry.serving.service import Service

BODY_SECONDS = 30.0
"""A body that takes longer to come is not waited for."""
HEALTH, METRICS = "/health", "/metrics"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_LONGEST_PATH = 200


class Front:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, service: Service, *, only_loopback: bool) -> None:
        """Take the application; ``only_loopback``: a browser must not be led here by another site's name."""
        self._app, self._service, self._only_loopback = app, service, only_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; see ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        line = RequestLine(_request_id(headers), scope["method"], scope["path"][:_LONGEST_PATH])
        scope.setdefault("state", {})["line"] = line
        body = _Body(receive, self._service.settings.max_request_bytes)
        sender = _Sender(send, line)
        self._service.active += 1
        try:
            await self._admit(scope, headers)
            await self._app(scope, body.receive, sender.send)
        except Exception as error:
            await self._failed(error, line, sender, scope, receive)
        finally:
            self._service.active -= 1
            self._tell(scope, line, body)

    async def _admit(self, scope: Scope, headers: Headers) -> None:
        """Let a request in.

        Raises:
            ApiError: it is not.
        """
        path = scope["path"]
        if self._service.is_draining and path not in (HEALTH, METRICS):
            raise stopping()
        if self._only_loopback and not _is_loopback_name(headers.get("host", "")):
            raise ApiError(403, "this server is for this machine alone; ask it as localhost", code="wrong_host")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MOST_HEAD_BYTES:
            message = f"a request's headers have at most {MOST_HEAD_BYTES} bytes here"
            raise ApiError(431, message, code="headers_too_large", headers={"connection": "close"})
        length = headers.get("content-length", "0")
        # A number that is longer than the limit is larger, and int takes none of thousands of digits.
        most = self._service.settings.max_request_bytes
        if not length.isdecimal() or len(length.lstrip("0")) > len(str(most)) or int(length) > most:
            raise too_large(most)
        if path == HEALTH:
            return
        access = self._service.access
        caller = await self._service.look_up(partial(access.caller, headers.get("authorization")))
        scope["state"]["caller"] = caller
        scope["state"]["line"].key = caller.name
        if caller.key is not None:
            self._service.journal.key_used(caller.key)

    async def _failed(
        self, error: Exception, line: RequestLine, sender: _Sender, scope: Scope, receive: Receive
    ) -> None:
        told = api_error(error)
        if line.error is None:  # else the application has told it
            line.error = told.code or type(error).__name__
            if is_trouble(error, told):
                self._service.journal.trouble(line.request_id, error)
        if not line.status:
            await error_response(told)(scope, receive, sender.send)

    def _tell(self, scope: Scope, line: RequestLine, body: _Body) -> None:
        route = getattr(scope.get("route"), "path", None)
        line.route = route if isinstance(route, str) else "other"
        if not line.status or (body.is_gone and line.status >= 400):
            line.status = CLIENT_GONE
        self._service.metrics.requested(line.route, line.status)
        if line.route not in (HEALTH, METRICS) or line.status >= 500:
            self._service.journal.request(line)


class _Sender:
    """Adds headers to a response, and notes its status."""

    def __init__(self, send: Send, line: RequestLine) -> None:
        self._send, self._line = send, line

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._line.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._line.request_id
            headers["x-content-type-options"] = "nosniff"
            headers.setdefault("cache-control", "no-store")
        await self._send(message)


class _Body:
    """Lets a body in that is not too large and comes in time; ``is_gone`` once the client has left."""

    def __init__(self, receive: Receive, most_bytes: int) -> None:
        self._receive, self._most_bytes = receive, most_bytes
        self._left = most_bytes
        self._deadline = asyncio.get_running_loop().time() + BODY_SECONDS
        self._is_whole = False
        self.is_gone = False

    async def receive(self) -> Message:
        if self._is_whole:
            message = await self._receive()
        else:
            try:
                async with asyncio.timeout_at(self._deadline):
                    message = await self._receive()
            except TimeoutError:
                headers = {"connection": "close"}
                raise ApiError(408, f"the body did not come within {BODY_SECONDS:.0f} s", headers=headers) from None
        if message["type"] == "http.disconnect":
            self.is_gone = True
        elif message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            self._is_whole = not message.get("more_body", False)
            if self._left < 0:
                raise too_large(self._most_bytes)
        return message


def too_large(most_bytes: int) -> ApiError:
    """Return the error of a body that is too large."""
    message = f"a request has at most {most_bytes} bytes here"
    return ApiError(413, message, code="request_too_large", headers={"connection": "close"})


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _is_loopback_name(host: str) -> bool:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if name.lower() == "localhost" or not host:
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
