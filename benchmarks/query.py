"""What a question costs: injecting adapters against PEFT, a decoded token, the prefill, batches, merging into weights.

    python -m benchmarks.query --threads 1 [--dtype bfloat16]

Adapters are random, of the paper's shape (rank 2), and go through a real pack. Medians, in milliseconds. Runs of the
things compared alternate, so that a noisy machine disturbs all alike.
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
from dataclasses import dataclass, field
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
from registry.generation.batcher import Batcher
from registry.generation.entries import Entries
from registry.generation.merged import merged_into_weights
from registry.generation.requests import Request, Term
from registry.generation.runners import Runner
from registry.generation.runners.choosing import make_runner
from registry.layout import question_prompt
from registry.merging.export import export_adapter
from registry.recipe import Recipe, preset
from registry.records import Pack
from registry.settings import DEFAULT_HOME, MODELS_VARIABLE
from registry.store import AdapterLayout, PackStore

K = 3
GROUPS = 16
"""How many different sets of three adapters there are to load in turn."""
BATCHES = (1, 4, 8, 16)
NEW_TOKENS = 16
CONTEXT = 640
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
    """What is measured: a model, adapters in a pack, and the same as PEFT folders; ``token_ms`` once it is known."""

    loaded: LoadedModel
    recipe: Recipe
    layout: AdapterLayout
    packs_folder: str
    store: PackStore
    pack: Pack
    folders: Sequence[Path]
    token_ms: list[float] = field(default_factory=list)

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
        print("| step | milliseconds |\n|---|---:|")
        for part in (_decoding, _prefilling, _injecting, _batches, _merging):
            for label, value in part(bench, options.repeats):
                print(f"| {label} | {value:.3g} |", flush=True)


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
    packs = str(folder / "packs")
    store = PackStore(packs)
    return Bench(loaded, recipe, layout, packs, store, store.write(adapters), folders)


def _injecting(bench: Bench, repeats: int) -> Iterator[tuple[str, float]]:
    """Time PEFT, and the three ways to a slot: adapters on the device, in the page cache, and read the first time."""
    room, narrow = _runner(bench, rows=1), _runner(bench, rows=1, adapters=K)
    on_device, evicting = Entries(room), Entries(narrow)
    theirs, cached, mapped, first = [], [], [], []
    for number in range(GROUPS):
        _inject(bench, on_device, room, bench.store, number)
    for number in range(repeats):
        with torch.inference_mode(False), torch.no_grad():
            theirs.append(_peft(bench, number))
        for again in range(10):
            cached.append(_inject(bench, on_device, room, bench.store, number * 10 + again))
            mapped.append(_inject(bench, evicting, narrow, bench.store, number * 10 + again))
        fresh = PackStore(bench.packs_folder)
        first.append(_inject(bench, evicting, narrow, fresh, number + 1))
        fresh.close()
    totals = [statistics.median(column) for column in zip(*theirs, strict=True)]
    yield "PEFT: load three adapters", totals[0]
    yield "PEFT: add_weighted_adapter cat", totals[1]
    yield "PEFT: delete, unload, collect", totals[2]
    yield "PEFT: together", sum(totals)
    for label, times in (
        ("ours: load, merge, inject three adapters that are on the device", cached),
        ("ours: the same from the page cache", mapped),
        ("ours: the same, read and checked by sha256 the first time", first),
    ):
        yield label, statistics.median(times)
        yield f"{label}: PEFT / ours (times)", sum(totals) / statistics.median(times)
        yield f"{label}: share of a decoded token (percent)", 100 * statistics.median(times) / bench.token_ms[0]


def _inject(bench: Bench, entries: Entries, runner: Runner, store: PackStore, number: int) -> float:
    """Return the milliseconds from where the adapters lie to a slot that has their sum."""
    clock = _Clock()
    terms = [
        Term(one.adapter_digest, 1.0, bench.layout.body(store.read(one)))
        for one in bench.pack.adapters[bench.group(number)]
    ]
    runner.inject(0, entries.hold(terms), [term.factor for term in terms])
    _wait(bench.loaded)
    elapsed = clock.lap()
    entries.release(terms)
    return elapsed


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


def _decoding(bench: Bench, repeats: int) -> Iterator[tuple[str, float]]:
    """Time one token after the question: transformers' model, ours bare, and ours with three adapters, in turn."""
    ids = _prompt(bench, ())
    cache = DynamicCache(config=bench.loaded.model.config)
    _forward(bench.loaded, torch.tensor([ids], device=bench.loaded.device), cache)
    last = torch.tensor([ids[-1:]], device=bench.loaded.device)
    runner = _runner(bench, rows=2)
    _fill(bench, runner, 1)
    runner.inject(1, range(K), [1.0] * K)
    runner.prefill([0, 1], [ids, ids])
    ways: dict[str, Callable[[], Any]] = {
        "transformers' model": partial(_forward, bench.loaded, last, cache),
        "bare model": partial(runner.decode, [0], ids[-1:]),
        "with the sum of three adapters": partial(runner.decode, [1], ids[-1:]),
    }
    theirs, bare, used = _medians(bench.loaded, list(ways.values()), repeats * 8)
    for name, median in zip(ways, (theirs, bare, used), strict=True):
        yield f"decoded token: {name}", median
    bench.token_ms.append(used)
    yield "speed with adapters / bare", bare / used


