"""Augmentation by the base model: tokens a second against the limit of decoding, and beside transformers' `generate`.

    python -m benchmarks.augment --documents squad100.documents.jsonl --workers 1 --threads 2

Documents (JSON Lines with title and text) are shared out to worker processes, each with its own model and threads. A
step of decoding must read all weights and the keys and values of every row, and multiply by all weights: its limit is
the slower of the two, by the read bandwidth and the rate of the model's own products at that number of rows, measured
in all workers at once in the same run. The peers complete the rewriting prompts of the first documents, and so does
pragreg beside them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import header
from registry.augmentation import AugmentationSettings, self_augmenter
from registry.augmentation.completion import Completer, Row
from registry.augmentation.generated import BATCH_ROWS, TEMPERATURE
from registry.augmentation.prompts import rewrite_prompt
from registry.augmentation.running import RunningRows
from registry.augmentation.sampling import TOP_SHARE, TOP_TOKENS
from registry.base_model import DEFAULT_ALIAS, LoadedModel, encode_prompt, load, locate
from registry.layout import Prompt
from registry.records import Document, StagedDocument
from registry.settings import DEFAULT_HOME, MODELS_VARIABLE

READ_BYTES = 1 << 29
GENERATE_ROWS = 16


@dataclass
class Decoding:
    """The steps of decoding of one worker or of all: what they gave, took and had to read."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    held_bytes: int = 0

    @property
    def rows(self) -> int:
        return max(1, round(self.tokens / max(1, self.steps)))


@dataclass(frozen=True)
class Done:
    """What one worker wrote."""

    tokens: int
    pairs: int
    rewrites: int
    decoding: Decoding


@dataclass(frozen=True)
class Limit:
    """Tokens a second that decoding could reach in one worker while all of them measured."""

    by_reading: float
    by_products: float

    @property
    def tokens(self) -> float:
        return min(self.by_reading, self.by_products)


class TimedRows(RunningRows):
    """Rows whose steps are timed into ``decoding``."""

    decoding = Decoding()

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        own, held, started = type(self).decoding, self.held_bytes, time.perf_counter()
        logits = super().step(tokens)
        own.seconds += time.perf_counter() - started
        own.steps, own.tokens, own.held_bytes = own.steps + 1, own.tokens + len(tokens), own.held_bytes + held
        return logits


_worker: tuple[LoadedModel, argparse.Namespace] | None = None


def _start(options: argparse.Namespace, threads: int) -> None:
    global _worker
    torch.set_num_threads(threads)
    files = locate(options.model, models_path=options.models)
    _worker = load(files, device=options.device, dtype=options.dtype), options


def _ready() -> tuple[LoadedModel, argparse.Namespace]:
    assert _worker is not None
    return _worker


def _augment(documents: list[StagedDocument]) -> Done:
    import registry.augmentation.running as module

    loaded, options = _ready()
    TimedRows.decoding = Decoding()
    module.RunningRows = TimedRows  # type: ignore[misc]
    settings = AugmentationSettings(rewrites=options.rewrites, pairs=options.pairs)
    found = list(self_augmenter(loaded, settings, batch_rows=options.rows).augment(documents))
    return Done(
        sum(one.tokens for one in found),
        sum(len(one.pairs) for one in found),
        sum(len(one.rewrites) for one in found),
        TimedRows.decoding,
    )


def _limit(decoding: Decoding) -> Limit:
    """Measure what limits steps like those of ``decoding``."""
    loaded, _ = _ready()
    block = torch.ones(READ_BYTES // 4, device=loaded.device)
    reading = READ_BYTES / statistics.median(_seconds(loaded, block.sum) for _ in range(5))
    weights = [one.weight for one in loaded.model.modules() if isinstance(one, torch.nn.Linear)]
    dtype = weights[0].dtype
    given = {size: torch.randn(decoding.rows, size).to(loaded.device, dtype) for size in {w.shape[1] for w in weights}}

    def multiply() -> None:
        for weight in weights:
            torch.nn.functional.linear(given[weight.shape[1]], weight)

    with torch.inference_mode():
        multiply()
        step = statistics.median(_seconds(loaded, multiply) for _ in range(5))
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    step_bytes = size + decoding.held_bytes / max(1, decoding.steps)
    return Limit(decoding.rows * reading / step_bytes, decoding.rows / step)


def _seconds(loaded: LoadedModel, run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    if loaded.device.startswith("cuda"):
        torch.cuda.synchronize(loaded.device)
    return time.perf_counter() - started


def _rows(loaded: LoadedModel, documents: Sequence[StagedDocument], new_tokens: int) -> list[Row]:
    prompts = [encode_prompt(loaded.tokenizer, Prompt(rewrite_prompt(one.document), "")) for one in documents]
    return [Row(tuple(ids), new_tokens, temperature=TEMPERATURE, seed=seed) for seed, ids in enumerate(prompts)]


def _complete(documents: list[StagedDocument]) -> int:
    loaded, options = _ready()
    found = Completer(loaded, options.rows).complete(_rows(loaded, documents, options.new_tokens))
    return sum(one.tokens for one in found)


def _generate(documents: list[StagedDocument], at_once: int) -> int:
    """Return how many tokens transformers' ``generate`` wrote for padded batches of prompts, padding left out."""
    loaded, options = _ready()
    tokens = 0
    prompts = sorted((row.ids for row in _rows(loaded, documents, options.new_tokens)), key=len)
    pad = loaded.tokenizer.pad_token_id
    ends = {pad, loaded.tokenizer.eos_token_id, *_listed(loaded.model.generation_config.eos_token_id)}
    for start in range(0, len(prompts), at_once):
        part = prompts[start : start + at_once]
        longest = max(map(len, part))
        ids = torch.tensor([[pad] * (longest - len(one)) + list(one) for one in part], device=loaded.device)
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in part], device=loaded.device)
        sampling = {"temperature": TEMPERATURE, "top_p": TOP_SHARE, "top_k": TOP_TOKENS}
        written = loaded.model.generate(
            ids, attention_mask=mask, max_new_tokens=options.new_tokens, do_sample=True, pad_token_id=pad, **sampling
        )
        for row in written[:, longest:].tolist():
            tokens += next((place for place, token in enumerate(row) if token in ends), len(row))
    return tokens


