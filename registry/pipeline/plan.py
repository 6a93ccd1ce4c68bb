"""Plan: what a build would take in operations, time, memory and disk, before anything of it is done."""

from __future__ import annotations

import math
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from registry.base_model import Matrices, choose_device, matrices_from_config, measured_rate, shapes_from_config
from registry.catalog.speed import measured_speed
from registry.encoding.budget import Workload, filling, model_size, needs
from registry.encoding.operations import operations, operations_needed
from registry.encoding.packing import pass_sizes
from registry.errors import UsageError
from registry.pipeline.augment import make_augmenter
from registry.pipeline.build import BuildRequest
from registry.pipeline.counts import Counts, count
from registry.pipeline.opened import Registry, opened
from registry.pipeline.recipes import Chosen, complete_recipe
from registry.pipeline.sizing import Wanted, divide
from registry.pipeline.staging import scratch_registry, staged_in
from registry.progress import Progress
from registry.records import Skipped
from registry.settings import Home
from registry.store.layout import AdapterLayout

EFFICIENCY = 0.4
"""The share of the rate of bare matrix products at which the encoder does the operations that are needed."""
RATE_SECONDS = 2.0

CATALOG_BYTES = 6_000
INDEX_BYTES = 500
PACK_ENTRY_BYTES = 130
"""A document of 100 words with its augmentation: measured 5,300 to 6,000, 300 to 530 and 130, without adapters."""
TimeFrom = Literal["nothing to encode", "earlier builds", "measured rate", "given rate"]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Devices on paper: ``rate_tflops`` is one's rate of matrix products in 10^12 operations a second."""

    rate_tflops: float
    devices: int = 1
    dollars_per_device_hour: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not (math.isfinite(self.rate_tflops) and self.rate_tflops > 0):
            raise UsageError(f"a device's rate must be above 0 TFLOP/s, not {self.rate_tflops}", hint="--rate 400")
        if self.devices < 1:
            raise UsageError(f"there must be at least 1 device, not {self.devices}", hint="--devices 8")
        price = self.dollars_per_device_hour
        if price is not None and not (math.isfinite(price) and price >= 0):
            raise UsageError(f"the price of a device-hour must not be below 0, and not {price}", hint="--price 2.50")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a build would take.

    Counts: ``documents`` at ``places``; ``reused`` of them have adapters and cost nothing, ``to_encode`` have none.
    ``examples`` and trained ``tokens`` (every epoch counted) are exact, and equal to what the build trains, unless
    ``estimated``: then the augmentations of ``to_augment`` documents are yet to be written, in up to about
    ``generated_tokens`` (the base model writes fewer: it takes answers from the text), and the figures suppose that all
    that the recipe asks for will come.

    Work: ``operations`` are 4 x ``parameters`` x ``tokens``, with the parameters that multiply a token;
    ``operations_needed`` is what the recipe leaves of them (see ``registry.encoding.operations``).

    ``expected_time_seconds`` is of encoding alone, by ``time_from``: the tokens a second that the newest build of this
    recipe on this machine trained, or else ``operations_needed`` / (rate x ``efficiency``). ``rate_gflops`` is of bare
    matrix products in 10^9 operations a second, measured here over all ``workers`` or given for one device, None if
    there is nothing to encode. ``device_hours`` and ``dollars`` are of a cluster on paper.

    ``memory_bytes`` is an estimate of all workers at work together, or of one device of a cluster.
    ``adapter_bytes`` are all new adapters; ``disk_bytes`` stay, with catalog and index, and ``peak_disk_bytes`` are
    needed while small packs are combined. The base model is there already: the plan has read it.
    """

    documents: int
    places: int
    skipped: tuple[Skipped, ...]
    reused: int
    to_encode: int
    to_augment: int
    estimated: bool
    examples: int
    tokens: int
    generated_tokens: int
    parameters: int
    operations: int
    operations_needed: int
    rate_gflops: float | None
    efficiency: float
    expected_time_seconds: float
    time_from: TimeFrom
    device_hours: float | None
    dollars: float | None
    adapter_bytes: int
    memory_bytes: int
    disk_bytes: int
    peak_disk_bytes: int
    device: str
    devices: int | None
    dtype: str
    workers: int
    group_size: int
    augmenter: str
    recipe_digest: str
    base_model: str


def plan(home: Home | None, request: BuildRequest, progress: Progress, *, cluster: Cluster | None = None) -> Plan:
    """Count what `build` would do for a request; nothing is trained, and the registry stays as it is.

    Without a home the recipe is the request's or the default preset's, and nothing is reused. The base model is
    fetched or converted first where it is not there yet, as for a build: its tokenizer counts.

    Raises:
        PragregError: see ``registry.errors``; what would stop a build before it trains stops its plan.
    """
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_registry())
        registry = stack.enter_context(opened(home)) if home else scratch
        chosen = complete_recipe(registry, request.corpus, request.recipe, request.augmenter, progress)
        device = "cuda" if cluster else choose_device(request.device)
        augmenter = make_augmenter(chosen, request.augmenter, device)
        with staged_in(scratch, request, chosen, progress) as sources:
            counts = count(registry, sources.documents, sources.counts.documents, chosen, augmenter, progress)
        job = _job(request, chosen, counts, device, cluster)
        time = _expected_time(registry, job, cluster, progress)
    recipe = chosen.recipe
    packs_bytes = counts.to_encode * (job.layout.size_bytes + PACK_ENTRY_BYTES)
    disk_bytes = packs_bytes + counts.to_encode * CATALOG_BYTES + sources.counts.documents * INDEX_BYTES
    return Plan(
        documents=sources.counts.documents,
        places=sources.counts.places,
        skipped=sources.skipped,
        reused=counts.reused,
        to_encode=counts.to_encode,
        to_augment=counts.to_augment,
        estimated=counts.to_augment > 0,
        examples=counts.examples,
        tokens=counts.tokens,
        generated_tokens=counts.generated_tokens,
        parameters=job.matrices.parameters,
        operations=operations(job.matrices, counts.tokens),
        operations_needed=job.operations_needed,
        rate_gflops=time.rate_gflops,
        efficiency=EFFICIENCY,
        expected_time_seconds=time.seconds,
        time_from=time.source,
        device_hours=time.device_hours,
        dollars=time.dollars,
        adapter_bytes=counts.to_encode * job.layout.size_bytes,
        memory_bytes=job.memory_bytes,
        disk_bytes=disk_bytes,
        peak_disk_bytes=disk_bytes + packs_bytes,
        device=device,
        devices=cluster.devices if cluster else None,
        dtype=recipe.dtype,
        workers=job.workers,
        group_size=job.group_size,
        augmenter=recipe.augmenter,
        recipe_digest=recipe.digest,
        base_model=chosen.base_model.reference,
    )


@dataclass(frozen=True, slots=True)
class _Job:
    """What is to be encoded, and by whom."""

    chosen: Chosen
    counts: Counts
    matrices: Matrices
    layout: AdapterLayout
    device: str
    workers: int
    group_size: int
    memory_bytes: int

    @property
    def operations_needed(self) -> int:
        return operations_needed(self.matrices, self.chosen.recipe, self.counts.tokens, self.counts.loss_tokens)


def _job(request: BuildRequest, chosen: Chosen, counts: Counts, device: str, cluster: Cluster | None) -> _Job:
    recipe = chosen.recipe
    shapes = shapes_from_config(chosen.files.folder, recipe.targets, recipe.first_layer)
    layout = AdapterLayout.of(shapes, recipe.rank, recipe.adapter_dtype)
    documents, examples = max(1, counts.to_encode), max(1, counts.examples)
    example = counts.tokens / recipe.epochs / examples
    load = Workload(
        step=max(1.0, example * min(recipe.examples_per_step, examples / documents)),
        longest=math.ceil(example),
        beside=example,
        document=math.ceil(example * examples / documents),
    )
    if cluster:  # devices on paper: what a pass takes there is not cut to what they have
        tokens, workers = pass_sizes(device)[0], 1
        size = model_size(chosen.files, chosen.base_model.parameters)
        need = needs(size, recipe, layout, load, device, tokens)
        group_size = request.group_size or filling(load, tokens)
    else:
        division = divide(chosen, Wanted((device,), request.workers, request.group_size), layout, load)
        need, group_size = division.needs, division.group_size
        workers = request.workers or min(len(division.devices), math.ceil(documents / group_size))
    memory_bytes = workers * need.of(min(group_size, documents))
    matrices = matrices_from_config(chosen.files.folder)
    return _Job(chosen, counts, matrices, layout, device, workers, group_size, memory_bytes)


@dataclass(frozen=True, slots=True)
class _Time:
    seconds: float
    source: TimeFrom
    rate_gflops: float | None = None
    device_hours: float | None = None
    dollars: float | None = None


def _expected_time(registry: Registry, job: _Job, cluster: Cluster | None, progress: Progress) -> _Time:
    needed, recipe = job.operations_needed, job.chosen.recipe
    if cluster is not None:
        seconds = needed / (cluster.rate_tflops * 1e12 * cluster.devices * EFFICIENCY)
        hours, price = cluster.devices * seconds / 3600, cluster.dollars_per_device_hour
        return _Time(seconds, "given rate", cluster.rate_tflops * 1e3, hours, None if price is None else hours * price)
    if not job.counts.to_encode:
        return _Time(0.0, "nothing to encode")
    progress.start("measuring", None)
    rate = measured_rate(job.matrices.shapes, recipe.dtype, job.device, job.workers, RATE_SECONDS)
    progress.done()
    with registry.catalog.read() as session:
        speed = measured_speed(session, recipe.digest, device=job.device, host=socket.gethostname())
    if speed is not None:
        return _Time(job.counts.tokens / (speed * job.workers), "earlier builds", rate)
    return _Time(needed / (rate * 1e9 * EFFICIENCY), "measured rate", rate)
