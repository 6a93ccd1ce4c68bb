"""A server from its start to its end: the address, the signals, and the draining."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, NamedTuple

import uvicorn
from starlette.types import ASGIApp

from registry.catalog.api_keys import any_keys
from registry.catalog.engine import open_catalog
from registry.errors import StorageError, UsageError
from registry.progress import Progress
from registry.serving.app import make_app
from registry.serving.lookups import listed_models
from registry.serving.protocol import BoundedProtocol
from registry.serving.service import Service, serving
from registry.serving.settings import ServeSettings
from registry.serving.warmup import warm_up
from registry.settings import Home

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_LOOK_SECONDS = 0.05
_CLOSING_SECONDS = 2
_HOUSEKEEPING_TICKS = 100
"""Ten seconds."""
_KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep idle connections, so that none is closed just as its next request is sent."""


@dataclass(frozen=True)
class Server:
    """A server that is ready to run: its address, the names of its models, and whether a key is needed now."""

    url: str
    models: tuple[str, ...]
    needs_key: bool
    _uvicorn: _Uvicorn
    _listener: socket.socket
    _settings: ServeSettings

    def run(self, on_started: Callable[[], None]) -> None:
        """Serve until a signal comes or ``stop`` is called, and finish what runs then.

        Raises:
            StorageError: another one began to listen there meanwhile.
        """
        self._uvicorn.on_started = on_started
        try:
            self._uvicorn.run(sockets=[self._listener])
        except OSError as error:
            raise _taken(self._settings, error) from error

    def stop(self) -> None:
        """Take no more requests, and let ``run`` return when those that run are finished; for any thread."""
        self._uvicorn.service.is_draining = True


@contextmanager
def ready(home: Home, settings: ServeSettings, progress: Progress) -> Iterator[Server]:
    """Take the address and load the models, for the time of a block.

    Raises:
        UsageError: the address is none, or needs a key.
        StorageError: it is not this machine's, or is taken.
        PragregError: as ``service.serving``.
    """
    with open_catalog(home.catalog_url) as catalog, catalog.read() as session:
        has_keys = any_keys(session)
    address = _resolved(settings)
    is_loopback = ipaddress.ip_address(address.where[0]).is_loopback
    if not (is_loopback or has_keys or settings.insecure):
        raise UsageError(
            f"{settings.host} can be reached from other machines, and everybody there could ask",
            hint="pragreg keys create NAME; or serve with --insecure",
        )
    is_open = is_loopback or settings.insecure
    with _bound(address, settings) as listener, serving(home, settings, progress, is_open=is_open) as service:
        warm_up(service)
        yield Server(
            url=_url(listener),
            models=tuple(model.id for model in listed_models(service.versions)),
            needs_key=service.access.is_needed,
            _uvicorn=_Uvicorn(service, make_app(service, only_loopback=is_loopback and not has_keys)),
            _listener=listener,
            _settings=settings,
        )


class _Address(NamedTuple):
    """Where to listen, as sockets take it: the host is the first of ``where``."""

    family: socket.AddressFamily
    where: tuple[Any, ...]


class _Uvicorn(uvicorn.Server):
    """Uvicorn's server, which drains when it is told to stop; a second signal ends the process at once."""

    def __init__(self, service: Service, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedProtocol,
                loop="uvloop",
                log_config=None,
                access_log=False,
                ws="none",
                lifespan="off",
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_CLOSING_SECONDS,
            )
        )
        self.service = service
        self.on_started: Callable[[], None] = lambda: None
        self._draining: asyncio.Task[None] | None = None
        self._silent: set[Any] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self.on_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals within a block; nohup has SIGHUP ignored, and it stays so."""
        is_main = threading.current_thread() is threading.main_thread()
        taken = [number for number in _SIGNALS if is_main and signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self.handle_exit) for number in taken}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Let the server drain."""
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        self.service.is_draining = True

    async def on_tick(self, counter: int) -> bool:
        """Say whether to stop; called ten times a second."""
        if self.service.is_draining and self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())
        if counter % _HOUSEKEEPING_TICKS == 0:
            self.service.versions.close_idle()
            self._close_silent()
        return await super().on_tick(counter)

    def _close_silent(self) -> None:
        """Close connections on which no request has come whole since the last time, so that nobody hoards them."""
        silent = {each for each in self.server_state.connections if getattr(each, "is_silent", False)}
        for each in silent & self._silent:
            each.transport.close()
        self._silent = silent

    async def _drain(self) -> None:
        service, loop = self.service, asyncio.get_running_loop()
        deadline = loop.time() + service.settings.drain_seconds
        service.journal.note(
            f"stopping: {service.active} requests are answered for at most {service.settings.drain_seconds:g} s; "
            "a second signal ends them"
        )
        while service.active and loop.time() < deadline:
            await asyncio.sleep(_LOOK_SECONDS)
        service.engine.stop(0)  # what still runs is told so
        while service.active and loop.time() < deadline + _CLOSING_SECONDS:
            await asyncio.sleep(_LOOK_SECONDS)
        self.should_exit = True


def _resolved(settings: ServeSettings) -> _Address:
    """Return the address to listen at.

    Raises:
        UsageError: it is none.
    """
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{settings.host!r} is no address", hint="serve with --host 127.0.0.1") from error
    family, _, _, _, where = found[0]
    return _Address(family, where)


def _bound(address: _Address, settings: ServeSettings) -> socket.socket:
    """Return a socket at the address, which does not listen yet.

    Raises:
        StorageError: it is not this machine's, or is taken.
    """
    listener = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        # A port whose last connections are still being closed may be taken again.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address.where)
    except OSError as error:
        listener.close()
        raise _taken(settings, error) from error
    return listener


def _taken(settings: ServeSettings, error: OSError) -> StorageError:
    return StorageError(
        f"the server cannot listen at {settings.host}:{settings.port}: {error.strerror or error}",
        hint="serve with another --port; with --port 0 a free one is chosen",
    )


def _url(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