def _listed(value: int | list[int] | None) -> list[int]:
    return value if isinstance(value, list) else [] if value is None else [value]


def main() -> None:
    options = _options()
    lines = options.documents.read_text(encoding="utf-8").splitlines()[: options.count]
    documents = [StagedDocument(Document.of(one.get("title", ""), one["text"])) for one in map(json.loads, lines)]
    print(header())
    print(f"- {options.model}, {options.workers} workers with {options.threads} threads each, {options.rows} rows")
    context, everything = multiprocessing.get_context("spawn"), options.workers * options.threads
    figures: dict[str, list[tuple[int, int, float]]] = {}
    whole: list[tuple[list[Done], float]] = []
    limits: list[list[Limit]] = []
    with (
        context.Pool(options.workers, _start, (options, options.threads)) as workers,
        context.Pool(1, _start, (options, everything)) as one,
    ):
        workers.map(_complete, [[]] * options.workers, chunksize=1)  # the models are loaded
        one.apply(_complete, ([],))
        for _ in range(options.repeat):
            shares = [documents[number :: options.workers] for number in range(options.workers)]
            started = time.perf_counter()
            done = workers.map(_augment, shares, chunksize=1)
            whole.append((done, time.perf_counter() - started))
            limits.append(workers.map(_limit, [own.decoding for own in done], chunksize=1))
            _compare(one, documents, options, figures)
    _table(options, whole, limits, figures)


def _compare(
    one: Pool, documents: list[StagedDocument], options: argparse.Namespace, figures: dict[str, list[Any]]
) -> None:
    """Time pragreg and its peers on the same prompts, in one process; the slowest peer gets fewer."""
    few, fewest = documents[: options.prompts], documents[: options.alone]
    runs: list[tuple[str, list[StagedDocument], Callable[..., int], tuple[int, ...]]] = [
        ("pragreg", few, _complete, ()),
        (f"generate, {GENERATE_ROWS} padded", few, _generate, (GENERATE_ROWS,)),
        ("generate, one at a time", fewest, _generate, (1,)),
    ]
    for label, own, function, more in runs:
        if own:
            started = time.perf_counter()
            tokens = one.apply(function, (own, *more))
            figures.setdefault(label, []).append((len(own), tokens, time.perf_counter() - started))


def _table(
    options: argparse.Namespace,
    whole: list[tuple[list[Done], float]],
    limits: list[list[Limit]],
    figures: dict[str, list[tuple[int, int, float]]],
) -> None:
    rates, decoding, bound, kinds = [], [], [], []
    for (done, seconds), own in zip(whole, limits, strict=True):
        rates.append(sum(one.tokens for one in done) / seconds)
        decoding.append(sum(one.decoding.tokens / max(1e-9, one.decoding.seconds) for one in done))
        bound.append(sum(one.tokens for one in own))
        kinds.append((sum(one.by_reading for one in own), sum(one.by_products for one in own)))
    done, _ = whole[0]
    middle, limit = statistics.median(decoding), statistics.median(bound)
    rows = statistics.median(one.decoding.rows for each, _ in whole for one in each)
    reading, products = (statistics.median(column) for column in zip(*kinds, strict=True))
    kept = f"{sum(one.pairs for one in done)} pairs and {sum(one.rewrites for one in done)} rewrites kept"
    print(f"- medians of {options.repeat}; {options.rewrites} rewrites and {options.pairs} pairs asked for, {kept}")
    print(f"- {rows:.0f} rows a step; limit by reading {reading:.0f} tokens/s, by products {products:.0f} tokens/s\n")
    print("| | documents | tokens | tokens/s | decoding alone | limit | share |\n|---|---:|---:|---:|---:|---:|---:|")
    tokens = sum(one.tokens for one in done)
    print(
        f"| augmentation | {options.count} | {tokens} | {statistics.median(rates):.0f} | {middle:.0f} | {limit:.0f} "
        f"| {middle / limit:.0%} |"
    )
    for label, runs in figures.items():
        rate = statistics.median(tokens / seconds for _, tokens, seconds in runs)
        print(f"| rewriting prompts: {label} | {runs[0][0]} | {runs[0][1]} | {rate:.0f} | | | |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, required=True, help="JSON Lines with title and text")
    parser.add_argument("--model", default=DEFAULT_ALIAS)
    parser.add_argument("--models", type=Path, default=Path(os.environ.get(MODELS_VARIABLE, f"{DEFAULT_HOME}/models")))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of each worker; the peers get workers x threads")
    parser.add_argument("--rows", type=int, default=BATCH_ROWS, help="of a worker's batch")
    parser.add_argument("--count", type=int, default=100, help="documents")
    parser.add_argument("--rewrites", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=32, help="given to the peers, and to pragreg beside them")
    parser.add_argument("--alone", type=int, default=2, help="given one at a time; 0 leaves it out")
    parser.add_argument("--new-tokens", type=int, default=128, help="at most, for each of these prompts")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    options.count = min(options.count, len(options.documents.read_text(encoding="utf-8").splitlines()))
    return options


if __name__ == "__main__":
    main()
