"""The HTTP session of huggingface_hub, which all of its calls share, as pragreg needs it.

It has time-outs, bounds what is read of an answer, and leaves retries to whoever ``speaks`` through the client. For
calls that others make in this process it stays what it was.
"""

from __future__ import annotations

import logging
import re
import socket
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

from registry.hub.retrying import timeout_seconds

ANSWER_LIMIT_BYTES = 32 * 1024 * 1024
"""More is read of no answer to a call of the client: its answers are lists of at most a thousand things."""

_QUERY = re.compile(r"(https?://[^\s?'\"<>]+)\?[^\s'\"<>]+")

Send = Callable[..., Any]
_SPEAKER = "pragreg_speaker"  # the key of a request's extensions by which it is known as one of a speaker


class Speaker(Protocol):
    """Who speaks through the client."""

    def perform(self, send: Send, method: str, url: str, options: dict[str, Any]) -> Any:
        """Send a request by ``send(**options)``, as often as it takes, and return the answer."""

    def owns(self, url: str) -> bool:
        """Say whether the token may be sent there."""


class _Turn:
    """Whose turn it is to speak, and how many times at once it does."""

    def __init__(self) -> None:
        self.speaker: Speaker | None = None
        self._times = 0
        self._silence = ExitStack()
        self._changed = threading.Condition()

    def begin(self, speaker: Speaker) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.speaker is None or self.speaker is speaker)
            if self._times == 0:
                session()
                self._silence.enter_context(_quiet())
                self.speaker = speaker
            self._times += 1

    def end(self) -> None:
        with self._changed:
            self._times -= 1
            if self._times == 0:
                self.speaker = None
                self._silence.close()
                self._changed.notify_all()


_turn = _Turn()
_installing = threading.Lock()
_noting = threading.Lock()
_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()


@cache
def http_library() -> ModuleType:
    """Return the HTTP library of the installed client: httpx or httpx2."""
    from huggingface_hub import errors

    bases = errors.HfHubHTTPError.__mro__
    return import_module(next(base.__module__ for base in bases if base.__module__.startswith("httpx")).split(".")[0])


def client_utils() -> Any:
    """Return huggingface_hub.utils, whose public names are not declared as such for type checkers."""
    return import_module("huggingface_hub.utils")


def session() -> Any:
    """Return the client's session, an httpx or httpx2 Client, and have it be ours first."""
    from huggingface_hub import get_session, set_client_factory

    current = get_session()
    if isinstance(current, _session_class()):
        return current
    with _installing:
        if not isinstance(get_session(), _session_class()):
            _keep_signatures_out_of_logs()
            set_client_factory(partial(_new_session, current.event_hooks))
    return get_session()


@contextmanager
def speaking(speaker: Speaker) -> Iterator[None]:
    """Have ``speaker`` perform the requests of the client, in whatever thread, and the client keep quiet.

    A speaker may do so several times at once; another one waits.
    """
    _turn.begin(speaker)
    try:
        yield
    finally:
        _turn.end()


def cut_connections() -> None:
    """End what waits on any connection of the session, in whatever thread."""
    with _noting:
        found = list(_sockets)
    for open_socket in found:
        with suppress(OSError):
            socket.socket.shutdown(open_socket, socket.SHUT_RDWR)


def note_connection(event: str, info: Mapping[str, Any]) -> None:
    """Be the ``trace`` of a request: remember its socket, so that ``cut_connections`` finds it."""
    if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
        with _noting:
            _sockets.add(info["return_value"].get_extra_info("socket"))


@contextmanager
def _quiet() -> Iterator[None]:
    utils = client_utils()
    level, has_bars = utils.logging.get_verbosity(), not utils.are_progress_bars_disabled()
    with warnings.catch_warnings():
        # Of Parquet in a repository of models, of uploads past Xet, of bars that cannot be disabled.
        warnings.simplefilter("ignore")
        utils.logging.set_verbosity(logging.CRITICAL)
        utils.disable_progress_bars()
        try:
            yield
        finally:
            utils.logging.set_verbosity(level)
            if has_bars:
                utils.enable_progress_bars()


@cache
def _session_class() -> type[Any]:
    base: Any = http_library().Client

    class Session(base):  # type: ignore[misc]
        def request(self, method: Any, url: Any, **options: Any) -> Any:
            send = partial(super().request, method, url)
            speaker = _turn.speaker
            if speaker is None:
                return send(**options)
            options["extensions"] = {**(options.get("extensions") or {}), _SPEAKER: speaker}
            return speaker.perform(send, str(method), str(url), options)

    return Session


@cache
def _bounded_stream_class() -> type[Any]:
    base: Any = http_library().SyncByteStream

    class Bounded(base):  # type: ignore[misc]
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        def __iter__(self) -> Iterator[bytes]:
            left = ANSWER_LIMIT_BYTES
            for chunk in self._stream:
                left -= len(chunk)
                if left < 0:
                    raise ValueError(f"it is longer than {ANSWER_LIMIT_BYTES} bytes")
                yield chunk

        def close(self) -> None:
            self._stream.close()

    return Bounded


def _new_session(hooks: Mapping[str, list[Callable[..., Any]]]) -> Any:
    return _session_class()(
        event_hooks={
            "request": [*hooks.get("request", []), _before],
            "response": [*hooks.get("response", []), _after],
        },
        follow_redirects=True,
        timeout=timeout_seconds(),
    )


def _keep_signatures_out_of_logs() -> None:
    library = http_library().__name__
    for name in (library, f"{library.replace('httpx', 'httpcore')}.http11", "huggingface_hub.utils._http"):
        logging.getLogger(name).addFilter(_without_queries)


def _without_queries(record: logging.LogRecord) -> bool:
    record.msg, record.args = _QUERY.sub(r"\1?***", record.getMessage()), ()
    return True


def _before(request: Any) -> None:
    request.extensions.setdefault("trace", note_connection)
    speaker = request.extensions.get(_SPEAKER)
    if speaker is not None and "authorization" in request.headers and not speaker.owns(str(request.url)):
        # The client follows the addresses that a server gives it, also with the token.
        del request.headers["authorization"]


def _after(response: Any) -> None:
    if _SPEAKER not in response.request.extensions:
        return
    if response.headers.get("content-encoding", "identity") != "identity":
        raise ValueError("it is compressed, which was not asked for")
    response.stream = _bounded_stream_class()(response.stream)
