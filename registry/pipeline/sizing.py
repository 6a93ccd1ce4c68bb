"""How a build divides its training: which devices, how many workers, how many documents at once."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

from registry.base_model import load_tokenizer, shapes_from_config
from registry.base_model.memory import recall, remember
from registry.digests import json_digest
from registry.encoding.budget import (
    DEVICE_SHARE,
    Needs,
    Workload,
    filling,
    free_bytes,
    machine_bytes,
    model_size,
    needs,
    workload,
)
from registry.encoding.examples import build_examples
from registry.encoding.packing import pass_sizes
from registry.encoding.pool import Group, Work, default_workers, encode_groups
from registry.errors import UsageError
from registry.pipeline.recipes import Chosen
from registry.progress import Progress
from registry.records import EncodingInput
from registry.store.layout import AdapterLayout

MEASURED_FILE = "group-sizes.json"
LARGE_BUILD = 1000
"""From so many documents on it pays to measure which group size is fastest."""
TRIAL_ROUNDS = 3
LEAST_GAIN = 1.15
"""How many times faster another size than the model's has to be to be taken: less is noise, and every machine of a
kind should cut the same groups."""
PARENT_BYTES = 600_000_000
"""The memory of the process that reads and writes for worker processes."""


@dataclass(frozen=True)
class Wanted:
    """What the user said of it; None means what suits the machine. ``memory_bytes`` is for all processes together."""

    devices: tuple[str, ...]
    workers: int | None = None
    group_size: int | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Sizing:
    """How the groups are cut, a device for every worker, and what the workers are told."""

    group_size: int
    devices: tuple[str, ...]
    work: Work


def size_groups(
    chosen: Chosen, wanted: Wanted, sample: Sequence[EncodingInput], missing: int, progress: Progress
) -> Sizing:
    """Choose group size and workers for a build that lacks ``missing`` adapters of documents such as ``sample``.

    Raises:
        UsageError: not one document can be trained in the memory that was named.
    """
    recipe, device = chosen.recipe, wanted.devices[0]
    shapes = shapes_from_config(chosen.files.folder, recipe.targets, recipe.first_layer)
    layout = AdapterLayout.of(shapes, recipe.rank, recipe.adapter_dtype)
    tokenizer = load_tokenizer(chosen.files)
    load = workload(recipe, [build_examples(tokenizer, recipe, given) for given in sample])
    division = divide(chosen, wanted, layout, load)
    need, devices, largest = division.needs, division.devices, division.largest
    work = Work(chosen.files, recipe, layout, device, pass_tokens=division.pass_tokens, start=chosen.start)
    size = wanted.group_size
    if size is None:
        size = division.group_size
        size = _measured(work, devices, sample, size, largest, missing >= LARGE_BUILD, progress)
    if wanted.workers is None:
        devices = devices[: -(-missing // size)]
    now = max(1, min(largest, need.fitting(free_bytes(device) / len(devices))))
    if now < min(size, largest):
        progress.say(f"little memory is free: groups of {size} documents are trained {now} at a time to begin with")
    return Sizing(size, devices, replace(work, group_limit=now))


@dataclass(frozen=True)
class Division:
    """What follows from the memory alone: a worker for each of ``devices``, and how much goes through each at once.

    ``largest`` is the most documents that fit at once, ``group_size`` how many fill a pass of ``pass_tokens``.
    """

    devices: tuple[str, ...]
    pass_tokens: int
    group_size: int
    largest: int
    needs: Needs

    @property
    def memory_bytes(self) -> int:
        """What all workers need at most."""
        return len(self.devices) * self.needs.of(self.group_size)


def divide(chosen: Chosen, wanted: Wanted, layout: AdapterLayout, load: Workload) -> Division:
    """Choose the largest pass that a group can fill in every worker's share of the memory.

    Raises:
        UsageError: not one document can be trained in the memory that was named.
    """
    device = wanted.devices[0]
    size = model_size(chosen.files, chosen.base_model.parameters)
    memory = wanted.memory_bytes or machine_bytes(device)
    several = len(wanted.devices) > 1
    most = wanted.workers or (len(wanted.devices) if several else default_workers(device))
    everyone = tuple(islice(cycle(wanted.devices), most))
    for tokens in pass_sizes(device):
        need = needs(size, chosen.recipe, layout, load, device, tokens)
        if device.startswith("cuda"):
            need = Needs(min(need.fixed, int(DEVICE_SHARE * memory)), need.document)
        if need.fitting(_share(memory, everyone)) >= (wanted.group_size or filling(load, tokens)):
            break
    devices = _workers(wanted, everyone, need, memory)
    largest = max(1, need.fitting(_share(memory, devices)))
    return Division(devices, tokens, wanted.group_size or min(filling(load, tokens), largest), largest, need)


def _workers(wanted: Wanted, devices: tuple[str, ...], need: Needs, memory: int) -> tuple[str, ...]:
    """Return the device of every worker: where no number was named, as many as the memory allows."""
    if wanted.workers is None and len(wanted.devices) == 1:
        while len(devices) > 1 and need.fitting(_share(memory, devices)) < 1:
            devices = devices[:-1]
    if wanted.memory_bytes and need.fitting(_share(memory, devices)) < 1:
        least = need.of(1) * len(devices) + (PARENT_BYTES if len(devices) > 1 else 0)
        raise UsageError(
            f"--memory {memory / 1e9:.2f}GB is too little: {len(devices)} worker{'s' * (len(devices) > 1)} that train "
            f"one document each need about {least / 1e9:.2f}GB",
            hint=f"--memory {-(-least // 100_000_000) / 10}GB, "
            + ("or --workers 1" if len(devices) > 1 else "or a smaller base model"),
        )
    return devices


def _share(memory: int, devices: Sequence[str]) -> float:
    """Return each worker's bytes: of an accelerator's memory, or of the machine's beside the process that writes."""
    if devices[0].startswith("cuda"):
        return memory / -(-len(devices) // len(set(devices)))
    return memory if len(devices) == 1 else (memory - PARENT_BYTES) / len(devices)


def _measured(
    work: Work,
    devices: Sequence[str],
    sample: Sequence[EncodingInput],
    size: int,
    largest: int,
    is_large: bool,
    progress: Progress,
) -> int:
    """Return ``size``, or half or twice as much where that trains a document clearly faster here.

    It is measured once, by a build that is large enough, and remembered: later builds cut the same groups.
    """
    recipe, machine = work.recipe, (platform.machine(), os.cpu_count(), _device_name(work.device))
    shape = (recipe.base_model, recipe.dtype, recipe.rank, recipe.targets, recipe.first_layer, recipe.examples_per_step)
    key = json_digest({"shape": shape, "machine": machine, "size": size})
    known = recall(work.files.models_path, MEASURED_FILE, key)
    if not isinstance(known, dict) or not isinstance(known.get("size"), int):
        if not is_large:
            return size
        progress.say("measuring how many documents are best trained at once; this is done once on a machine")
        seconds = _seconds_a_document(work, devices, sample, [n for n in (size // 2, size, 2 * size) if n <= largest])
        fastest = min(seconds, key=seconds.__getitem__)
        known = {"size": fastest if seconds[size] > LEAST_GAIN * seconds[fastest] else size, "seconds": seconds}
        remember(work.files.models_path, MEASURED_FILE, key, known)
    return max(1, min(int(known["size"]), largest))


def _seconds_a_document(
    work: Work, devices: Sequence[str], sample: Sequence[EncodingInput], sizes: Sequence[int]
) -> dict[int, float]:
    """Train groups of each size for a few steps, all workers at once; return the best seconds a document of each."""
    steps = 2 * work.recipe.examples_per_step
    short = [
        replace(given, augmentation=replace(given.augmentation, pairs=given.augmentation.pairs[:steps]))
        for given in sample
    ]
    groups: list[Group] = [
        list(islice(cycle(short), size)) for _ in range(TRIAL_ROUNDS) for size in sizes if size for _ in devices
    ]
    brief = replace(work, recipe=replace(work.recipe, epochs=1))
    seconds: dict[int, float] = {}
    for adapters in encode_groups(brief, groups, len(devices), devices):
        measured = adapters[0].training
        best = seconds.get(measured.group_size, measured.elapsed_seconds)
        seconds[measured.group_size] = min(best, measured.elapsed_seconds)
    return seconds


def _device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    import torch

    return str(torch.cuda.get_device_name(device))
