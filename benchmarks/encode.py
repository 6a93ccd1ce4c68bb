"""Encoding: documents a second, against the reference's way of training the same examples with PEFT.

    python -m benchmarks.encode [--documents 8] [--repeat 5] [--preset paper] [--model smollm2-135m]

The reference (github oneal2000/PRAG) trains one document at a time with PEFT, batch 1, in fp32, pads every example to
3000 tokens, and loads, saves and unloads an adapter a document. "unpadded" is the same without the padding; of the
padded way one example is timed in each round and multiplied, because a document takes minutes.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import header
from registry.augmentation.cleaning import clean_line
from registry.base_model import LoadedModel, linear_shapes, load, locate
from registry.encoding.examples import Example, build_examples
from registry.encoding.pool import Work, default_group_size, default_workers, encode_groups
from registry.recipe import Recipe, override, preset
from registry.records import Augmentation, Document, EncodingInput, QAPair
from registry.store.layout import AdapterLayout

ROOT = Path(__file__).parents[1]
PADDED_TOKENS = 3000
RATE_SECONDS = 1.0
RATE_TOKENS = 512


def read_inputs(documents: Path, augmentations: Path, count: int) -> list[EncodingInput]:
    """Return the first ``count`` documents (JSON Lines with id, title, text) with their augmentations, as they are."""
    records = [json.loads(line) for line in documents.read_text(encoding="utf-8").splitlines()]
    by_id = {}
    for line in augmentations.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        by_id[record.get("document_id")] = record
    inputs = []
    for record in records[:count]:
        document, own = Document.of(record["title"], record["text"]), by_id[record["id"]]
        pairs = tuple(QAPair(pair["question"], clean_line(pair["answer"])) for pair in own["qa"])
        augmentation = Augmentation(document.digest, "0" * 64, "import", "", tuple(own["rewrites"]), pairs)
        inputs.append(EncodingInput(document, augmentation))
    return inputs


def peft_step(loaded: LoadedModel, recipe: Recipe, examples: list[Example], padded: int | None) -> float:
    """Train one adapter as the reference does, one example after the other; return the seconds."""
    from peft import LoraConfig, get_peft_model

    started = time.perf_counter()
    config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=list(recipe.targets), lora_dropout=0.0)
    model: Any = get_peft_model(loaded.model, config)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=recipe.learning_rate)
    for example in examples:
        length = padded or len(example.ids)
        ids, labels = torch.zeros(1, length, dtype=torch.int64), torch.full((1, length), -100)
        mask = torch.zeros(1, length, dtype=torch.int64)
        ids[0, : len(example.ids)] = torch.tensor(example.ids)
        labels[0, example.loss_start : len(example.ids)] = ids[0, example.loss_start : len(example.ids)]
        mask[0, : len(example.ids)] = 1
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
    model.unload()
    gc.collect()
    return time.perf_counter() - started


def _rate(arguments: tuple[list[tuple[int, int]], str]) -> float:
    """Return GFLOP/s of the model's own matrix products on one thread."""
    shapes, dtype = arguments
    torch.set_num_threads(1)
    kind = getattr(torch, dtype)
    products = [
        (torch.randn(RATE_TOKENS, inputs, dtype=kind), torch.randn(out, inputs, dtype=kind)) for out, inputs in shapes
    ]
    flops, started = 0, time.perf_counter()
    while time.perf_counter() - started < RATE_SECONDS:
        for x, weight in products:
            torch.nn.functional.linear(x, weight)
            flops += 2 * x.shape[0] * weight.numel()
    return flops / (time.perf_counter() - started) / 1e9


def matmul_rate(shapes: list[tuple[int, int]], dtype: str, workers: int) -> float:
    """Return the summed GFLOP/s of ``workers`` single-threaded processes at once."""
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return sum(pool.map(_rate, [(shapes, dtype)] * workers))


