"""Workers that encode groups: one single-threaded process per core on a CPU, one process per accelerator.

No worker waits for whoever reads inputs and writes results: a thread beside each has the next group's examples ready
while one is trained, and a group lies ready for every worker process.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from registry.base_model import LoadedModel, ModelFiles, fast_float32_is_exact, load
from registry.digests import short
from registry.encoding.examples import prepare
from registry.errors import EncodingError
from registry.recipe import Recipe
from registry.records import EncodedAdapter, EncodingInput
from registry.store.layout import AdapterLayout

Group = Sequence[EncodingInput]
T = TypeVar("T")

AHEAD = 1
"""Groups that lie ready for each worker besides the one that it trains."""
RAISE_AFTER = 8
"""Groups that have to succeed before more documents at once are tried again; twice as many after each failure."""


@dataclass(frozen=True)
class Work:
    """What every group of one build shares: the base model's files, the recipe, the adapters' layout, the device.

    ``group_limit`` is how many documents a worker trains at once to begin with (None: whole groups), ``pass_tokens``
    how many tokens go through the model at once (None: what is fastest). ``start`` is the body of the recipe's task
    adapter, if it has one.
    """

    files: ModelFiles
    recipe: Recipe
    layout: AdapterLayout
    device: str
    group_limit: int | None = None
    pass_tokens: int | None = None
    start: bytes | None = None


def default_workers(device: str) -> int:
    """Return how many processes encode: one per usable core on a CPU (measured fastest and steadiest), else one."""
    return len(os.sched_getaffinity(0)) if device == "cpu" and hasattr(os, "sched_getaffinity") else 1


def encode_groups(
    work: Work, groups: Iterable[Group], workers: int, devices: Sequence[str] = ()
) -> Generator[list[EncodedAdapter]]:
    """Yield each group's adapters as it is finished, in any order.

    A single worker is this process. Several are processes that get the ``devices`` in turn, or all the work's own.
    Groups are taken from ``groups``, in a thread, only as workers become free, so it may be endless. Closing the
    iterator (or an exception in the caller) stops the workers at once; groups in flight are lost and nothing else is.

    Raises:
        EncodingError: a group failed, or a worker died (most likely killed for its memory).
    """
    given = devices or (work.device,)
    works = [replace(work, device=given[number % len(given)]) for number in range(max(1, workers))]
    if len(works) == 1:
        yield from _encode_here(works[0], groups)
    else:
        yield from _encode_in_processes(works, ahead(groups, AHEAD * len(works)))


def ahead(items: Iterable[T], most: int) -> Generator[T]:
    """Yield ``items``, none of which is None, while a thread takes the next ``most`` of them from their source."""
    source = iter(items)
    thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        waiting = deque(thread.submit(next, source, None) for _ in range(most))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, source, None))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)


def _encode_here(work: Work, groups: Iterable[Group]) -> Generator[list[EncodedAdapter]]:
    import torch

    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        loaded = _load(work)
        encoder = Encoder(loaded, work)
        prepared = ahead((_prepared(loaded, work, group) for group in groups), AHEAD)
        try:
            for group in prepared:
                yield encoder.encode(group)
        finally:
            prepared.close()
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
        torch.set_float32_matmul_precision(precision)


def _load(work: Work) -> LoadedModel:
    import torch

    if work.device == "cpu":
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)  # numbers next to nothing take a processor a hundred times longer
        if work.recipe.dtype == "float32" and fast_float32_is_exact():
            torch.set_float32_matmul_precision("medium")
    return load(work.files, device=work.device, dtype=work.recipe.dtype)


def _prepared(loaded: LoadedModel, work: Work, group: Group) -> Group:
    return [prepare(loaded.tokenizer, work.recipe, given) for given in group]


class _Worker:
    """A process that encodes what it is sent, and how many groups it has not sent back yet."""

    def __init__(self, work: Work) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_run_worker, args=(work, other), daemon=True)
        self.process.start()
        other.close()
        self.waiting = 0

    def send(self, group: Group) -> None:
        self.connection.send(group)
        self.waiting += 1

    def receive(self) -> list[EncodedAdapter]:
        answer = self.connection.recv()
        self.waiting -= 1
        if isinstance(answer, BaseException):
            raise answer
        adapters: list[EncodedAdapter] = answer
        return adapters

    def stop(self) -> None:
        """Stop it in the middle of a group, if it is in one; it holds nothing that anyone needs."""
        self.process.terminate()
        self.process.join()
        self.connection.close()


def _encode_in_processes(works: Sequence[Work], groups: Generator[Group]) -> Generator[list[EncodedAdapter]]:
    team: list[_Worker] = []
    try:
        team += map(_Worker, works)
        while True:
            _hand_out(team, groups)
            busy: dict[Any, _Worker] = {worker.connection: worker for worker in team if worker.waiting}
            if not busy:
                break
            for connection in wait(list(busy)):
                yield busy[connection].receive()
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise EncodingError(
            "a worker process died while encoding; most likely it was killed for using too much memory",
            hint="run the same command again with --workers 1 or a smaller --memory; what is finished is kept",
        ) from error
    finally:
        for worker in team:
            worker.stop()
        groups.close()


def _hand_out(team: Sequence[_Worker], groups: Iterator[Group]) -> None:
    """Send groups until every worker has one to train and others ready; first come those that have least."""
    for full in range(1, AHEAD + 2):
        for worker in team:
            if worker.waiting < full and (group := next(groups, None)) is not None:
                worker.send(group)


def _run_worker(work: Work, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        loaded = _load(work)
        encoder = Encoder(loaded, work)
        # Named, so that it lives on in the handler below: closing it waits for a group that will not come.
        prepared = ahead((_prepared(loaded, work, group) for group in iter(connection.recv, None)), AHEAD)
        for group in prepared:
            connection.send(encoder.encode(group))
    except Exception as error:
        connection.send(_portable(error))


def _portable(error: Exception) -> Exception:
    """Return the error as it can be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return EncodingError(f"a worker process failed: {type(error).__name__}: {error}")
    return error