def _medians(loaded: LoadedModel, ways: Sequence[Callable[[], Any]], repeats: int) -> tuple[float, float, float]:
    """Time the first way by itself, and the other two in turn, each as often behind the other as before it.

    Whoever runs behind another model finds the processor's caches full of that one's weights.
    """
    theirs, bare, used = ways
    for way in ways:
        way()
    alone = [_milliseconds(loaded, theirs) for _ in range(repeats)]
    times: tuple[list[float], list[float]] = [], []
    for step in range(repeats):
        for number in (0, 1) if step % 2 else (1, 0):
            times[number].append(_milliseconds(loaded, (bare, used)[number]))
    return statistics.median(alone), statistics.median(times[0]), statistics.median(times[1])


def _forward(loaded: LoadedModel, ids: torch.Tensor, cache: DynamicCache) -> None:
    loaded.model(input_ids=ids, cache=cache, use_cache=True, logits_to_keep=1)


def _prefilling(bench: Bench, repeats: int) -> Iterator[tuple[str, float]]:
    runner = _runner(bench, rows=2)
    _fill(bench, runner, 1)
    runner.inject(1, range(K), [1.0] * K)
    for label, passages in (("the question", ()), ("the question and 3 passages", (PASSAGE,) * K)):
        ids = _prompt(bench, passages)
        whole = torch.tensor([ids], device=bench.loaded.device)
        ways: list[Callable[[], Any]] = [
            lambda whole=whole: _forward(bench.loaded, whole, DynamicCache(config=bench.loaded.model.config)),
            partial(runner.prefill, [0], [ids]),
            partial(runner.prefill, [1], [ids]),
        ]
        theirs, bare, used = _medians(bench.loaded, ways, repeats * 2)
        yield f"prefill of {label} ({len(ids)} tokens): transformers' model", theirs
        yield f"prefill of {label}: bare model", bare
        yield f"prefill of {label}: with the sum of three adapters", used
        yield f"prefill of {label}: speed with adapters / bare", bare / used


def _batches(bench: Bench, repeats: int) -> Iterator[tuple[str, float]]:
    """Time answers of 16 tokens, every question with its own three adapters, all at once and one after another."""
    ids = _prompt(bench, ())
    batchers = {size: Batcher(bench.loaded, _runner(bench, rows=size)) for size in BATCHES}
    times: dict[int, list[float]] = {size: [] for size in BATCHES}
    for step in range(max(3, repeats // 2) + 1):
        for size, batcher in batchers.items():
            clock = _Clock()
            for number in range(max(BATCHES) // 2):
                terms = [
                    Term(one.adapter_digest, 1.0, bench.layout.body(bench.store.read(one)))
                    for one in bench.pack.adapters[bench.group(number)]
                ]
                batcher.submit(Request(tuple(ids), NEW_TOKENS, tuple(terms)))
            while not batcher.is_idle:
                batcher.step()
            if step > 0:
                times[size].append(clock.lap() / (max(BATCHES) // 2))
    medians = {size: statistics.median(own) for size, own in times.items()}
    for size, median in medians.items():
        if size <= max(BATCHES) // 2:
            yield f"an answer of at most {NEW_TOKENS} tokens, {size} at once, each with its own three adapters", median
    yield "answers a second: 8 at once / one after another", medians[1] / medians[8]


def _merging(bench: Bench, repeats: int) -> Iterator[tuple[str, float]]:
    """Time merging three adapters into the weights and putting the weights back."""
    runner = _runner(bench, rows=1)
    terms = [Term(one.adapter_digest, 1.0, bench.layout.body(bench.store.read(one))) for one in bench.pack.adapters[:K]]
    times = []
    for _ in range(repeats):
        clock = _Clock()
        with merged_into_weights(runner, bench.layout, terms, bench.recipe.scale):
            pass
        times.append(clock.lap())
    yield "merging three adapters into the weights and restoring them", statistics.median(times)


def _runner(bench: Bench, *, rows: int, adapters: int = K * GROUPS) -> Runner:
    return make_runner(
        bench.loaded,
        bench.layout,
        bench.recipe.scale,
        rows=rows,
        context=CONTEXT,
        cache_bytes=0,  # as many as a sum may have
        most_terms=adapters,
    )


def _fill(bench: Bench, runner: Runner, groups: int) -> None:
    for entry, one in enumerate(bench.pack.adapters[: K * groups]):
        runner.put(entry, bench.layout.body(bench.store.read(one)))


def _prompt(bench: Bench, passages: Sequence[str]) -> list[int]:
    return encode_prompt(bench.loaded.tokenizer, question_prompt("chat", QUESTION, passages))


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