def timed(function: Callable[[], float], repeat: int) -> float:
    """Return the median of ``repeat`` measurements."""
    return statistics.median(function() for _ in range(repeat))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--models", type=Path, default=ROOT / ".demo" / "models", help="cache of converted models")
    parser.add_argument("--documents", type=Path, required=True, help="JSON Lines with id, title, text")
    parser.add_argument("--augmentations", type=Path, required=True, help="JSON Lines with document_id, rewrites, qa")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a recipe setting, as JSON")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--no-padded", action="store_true", help="leave out the reference's padded way")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    settings = {name: json.loads(value) for name, _, value in (item.partition("=") for item in arguments.set)}
    files = locate(arguments.model, models_path=arguments.models)
    loaded = load(files, device="cpu", dtype="float32")
    chosen = load(files, device="cpu", dtype=arguments.dtype).dtype
    recipe = override(replace(preset(arguments.preset), dtype=chosen), settings, origin="--set")
    inputs = read_inputs(arguments.documents, arguments.augmentations, arguments.count)
    examples = [build_examples(loaded.tokenizer, recipe, given) for given in inputs]
    tokens = recipe.epochs * sum(len(example.ids) for own in examples for example in own) / len(inputs)
    shapes = linear_shapes(loaded.model, recipe.targets, recipe.first_layer)
    layout = AdapterLayout.of(shapes, recipe.rank, recipe.adapter_dtype)
    workers = default_workers("cpu")
    size = default_group_size("cpu")
    groups = [inputs[start : start + size] for start in range(0, len(inputs), size)]
    own_seconds, rates, unpadded, padded = [], [], [], []
    for number in range(arguments.repeat):
        own_seconds.append(_own(Work(files, recipe, layout, "cpu"), groups, workers, len(inputs)))
        rates.append(matmul_rate([*shapes.values()][:3], chosen, workers))
        document = number % len(inputs)
        unpadded.append(peft_step(loaded, recipe, examples[document] * recipe.epochs, None))
        if not arguments.no_padded:
            steps = recipe.epochs * len(examples[document])
            padded.append(peft_step(loaded, recipe, examples[document][:1], PADDED_TOKENS) * steps)
    parameters = sum(p.numel() for p in loaded.model.parameters())
    print(header())
    print(f"{arguments.model}, preset {arguments.preset}, {chosen}, {len(inputs)} documents of {tokens:.0f} trained")
    print(f"tokens, groups of {size}, {workers} workers; medians of {arguments.repeat}\n")
    _table(own_seconds, rates, unpadded, padded, tokens, parameters)


def _own(work: Work, groups: list[list[EncodingInput]], workers: int, count: int) -> float:
    """Return seconds a document of the whole machine, without the start of the workers."""
    warm = encode_groups(work, [groups[0][:1]] * workers + groups, workers)
    started = time.perf_counter()
    for done, _ in enumerate(warm, 1):
        if done == workers:
            started = time.perf_counter()
    return (time.perf_counter() - started) / count


def _table(
    own: list[float], rates: list[float], unpadded: list[float], padded: list[float], tokens: float, parameters: int
) -> None:
    rows = [("pragreg", statistics.median(own)), ("reference, unpadded", statistics.median(unpadded))]
    if padded:
        rows.append((f"reference, padded to {PADDED_TOKENS}", statistics.median(padded)))
    rate = statistics.median(rates)
    print(f"{'':<28}{'s/document':>12}{'documents/s':>13}{'tokens/s':>10}{'GFLOP/s':>9}{'of peak':>9}{'ratio':>8}")
    for name, seconds in rows:
        flops = 4 * parameters * tokens / seconds / 1e9
        print(
            f"{name:<28}{seconds:>12.2f}{1 / seconds:>13.4f}{tokens / seconds:>10.0f}{flops:>9.1f}"
            f"{flops / rate:>9.0%}{seconds / rows[0][1]:>8.1f}"
        )
    print(
        f"\npeak: {rate:.0f} GFLOP/s, the model's feed-forward products on all cores; GFLOP = 4 x parameters x tokens"
    )


if __name__ == "__main__":
    main()