def _follow_parent() -> None:
    """End this worker when its parent is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


class Encoder:
    """A loaded model that trains groups, in parts where memory does not suffice for the whole.

    What ran out of memory is trained in halves, and so is what follows, until enough of it has succeeded that larger
    parts are tried again. Halves of a group are groups as they would be cut at half its size.
    """

    def __init__(self, loaded: LoadedModel, work: Work) -> None:
        """Begin with the work's ``group_limit``."""
        self._loaded, self._work = loaded, work
        self._limit = work.group_limit or sys.maxsize
        self._succeeded = 0
        self._patience = RAISE_AFTER
        self._is_trying = False

    def encode(self, group: Group) -> list[EncodedAdapter]:
        """Return the group's adapters, in its order.

        Raises:
            EncodingError: an adapter is of no use, or one document alone does not fit.
        """
        if len(group) > self._limit and self._succeeded >= self._patience:
            self._limit *= 2
            self._succeeded, self._is_trying = 0, True
        if len(group) <= self._limit:
            done = self._try(group)
            if done is not None:
                self._succeeded += 1
                self._is_trying = False
                return done
        middle = len(group) // 2
        return self.encode(group[:middle]) + self.encode(group[middle:])

    def _try(self, group: Group) -> list[EncodedAdapter] | None:
        """Return None where memory ran out; nothing of the attempt is left then."""
        from registry.encoding.train import encode_group

        work = self._work
        try:
            return encode_group(
                self._loaded, work.recipe, work.layout, group, pass_tokens=work.pass_tokens, start=work.start
            )
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(group) == 1:
                document = group[0].document
                named = f"document {short(document.digest)} ({document.title[:60]!r})"
                raise EncodingError(
                    f"{named} does not fit into the memory of {work.device}",
                    hint="lower the recipe's max_tokens or examples_per_step, or cut shorter passages with --words",
                ) from error
        _free_memory(self._loaded.device)
        self._limit = (len(group) + 1) // 2
        self._succeeded = 0
        if self._is_trying:
            self._patience *= 2
            self._is_trying = False
        return None


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    text = str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator: can't allocate" in text


def _free_memory(device: str) -> None:
    import gc

    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
