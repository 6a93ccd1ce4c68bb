"""What a question costs: merging adapters into slots against PEFT, a decode token, the prefill, batches.

    python -m benchmarks.query --threads 1

Adapters are random, of the paper's shape (rank 2), and go through a real pack. Medians, in milliseconds. Runs of the
two things compared alternate, so that a noisy machine disturbs both alike.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import DynamicCache

from benchmarks.machine import header
from registry.base_model import DEFAULT_ALIAS, LoadedModel, encode_prompt, linear_shapes, load, locate
from registry.digests import sha256_hex
from registry.generation.generate import generate
from registry.generation.slots import AdapterSlots
from registry.layout import question_prompt
from registry.merging.export import export_adapter
from registry.recipe import Recipe, preset
from registry.records import Pack
from registry.settings import DEFAULT_HOME, MODELS_VARIABLE
from registry.store import AdapterLayout, PackStore

K = 3
GROUPS = 8
"""How many different sets of three adapters there are to load in turn."""
BATCHES = (1, 4, 8, 16)
NEW_TOKENS = 8
QUESTION = "In which year was the lighthouse of Quarrel Point rebuilt after the great storm?"
PASSAGE = " ".join(
    [
        "The lighthouse of Quarrel Point was built by Ottoline Marsh in 1874 out of grey basalt from the quarries of",
        "Tamsin, and rebuilt on the same spot after a storm had taken its upper half. Its lamp is seen from nineteen",
        "miles away. The keeper's house beside it has a garden with a wall of slate, a well, and a shed for the two",
        "boats with which the lamp's oil was brought from Bellhaven twice a year until the cable was laid. Since then",
        "the house belongs to a society of bird watchers, who count the terns and keep the old clock going.",
    ]
)


@dataclass(frozen=True)
class Bench:
    """What is measured: a model, adapters in a pack, and the same as PEFT folders."""

    loaded: LoadedModel
    recipe: Recipe
    layout: AdapterLayout
    store: PackStore
    pack: Pack
    folders: Sequence[Path]

    def group(self, number: int) -> slice:
        start = number % GROUPS * K
        return slice(start, start + K)


def main() -> None:
    options = _options()
    warnings.simplefilter("ignore")  # PEFT warns of every deletion
    torch.set_num_threads(options.threads)
    loaded = load(locate(options.model, models_path=options.models), device=options.device, dtype=options.dtype)
    print(header())
    print(f"- {options.model}, {loaded.dtype} on {loaded.device}, {options.threads} threads, rank 2, {K} adapters\n")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        bench = _prepare(loaded, Path(folder))
        rows = [
            *_injecting(bench, options.repeats),
            *_decoding(bench, options.repeats),
            *_prefilling(bench, options.repeats),
            *_batches(bench),
        ]
    print("| step | milliseconds |\n|---|---:|")
    for label, value in rows:
        print(f"| {label} | {value:.2f} |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_ALIAS)
    parser.add_argument("--models", type=Path, default=Path(os.environ.get(MODELS_VARIABLE, f"{DEFAULT_HOME}/models")))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7, help="quick steps: 10 times as many")
    return parser.parse_args()


def _prepare(loaded: LoadedModel, folder: Path) -> Bench:
    recipe = preset("paper")
    layout = AdapterLayout.of(linear_shapes(loaded.model, recipe.targets), recipe.rank, recipe.adapter_dtype)
    adapters = []
    for seed in range(K * GROUPS):
        body = np.random.default_rng(seed).normal(0, 0.005, layout.elements).astype(np.float32)
        data = layout.serialise(body.tobytes())
        adapters.append((sha256_hex(data), data))
    folders = [folder / f"adapter-{number}" for number in range(len(adapters))]
    for path, (_, data) in zip(folders, adapters, strict=True):
        export_adapter(data, path, recipe=recipe, base_model=loaded.base_model)
    store = PackStore(str(folder / "packs"))
    return Bench(loaded, recipe, layout, store, store.write(adapters), folders)


def _injecting(bench: Bench, repeats: int) -> Iterator[tuple[str, float]]:
    theirs, ours = [], []
    slots = AdapterSlots(bench.loaded, bench.layout, capacity=1, max_adapters=K)
    for number in range(repeats):
        slots.remove()
        with torch.inference_mode(False), torch.no_grad():
            theirs.append(_peft(bench, number))
        slots.insert()
        ours += [_slots(bench, slots, number * 10 + again) for again in range(10)]
    slots.remove()
    totals = [statistics.median(column) for column in zip(*theirs, strict=True)]
    loading, filling, choosing = (statistics.median(column) for column in zip(*ours, strict=True))
    yield "PEFT: load three adapters", totals[0]
    yield "PEFT: add_weighted_adapter cat", totals[1]
    yield "PEFT: delete, unload, collect", totals[2]
    yield "PEFT: together", sum(totals)
    yield "slots: read three adapters from a mapped pack", loading
    yield "slots: merge and fill", filling
    yield "slots: choose", choosing
    yield "slots: together", loading + filling + choosing
    yield "PEFT / slots (times)", sum(totals) / (loading + filling + choosing)


def _peft(bench: Bench, number: int) -> tuple[float, float, float]:
    clock = _Clock()
    first, *others = bench.folders[bench.group(number)]
    model = PeftModel.from_pretrained(bench.loaded.model, str(first), adapter_name="a")
    for name, folder in zip("bc", others, strict=True):
        model.load_adapter(str(folder), adapter_name=name)
    loading = clock.lap()
    tuner: Any = model.base_model
    tuner.add_weighted_adapter(list("abc"), [1.0] * K, "merged", combination_type="cat")
    model.set_adapter("merged")
    merging = clock.lap()
    model.delete_adapter("merged")
    model.unload()
    gc.collect()
    return loading, merging, clock.lap()


def _slots(bench: Bench, slots: AdapterSlots, number: int) -> tuple[float, float, float]:
    clock = _Clock()
    bodies = [bench.layout.body(bench.store.read(one)) for one in bench.pack.adapters[bench.group(number)]]
    loading = clock.lap()
    slots.fill(0, bodies, [1.0] * K, bench.recipe.scale)
    _wait(bench.loaded)
    filling = clock.lap()
    slots.choose([0])
    choosing = clock.lap()
    slots.choose(())
    return loading, filling, choosing


def _decoding(bench: Bench, repeats: int) -> Iterator[tuple[str, float]]:
    """Time one token after the question: the bare model, the wrapped one without and with an adapter, in turn."""
    slots = _filled(bench, 1)
    variants: dict[str, tuple[Callable[[], None], list[int]]] = {
        "bare model": (slots.remove, []),
        "with slots, none in use": (slots.insert, []),
        "with a slot of three adapters": (slots.insert, [0]),
    }
    ids = _prompt(bench, ())
    caches = {name: DynamicCache(config=bench.loaded.model.config) for name in variants}
    times: dict[str, list[float]] = {name: [] for name in variants}
    for step in range(repeats * 4):
        for name, (prepare, rows) in variants.items():
            prepare()
            slots.choose(rows)
            fed = ids if step == 0 else ids[:, -1:]
            elapsed = _milliseconds(bench.loaded, partial(_forward, bench.loaded, fed, caches[name]))
            if step > 0:
                times[name].append(elapsed)
    slots.remove()
    medians = {name: statistics.median(own) for name, own in times.items()}
    for name, median in medians.items():
        yield f"decode token: {name}", median
    bare, _, used = medians.values()
    yield "overhead of the slot (percent)", (used / bare - 1) * 100


def _forward(loaded: LoadedModel, ids: torch.Tensor, cache: DynamicCache) -> None:
    loaded.model(input_ids=ids, cache=cache, use_cache=True, logits_to_keep=1)


def _prefilling(bench: Bench, repeats: int) -> Iterator[tuple[str, float]]:
    slots = _filled(bench, 1)
    for label, passages in (("the question", ()), ("the question and 3 passages", (PASSAGE,) * K)):
        ids = _prompt(bench, passages)

        bare: list[float] = []
        used: list[float] = []
        for _ in range(repeats):
            for rows, times in (([], bare), ([0], used)):
                slots.choose(rows)
                cache = DynamicCache(config=bench.loaded.model.config)
                times.append(_milliseconds(bench.loaded, partial(_forward, bench.loaded, ids, cache)))
        yield f"prefill of {label} ({ids.shape[1]} tokens), no adapter", statistics.median(bare)
        yield f"prefill of {label}, with a slot of three", statistics.median(used)
    slots.remove()


def _batches(bench: Bench) -> Iterator[tuple[str, float]]:
    prompt = _prompt(bench, ())[0].tolist()
    for size in BATCHES:
        slots = _filled(bench, size)
        started = time.perf_counter()
        generate(bench.loaded, slots, [prompt] * size, list(range(size)), max_new_tokens=NEW_TOKENS)
        elapsed = (time.perf_counter() - started) * 1000
        slots.remove()
        yield f"a question of {NEW_TOKENS} tokens, {size} in a batch, each with its own three adapters", elapsed / size


def _filled(bench: Bench, capacity: int) -> AdapterSlots:
    slots = AdapterSlots(bench.loaded, bench.layout, capacity=capacity, max_adapters=K)
    for slot in range(capacity):
        bodies = [bench.layout.body(bench.store.read(one)) for one in bench.pack.adapters[bench.group(slot)]]
        slots.fill(slot, bodies, [1.0] * K, bench.recipe.scale)
    return slots


def _prompt(bench: Bench, passages: Sequence[str]) -> torch.Tensor:
    ids = encode_prompt(bench.loaded.tokenizer, question_prompt("chat", QUESTION, passages))
    return torch.tensor([ids], device=bench.loaded.device)


class _Clock:
    """Milliseconds since the last look."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        elapsed, self._last = (now - self._last) * 1000, now
        return elapsed


def _milliseconds(loaded: LoadedModel, run: Callable[[], Any]) -> float:
    clock = _Clock()
    run()
    _wait(loaded)
    return clock.lap()


def _wait(loaded: LoadedModel) -> None:
    if loaded.device.startswith("cuda"):
        torch.cuda.synchronize(loaded.device)


if __name__ == "__main__":
    main()
