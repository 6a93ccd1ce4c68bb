"""Everything that requests are answered with, put together once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.requests import Request

from registry.generation.batcher import Batcher
from registry.generation.runners.choosing import make_runner
from registry.pipeline.adapter_memory import AdapterMemory
from registry.pipeline.base_models import token_limit
from registry.pipeline.opened import opened
from registry.pipeline.search import MAX_HITS
from registry.progress import Progress
from registry.serving.access import Access, Caller
from registry.serving.asking import Answering
from registry.serving.engine import Engine, Lane
from registry.serving.limits import Places
from registry.serving.logs import Journal, RequestLine
from registry.serving.metrics import Metrics, Pulled
from registry.serving.models import Bases, Versions
from registry.serving.settings import ServeSettings
from registry.serving.threads import Threads
from registry.settings import Home

Result = TypeVar("Result")

PREPARING_THREADS = 4
LOOKUP_THREADS = 2
LOOKUP_QUEUE = 256
JOURNAL_SECONDS = 5.0


@dataclass
class Service:
    """The parts of a server; ``is_draining`` once it was told to stop, ``active`` requests are being answered."""

    settings: ServeSettings
    versions: Versions
    engine: Engine
    answering: Answering
    lookup_places: Places
    lookups: Threads
    access: Access
    journal: Journal
    metrics: Metrics
    is_draining: bool = field(default=False)
    active: int = field(default=0)

    @property
    def waiting(self) -> int:
        """How many answers have no row yet, those among them that are still being prepared."""
        return _waiting(self.engine, self.answering.places)

    async def look_up(self, work: Callable[[], Result]) -> Result:
        """Return what ``work`` finds in a thread.

        Raises:
            TimeoutError: it took longer than a request may.
        """
        async with asyncio.timeout(self.settings.timeout_seconds):
            return await self.lookups.run(work)


@contextmanager
def serving(home: Home, settings: ServeSettings, progress: Progress, *, is_open: bool) -> Iterator[Service]:
    """Load the base models and warm them up, and yield what answers requests; ``is_open``: without a key, too.

    Raises:
        NotFoundError: there is nothing to serve, or a corpus that is named is not there.
        UsageError: the corpora have several base models.
        BaseModelError: a base model is not to be had.
    """
    with opened(home) as registry:
        bases = Bases(registry, settings, progress)
        memory = AdapterMemory(registry, settings.cache_bytes)
        versions = Versions(registry, bases, memory)
        is_for_people = sys.stderr.isatty()
        journal = Journal(
            sys.stderr, registry.catalog, is_for_people=is_for_people, keeps_questions=settings.log_questions
        )
        engine = Engine(lambda lane: _batcher(lane, settings), lambda error: journal.trouble("the engine", error))
        places, lookup_places = Places(settings.rows, settings.queue), Places(LOOKUP_THREADS, LOOKUP_QUEUE)
        preparing, lookups = Threads(PREPARING_THREADS, "preparing"), Threads(LOOKUP_THREADS, "lookups")
        try:
            yield Service(
                settings=settings,
                versions=versions,
                engine=engine,
                answering=Answering(versions, engine, places, preparing, context=settings.context),
                lookup_places=lookup_places,
                lookups=lookups,
                access=Access(registry.catalog, is_open=is_open),
                journal=journal,
                metrics=Metrics(_pulled(engine, places, versions, memory, journal, settings)),
            )
        finally:
            engine.stop(0)
            preparing.close()
            lookups.close()
            engine.join(JOURNAL_SECONDS)
            versions.close()
            memory.close()
            journal.close(JOURNAL_SECONDS)


def service_of(request: Request) -> Service:
    """Return the server that a request came to."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def caller_of(request: Request) -> Caller:
    """Return who sent a request."""
    caller = request.state.caller
    assert isinstance(caller, Caller)
    return caller


def line_of(request: Request) -> RequestLine:
    """Return what the log will say of a request."""
    line = request.state.line
    assert isinstance(line, RequestLine)
    return line


def _batcher(lane: Lane, settings: ServeSettings) -> Batcher:
    limit = token_limit(lane.loaded)
    runner = make_runner(
        lane.loaded,
        lane.layout,
        lane.scale,
        rows=settings.rows,
        context=settings.context if limit is None else min(settings.context, limit),
        cache_bytes=settings.cache_bytes,
        most_terms=MAX_HITS + 1,  # with the common part
        takes_weights=True,
    )
    return Batcher(lane.loaded, runner)


def _waiting(engine: Engine, places: Places) -> int:
    counts = engine.counts
    return max(places.taken - counts.running, counts.waiting)


def _pulled(
    engine: Engine,
    places: Places,
    versions: Versions,
    memory: AdapterMemory,
    journal: Journal,
    settings: ServeSettings,
) -> tuple[Pulled, ...]:
    def gauge(name: str, text: str, value: Callable[[], float]) -> Pulled:
        return Pulled(f"pragreg_{name}", text, value)

    def counter(name: str, text: str, value: Callable[[], float]) -> Pulled:
        return Pulled(f"pragreg_{name}", text, value, is_counter=True)

    return (
        gauge("rows", "Answers that can be computed at once.", lambda: settings.rows),
        gauge("rows_running", "Answers that are being computed.", lambda: engine.counts.running),
        gauge("queue_length", "Answers that wait for a row.", lambda: _waiting(engine, places)),
        gauge("open_versions", "Versions that are open.", lambda: versions.count),
        gauge("adapter_cache_bytes", "Bytes of adapters in memory.", lambda: memory.size_bytes),
        counter("adapter_cache_hits", "Adapters that were in memory.", lambda: memory.hits),
        counter("adapter_cache_misses", "Adapters that were read.", lambda: memory.misses),
        counter("device_adapter_hits", "Adapters that were on the device.", lambda: engine.counts.adapter_hits),
        counter("device_adapter_misses", "Adapters put on the device.", lambda: engine.counts.adapter_misses),
        counter("log_dropped", "Lines of the log that were lost.", lambda: journal.dropped),
    )
