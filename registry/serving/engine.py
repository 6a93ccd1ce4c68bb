"""The thread that owns the model: requests join the rows that run, and leave them when they end.

A *lane* is a base model with a layout of adapters; the corpora whose recipes share both share it. Each has a batcher,
made when its first request comes. The thread takes what was submitted, lets every lane that has work take a step, and
begins again. It never ends by an error: one that belongs to a request ends that request, one that breaks a lane ends
the lane's requests, and the next request makes the lane anew.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from registry.base_model import LoadedModel
from registry.generation.batcher import Batcher, Running
from registry.generation.requests import Generated, OnText, Request
from registry.serving.failures import ApiError
from registry.store.layout import AdapterLayout

MOST_LANES = 4
"""So many batchers are kept, each with its keys and values; of more those that are idle go."""

OnEnd = Callable[[Generated | Exception], None]


@dataclass(frozen=True, eq=False)
class Lane:
    """What requests must have in common to run together; two are the same lane if their ``key`` is."""

    loaded: LoadedModel
    layout: AdapterLayout
    scale: float

    @property
    def key(self) -> tuple[int, int, float]:
        """Identity: both objects are kept for as long as the server runs."""
        return id(self.loaded), id(self.layout), self.scale


@dataclass(eq=False)
class Job:
    """A request in the engine, which alone changes it."""

    lane: Lane
    request: Request
    on_text: OnText | None = field(repr=False)
    on_end: OnEnd = field(repr=False)
    running: Running | None = None
    is_over: bool = False


@dataclass(eq=False)
class _Open:
    """A lane with its batcher and the jobs in it."""

    lane: Lane
    batcher: Batcher
    jobs: dict[int, Job] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows that run, requests that wait for one, and adapters that were found on the device or put there."""

    running: int = 0
    waiting: int = 0
    adapter_hits: int = 0
    adapter_misses: int = 0


class Engine:
    """See the module. ``submit``, ``cancel`` and ``stop`` may be called by any thread, and do not wait for the model.

    ``on_text`` and ``on_end`` are called by the engine's thread: they must be quick and raise nothing.
    """

    def __init__(self, make_batcher: Callable[[Lane], Batcher], on_trouble: Callable[[BaseException], None]) -> None:
        """Start the thread; ``on_trouble`` is told of errors that are no request's own."""
        self._make_batcher, self._on_trouble = make_batcher, on_trouble
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lanes: dict[tuple[int, int, float], _Open] = {}
        self._deadline: float | None = None
        self._is_closed = False
        self._closed_hits = self._closed_misses = 0
        self.counts = Counts()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, lane: Lane, request: Request, on_text: OnText | None, on_end: OnEnd) -> Job:
        """Let a request wait for its row; ``on_end`` is called once, unless it is cancelled.

        Raises:
            ApiError: the engine was told to stop.
        """
        if self._is_closed:
            raise stopping()
        job = Job(lane, request, on_text, on_end)
        self._commands.put(lambda: self._admit(job))
        return job

    def cancel(self, job: Job) -> None:
        """Let go of a request, wherever it is; what it still says is not to be believed."""
        self._commands.put(lambda: self._drop(job))

    def stop(self, drain_seconds: float) -> None:
        """Take no more requests, let those that run go on for at most so long, and end the thread; returns at once."""
        self._is_closed = True
        deadline = time.monotonic() + drain_seconds
        self._commands.put(lambda: setattr(self, "_deadline", deadline))

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread's end after ``stop``; return whether it came."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            self._count()
            self._obey()
            busy = [each for each in self._lanes.values() if each.jobs]
            self._count()
            if self._deadline is not None and (not busy or time.monotonic() > self._deadline):
                break
            for each in busy:
                self._step(each)
        for each in busy:
            self._fail(each, stopping())
        for each in self._lanes.values():
            self._close(each)
        self._lanes.clear()
        self._count()

    def _obey(self) -> None:
        """Do what was asked for meanwhile; where there is no work, wait for it."""
        is_idle = not any(each.jobs for each in self._lanes.values()) and self._deadline is None
        while True:
            try:
                command = self._commands.get(block=is_idle)
            except queue.Empty:
                return
            command()
            is_idle = False

    def _admit(self, job: Job) -> None:
        if job.is_over:
            return
        if self._deadline is not None:
            self._end(job, stopping())
            return
        try:
            place = self._lane(job.lane)
            job.running = place.batcher.submit(job.request, job.on_text)
        except BaseException as error:  # also a panic of an extension: the thread must go on
            self._end(job, error)
            return
        place.jobs[id(job.running)] = job

    def _lane(self, lane: Lane) -> _Open:
        place = self._lanes.pop(lane.key, None) or self._open(lane)
        self._lanes[lane.key] = place  # the last is the one that was used last
        return place

    def _open(self, lane: Lane) -> _Open:
        idle = [key for key, each in self._lanes.items() if not each.jobs]
        for key in idle[: max(0, len(self._lanes) - MOST_LANES + 1)]:
            self._close(self._lanes.pop(key))
        return _Open(lane, self._make_batcher(lane))

    def _drop(self, job: Job) -> None:
        if job.is_over:
            return
        job.is_over = True
        place = self._lanes.get(job.lane.key)
        if place is None or job.running is None or place.jobs.pop(id(job.running), None) is None:
            return
        try:
            place.batcher.cancel(job.running)
        except BaseException as error:
            self._break(place, error)

    def _step(self, place: _Open) -> None:
        try:
            ended = place.batcher.step()
        except BaseException as error:
            self._break(place, error)
            return
        for running in ended:
            job = place.jobs.pop(id(running), None)
            if job is not None:
                outcome = running.error or running.generated
                assert outcome is not None
                self._end(job, outcome)

    def _break(self, place: _Open, error: BaseException) -> None:
        """End the requests of a lane that cannot go on, and forget it."""
        self._lanes.pop(place.lane.key, None)
        self._on_trouble(error)
        self._fail(place, error)
        self._close(place)

    def _close(self, place: _Open) -> None:
        self._closed_hits += place.batcher.entries.hits
        self._closed_misses += place.batcher.entries.misses
        try:
            place.batcher.close()
        except BaseException as error:
            self._on_trouble(error)

    def _fail(self, place: _Open, error: BaseException) -> None:
        for job in place.jobs.values():
            self._end(job, error)
        place.jobs.clear()

    def _end(self, job: Job, outcome: Generated | BaseException) -> None:
        job.is_over = True
        if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
            outcome = RuntimeError(f"{type(outcome).__name__} in the engine")
        job.on_end(outcome)

    def _count(self) -> None:
        places = list(self._lanes.values())
        self.counts = Counts(
            running=sum(each.batcher.running for each in places),
            waiting=sum(each.batcher.waiting for each in places),
            adapter_hits=self._closed_hits + sum(each.batcher.entries.hits for each in places),
            adapter_misses=self._closed_misses + sum(each.batcher.entries.misses for each in places),
        )


def stopping() -> ApiError:
    """Return the error of a request that comes, or still runs, when the server stops."""
    return ApiError(503, "the server is stopping", code="stopping", headers={"connection": "close"})
