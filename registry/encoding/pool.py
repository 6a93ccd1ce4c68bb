"""Workers that encode groups: one single-threaded process per core on a CPU, this process on an accelerator."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_handles

from registry.base_model import LoadedModel, ModelFiles, load
from registry.digests import short
from registry.encoding.train import encode_group
from registry.errors import EncodingError
from registry.recipe import Recipe
from registry.records import EncodedAdapter, EncodingInput
from registry.store.layout import AdapterLayout

Group = Sequence[EncodingInput]


@dataclass(frozen=True)
class Work:
    """What every group of one build shares: the base model's files, the recipe, the adapters' layout, the device."""

    files: ModelFiles
    recipe: Recipe
    layout: AdapterLayout
    device: str


def default_workers(device: str) -> int:
    """Return how many processes encode: one per usable core on a CPU (measured fastest and steadiest), else one."""
    return len(os.sched_getaffinity(0)) if device == "cpu" and hasattr(os, "sched_getaffinity") else 1


def default_group_size(device: str) -> int:
    """Return how many documents are trained at once: few on a CPU, where more gain little, many on a GPU."""
    return 8 if device == "cpu" else 64


def encode_groups(work: Work, groups: Iterable[Group], workers: int) -> Generator[list[EncodedAdapter]]:
    """Yield each group's adapters as it is finished, in any order.

    Groups are taken from ``groups`` only as workers become free, so it may be endless. Closing the iterator (or an
    exception in the caller) stops the workers at once; groups in flight are lost and nothing else is.

    Raises:
        EncodingError: a group failed, or a worker died (most likely killed for its memory).
    """
    if workers <= 1:
        yield from _encode_here(work, groups)
    else:
        yield from _encode_in_processes(work, groups, workers)


def _encode_here(work: Work, groups: Iterable[Group]) -> Generator[list[EncodedAdapter]]:
    import torch

    threads = torch.get_num_threads()
    loaded: LoadedModel | None = None
    try:
        for group in groups:
            if loaded is None:
                loaded = _load(work)
            yield encode_halving(loaded, work, group)
    finally:
        torch.set_num_threads(threads)


def _encode_in_processes(work: Work, groups: Iterable[Group], workers: int) -> Generator[list[EncodedAdapter]]:
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(work,)
    )
    running: set[Future[list[EncodedAdapter]]] = set()
    source = iter(groups)
    finished = False
    try:
        while True:
            while len(running) < workers + 1 and (group := next(source, None)) is not None:
                running.add(pool.submit(_encode_in_worker, group))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
        finished = True
    except BrokenProcessPool as error:
        raise EncodingError(
            "a worker process died while encoding; most likely it was killed for using too much memory",
            hint="run the same command again with --workers 1 or a smaller --group-size; what is finished is kept",
        ) from error
    finally:
        if not finished:
            _kill(pool)
        pool.shutdown(wait=finished, cancel_futures=True)


def _kill(pool: ProcessPoolExecutor) -> None:
    """Stop workers in the middle of a group; they hold nothing that anyone needs."""
    for process in list((pool._processes or {}).values()):
        process.terminate()


_worker: tuple[LoadedModel, Work] | None = None


def _start_worker(work: Work) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow_parent, daemon=True).start()
    _worker = (_load(work), work)


def _follow_parent() -> None:
    """End this worker when its parent is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_handles([parent.sentinel])
        os._exit(1)


def _load(work: Work) -> LoadedModel:
    import torch

    if work.device == "cpu":
        torch.set_num_threads(1)
    return load(work.files, device=work.device, dtype=work.recipe.dtype)


def _encode_in_worker(group: Group) -> list[EncodedAdapter]:
    assert _worker is not None
    loaded, work = _worker
    return encode_halving(loaded, work, group)


def encode_halving(loaded: LoadedModel, work: Work, group: Group) -> list[EncodedAdapter]:
    """Encode a group; when memory runs out, encode its halves one after the other.

    Raises:
        EncodingError: one document alone does not fit.
    """
    try:
        return encode_group(loaded, work.recipe, work.layout, group)
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
    _free_memory(loaded.device)
    middle = len(group) // 2
    return encode_halving(loaded, work, group[:middle]) + encode_halving(loaded, work, group[middle:])


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
