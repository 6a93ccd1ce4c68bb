"""Build: from sources to a new version of a corpus."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from registry.augmentation import Augmenter
from registry.base_model import choose_devices, matrices_from_config
from registry.catalog.builds import BuildCounts, begin_build, find_holder, finish_build, stage, staged_counts
from registry.catalog.chunks import chunked
from registry.catalog.versions import commit_version
from registry.documents import ReadOptions, read_documents
from registry.encoding.operations import operations
from registry.errors import BusyError, InputError, Interrupted, PragregError
from registry.masking import masked
from registry.pipeline.augment import augment, make_augmenter
from registry.pipeline.encode import (
    AdapterPlan,
    EncodingTotals,
    combine_packs,
    encode,
    forget_lost_packs,
    plan_adapters,
)
from registry.pipeline.opened import Registry, opened
from registry.pipeline.recipes import Chosen, RecipeRequest, choose_recipe
from registry.pipeline.sizing import Wanted
from registry.progress import Progress
from registry.records import PlacedDocument, Skipped, Version
from registry.settings import DEFAULT_CORPUS, Home, user_name
from registry.upkeep.processes import is_alive

STAGE_DOCUMENTS = 2000
POLL_SECONDS = 0.5
"""How often a build that waits looks whether its corpus is free."""


@dataclass(frozen=True)
class BuildRequest:
    """What `pragreg build` was asked for; None means what the recipe or the machine says.

    ``device`` may name several with commas between, or "all". ``memory_bytes`` caps the processes that train. While
    another build holds the corpus, ``wait`` waits for its end.
    """

    sources: tuple[str, ...]
    corpus: str = DEFAULT_CORPUS
    read: ReadOptions = field(default_factory=ReadOptions)
    recipe: RecipeRequest = field(default_factory=RecipeRequest)
    augmenter: str | None = None
    skip_invalid: bool = False
    device: str = "auto"
    group_size: int | None = None
    workers: int | None = None
    memory_bytes: int | None = None
    message: str = ""
    language: str | None = None
    take_over: bool = False
    wait: bool = False


@dataclass(frozen=True)
class BuildSummary:
    """What a build did.

    ``unaided`` has the digests of the first hundred documents that had to be encoded from their own text alone.
    ``elapsed_seconds`` is the whole build's wall time, ``encode_wall_seconds`` the encoding step's;
    ``operations`` are 4 x parameters x tokens of what was trained (see ``registry.encoding.operations``), and
    ``reached_gflops`` are 10^9 of those a second of the encoding step (None if nothing was trained): more than the
    machine's own rate where the recipe leaves much of them out.
    ``first_loss`` and ``last_loss`` are means over the trained adapters' first and last epochs (None if none).
    """

    build_id: int
    version: Version
    created: bool
    documents: int
    places: int
    reused: int
    trained: int
    skipped: tuple[Skipped, ...]
    pairs_kept: int
    pairs_dropped: int
    documents_without_pairs: int
    unaided: tuple[str, ...]
    elapsed_seconds: float
    encode_wall_seconds: float
    trained_examples: int
    trained_tokens: int
    operations: int
    reached_gflops: float | None
    first_loss: float | None
    last_loss: float | None
    adapter_bytes: int


def build(home: Home, request: BuildRequest, progress: Progress) -> BuildSummary:
    """Make the newest version of a corpus hold what the sources say, training only what is missing.

    Every step is kept as it is done: augmentations one by one, adapters group by group. A build that stops, in
    whatever way, leaves the corpus' versions as they were, and the same command goes on where it was.

    Raises:
        BusyError: another build holds the corpus, and the request does not say to wait.
        PragregError: see ``registry.errors``; bad input is found before anything is trained.
    """
    started = time.perf_counter()
    with opened(home) as registry, _begun(registry, request, progress) as (chosen, running):
        skipped = read_sources(registry, running.build_id, request, progress)
        devices = _devices(request.device)
        augmenter = make_augmenter(chosen, request.augmenter, devices[0])
        # Before augmenting: of what is lost the augmentation is needed again, which may be withheld.
        forget_lost_packs(registry, progress)
        augment(registry, running.build_id, augmenter, chosen.recipe.digest, progress)
        plan, totals, encode_wall_seconds = _encode(
            registry, running.build_id, request, chosen, augmenter, devices, progress
        )
        combine_packs(registry, request.corpus, running.build_id)
        with registry.catalog.write() as session:
            staged = staged_counts(session, running.build_id)
            version, created = commit_version(
                session, running.build_id, {}, recipe_digest=chosen.recipe.digest, message=request.message
            )
        progress.start("indexing", None)
        registry.index(version)
        progress.done()
        running.counts = BuildCounts(
            sources=staged.sources,
            documents=staged.documents,
            places=staged.places,
            reused=plan.reused,
            trained=totals.trained,
            skipped=len(skipped),
            without_augmentation=plan.augmentations.documents_without_pairs,
            size_bytes=totals.size_bytes,
        )
    done = operations(matrices_from_config(chosen.files.folder), totals.tokens) if totals.trained else 0
    return BuildSummary(
        build_id=running.build_id,
        version=version,
        created=created,
        documents=staged.documents,
        places=staged.places,
        reused=plan.reused,
        trained=totals.trained,
        skipped=skipped,
        pairs_kept=plan.augmentations.pairs,
        pairs_dropped=plan.augmentations.dropped_pairs,
        documents_without_pairs=plan.augmentations.documents_without_pairs,
        unaided=tuple(plan.augmentations.unaided),
        elapsed_seconds=time.perf_counter() - started,
        encode_wall_seconds=encode_wall_seconds,
        trained_examples=totals.examples,
        trained_tokens=totals.tokens,
        operations=done,
        reached_gflops=done / encode_wall_seconds / 1e9 if done else None,
        first_loss=totals.first_loss / totals.trained if totals.trained else None,
        last_loss=totals.last_loss / totals.trained if totals.trained else None,
        adapter_bytes=totals.size_bytes,
    )


@dataclass
class RunningBuild:
    """A build under way; ``counts`` are recorded when it ends."""

    build_id: int
    counts: BuildCounts = field(default_factory=BuildCounts)


@contextmanager
def _begun(registry: Registry, request: BuildRequest, progress: Progress) -> Iterator[tuple[Chosen, RunningBuild]]:
    """Complete the recipe, which another build may just have changed, and hold the corpus."""
    with ExitStack() as stack:
        while True:
            if request.wait:
                _wait(registry, request, progress)
            chosen = choose_recipe(registry, request.corpus, request.recipe, request.augmenter, progress)
            try:
                running = stack.enter_context(running_build(registry, request, chosen))
                break
            except BusyError:
                if not request.wait:
                    raise
                # Another one that waited was faster.
        yield chosen, running


def _wait(registry: Registry, request: BuildRequest, progress: Progress) -> None:
    """Return when nobody holds the corpus; tell of each holder once, who it is and since when."""
    told: set[int] = set()
    while True:
        with registry.catalog.read() as session:
            holder = find_holder(
                session, request.corpus, host=socket.gethostname(), is_alive=is_alive, take_over=request.take_over
            )
        if holder is None:
            return
        if holder.build_id not in told:
            told.add(holder.build_id)
            progress.say(f"waiting for the end of {holder}")
        time.sleep(POLL_SECONDS)


@contextmanager
def running_build(registry: Registry, request: BuildRequest, chosen: Chosen) -> Iterator[RunningBuild]:
    """Hold the corpus for the time of a build, and record how the build ended.

    Raises:
        BusyError: another process holds it that lives, or that may live on another host.
    """
    with registry.catalog.write() as session:
        running = RunningBuild(
            begin_build(
                session,
                request.corpus,
                recipe_digest=chosen.recipe.digest,
                who=user_name(),
                host=socket.gethostname(),
                pid=os.getpid(),
                is_alive=is_alive,
                message=request.message,
                language=request.language,
                take_over=request.take_over,
            )
        )
    try:
        yield running
    except BaseException as error:
        # Where the catalog itself is what failed, that stays the error; the next build finds this one dead.
        with suppress(PragregError):
            _finish(registry, running, *_end(error))
        raise
    _finish(registry, running, "finished", None)


def _end(error: BaseException) -> tuple[Literal["failed", "interrupted"], str | None]:
    """Return how a build that raised ``error`` ended, and why, as the catalog keeps it."""
    if isinstance(error, PragregError) and not isinstance(error, Interrupted):
        return "failed", error.message
    if isinstance(error, Exception) and not isinstance(error, Interrupted):
        return "failed", masked(f"{type(error).__name__}: {error}")
    return "interrupted", None


def _finish(
    registry: Registry, running: RunningBuild, status: Literal["finished", "failed", "interrupted"], error: str | None
) -> None:
    with registry.catalog.write() as session:
        finish_build(session, running.build_id, status=status, counts=running.counts, error=error)


def read_sources(registry: Registry, build_id: int, request: BuildRequest, progress: Progress) -> tuple[Skipped, ...]:
    """Stage the documents of a request's sources, and return the inputs that were left out.

    Raises:
        InputError: an input is wrong, or there is no document.
    """
    skipped: list[Skipped] = []
    read = 0

    def on_read(_: PlacedDocument) -> None:
        nonlocal read
        read += 1
        if read % STAGE_DOCUMENTS == 0:
            progress.advance(STAGE_DOCUMENTS)

    progress.start("reading", None)
    documents = read_documents(
        request.sources, request.read, skip_invalid=request.skip_invalid, on_skip=skipped.append, on_read=on_read
    )
    for number, chunk in enumerate(chunked(documents, STAGE_DOCUMENTS)):
        if number == 0:
            progress.start("storing", read)
        with registry.catalog.write() as session:
            stage(session, build_id, chunk)
        progress.advance(len(chunk))
    progress.done()
    with registry.catalog.read() as session:
        if not staged_counts(session, build_id).documents:
            raise InputError(
                f"no document was found in {', '.join(request.sources)}",
                hint="name files, folders or globs that hold text; `pragreg build --help` lists the types",
            )
    return tuple(skipped)


def _devices(names: str) -> tuple[str, ...]:
    return ("cpu",) if names == "cpu" else choose_devices(names)  # choosing takes torch


def _encode(
    registry: Registry,
    build_id: int,
    request: BuildRequest,
    chosen: Chosen,
    augmenter: Augmenter,
    devices: tuple[str, ...],
    progress: Progress,
) -> tuple[AdapterPlan, EncodingTotals, float]:
    plan = plan_adapters(registry, build_id, augmenter, chosen.recipe.digest)
    wanted = Wanted(devices, request.workers, request.group_size, request.memory_bytes)
    started = time.perf_counter()
    totals = encode(registry, build_id, chosen, augmenter, plan, wanted, progress)
    return plan, totals, time.perf_counter() - started
