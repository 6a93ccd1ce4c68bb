"""Encoding: documents a second, against the reference's way of training the same examples with PEFT.

    python -m benchmarks.encode --documents D.jsonl --augmentations A.jsonl [--count 32] [--repeat 5] [--preset paper]
    python -m benchmarks.encode --shape llama-3.2-1b --device cuda [--count 128]
    python -m benchmarks.encode --on-paper

The first needs the default model and encodes with a process per core, as a build does. The second needs no weights:
a random model in a published shape and invented passages of 100 words; on a GPU it measures the dense rate there.

The reference (github oneal2000/PRAG) trains one document at a time with PEFT, batch 1, in fp32, pads every example to
3000 tokens, and loads, saves and unloads an adapter a document. "unpadded" is the same without the padding; of the
padded way one example is timed in each round and multiplied, because a document takes minutes.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import invented
from benchmarks.machine import header
from registry.augmentation.cleaning import clean_line
from registry.base_model import LoadedModel, choose_dtype, linear_shapes, load, locate
from registry.base_model.rate import measured_rate
from registry.encoding.examples import Example, build_examples
from registry.encoding.pool import Work, default_workers, encode_groups
from registry.encoding.train import encode_group
from registry.recipe import Recipe, override, preset
from registry.records import Augmentation, Document, EncodingInput, QAPair
from registry.store.layout import AdapterLayout

ROOT = Path(__file__).parents[1]
PADDED_TOKENS = 3000
DENSE_SIZE = 8192
PASSAGES = 21_000_000
"""Wikipedia passages of 100 words (arXiv 2004.04906), the paper's corpus."""
PASSAGE_TOKENS = 951
"""Trained tokens of one with the paper preset."""


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


def reference_seconds(loaded: LoadedModel, recipe: Recipe, examples: list[Example], padded: int | None) -> float:
    """Train one adapter as the reference does, one example after the other; return the seconds."""
    from peft import LoraConfig, get_peft_model

    _wait(loaded.device)
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
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        model(**{name: values.to(loaded.device) for name, values in batch.items()}).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
    model.unload()
    gc.collect()
    _wait(loaded.device)
    return time.perf_counter() - started


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def dense_rate(device: str) -> float:
    """Return GFLOP/s of a large square product in bfloat16."""
    left, right = (torch.randn(DENSE_SIZE, DENSE_SIZE, dtype=torch.bfloat16, device=device) for _ in range(2))
    times = []
    for _ in range(20):
        _wait(device)
        started = time.perf_counter()
        left @ right
        _wait(device)
        times.append(time.perf_counter() - started)
    return 2 * DENSE_SIZE**3 / statistics.median(times) / 1e9


@dataclass
class Rounds:
    """Seconds a document of every round; ``rates`` are GFLOP/s."""

    own: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    unpadded: list[float] = field(default_factory=list)
    padded: list[float] = field(default_factory=list)

    def table(self, tokens: float, parameters: int) -> str:
        """Return a row for every way; GFLOP = 4 x parameters x tokens."""
        ways = [("pragreg", self.own), ("reference, unpadded", self.unpadded)]
        ways += [(f"reference, padded to {PADDED_TOKENS}", self.padded)]
        rate, base = statistics.median(self.rates), statistics.median(self.own)
        lines = ["| | s a document | lowest to highest | documents/s | tokens/s | GFLOP/s | of the rate | ratio |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for name, times in ways:
            if times:
                seconds = statistics.median(times)
                flops = 4 * parameters * tokens / seconds / 1e9
                lines.append(
                    f"| {name} | {seconds:.3g} | {min(times):.3g} to {max(times):.3g} | {1 / seconds:.3g} "
                    f"| {tokens / seconds:.0f} | {flops:.0f} | {flops / rate:.0%} | {seconds / base:.1f} |"
                )
        return "\n".join(lines)


def product_shapes(model: Any) -> list[tuple[int, int, int]]:
    """Return (out, in, how many) of the model's matrices: those of its blocks, and the head."""
    head = model.get_output_embeddings().weight
    counted = Counter(
        tuple(module.weight.shape) for module in model.get_decoder().modules() if isinstance(module, torch.nn.Linear)
    )
    return [(out, inner, count) for (out, inner), count in counted.items()] + [(*head.shape, 1)]


def processor(arguments: argparse.Namespace) -> None:
    """Encode with a process per core."""
    files = locate(arguments.model, models_path=arguments.models)
    loaded = load(files, device="cpu", dtype="float32")
    chosen = choose_dtype(arguments.dtype, "cpu")
    recipe = _recipe(arguments, chosen)
    inputs = read_inputs(arguments.documents, arguments.augmentations, arguments.count)
    examples = [build_examples(loaded.tokenizer, recipe, given) for given in inputs]
    tokens = recipe.epochs * sum(len(example.ids) for own in examples for example in own) / len(inputs)
    layout = AdapterLayout.of(
        linear_shapes(loaded.model, recipe.targets, recipe.first_layer), recipe.rank, recipe.adapter_dtype
    )
    workers, size = default_workers("cpu"), arguments.group_size
    groups = [inputs[start : start + size] for start in range(0, len(inputs), size)]
    rounds = Rounds()
    for number in range(arguments.repeat):
        rounds.own.append(_encoded(Work(files, recipe, layout, "cpu"), groups, workers, len(inputs)))
        rounds.rates.append(measured_rate(product_shapes(loaded.model), chosen, "cpu", workers, 4.0))
        _reference(rounds, loaded, recipe, examples, number, is_padded=not arguments.no_padded)
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    print(header("numba"))
    print(
        f"\n{arguments.model}, preset {arguments.preset}, {chosen}, {len(inputs)} documents of {tokens:.0f} trained "
        f"tokens, groups of {size}, {workers} workers; medians of {arguments.repeat}.\n"
    )
    print(rounds.table(tokens, parameters))
    print(
        f"\nThe rate is {statistics.median(rounds.rates):.0f} GFLOP/s: the model's own matrices in {chosen}, as many "
        "processes at once as there are cores."
    )


def _encoded(work: Work, groups: list[list[EncodingInput]], workers: int, count: int) -> float:
    """Return seconds a document of the whole machine, without the start of the workers."""
    warm = encode_groups(work, [groups[0]] * workers + groups, workers)
    started = time.perf_counter()
    for done, _ in enumerate(warm, 1):
        if done == workers:
            started = time.perf_counter()
    return (time.perf_counter() - started) / count


def _reference(
    rounds: Rounds, loaded: LoadedModel, recipe: Recipe, examples: list[list[Example]], number: int, *, is_padded: bool
) -> None:
    own = examples[number % len(examples)]
    rounds.unpadded.append(reference_seconds(loaded, recipe, own * recipe.epochs, None))
    if is_padded:
        steps = recipe.epochs * len(own)
        rounds.padded.append(reference_seconds(loaded, recipe, own[:1], PADDED_TOKENS) * steps)


def shaped(arguments: argparse.Namespace) -> None:
    """Encode invented passages with a random model, in this process."""
    device, size = arguments.device, arguments.group_size
    dtype = "bfloat16" if arguments.dtype == "auto" else arguments.dtype
    recipe = _recipe(arguments, dtype)
    loaded = invented.random_model(arguments.shape, dtype, device)
    shapes = linear_shapes(loaded.model, recipe.targets, recipe.first_layer)
    layout = AdapterLayout.of(shapes, recipe.rank, recipe.adapter_dtype)
    inputs = invented.inputs(arguments.count)
    examples = [build_examples(loaded.tokenizer, recipe, given) for given in inputs]
    tokens = recipe.epochs * sum(len(example.ids) for own in examples for example in own) / len(inputs)
    encode_group(loaded, recipe, layout, inputs[:size])  # compiles what is compiled
    rounds = Rounds()
    for number in range(arguments.repeat):
        _wait(device)
        started = time.perf_counter()
        for start in range(0, len(inputs), size):
            encode_group(loaded, recipe, layout, inputs[start : start + size])
        _wait(device)
        rounds.own.append((time.perf_counter() - started) / len(inputs))
        is_gpu = device.startswith("cuda")
        rounds.rates.append(dense_rate(device) if is_gpu else measured_rate(product_shapes(loaded.model), dtype))
        _reference(rounds, loaded, recipe, examples, number, is_padded=not arguments.no_padded)
    parameters = loaded.base_model.parameters
    if not loaded.model.config.tie_word_embeddings:
        parameters -= loaded.model.get_input_embeddings().weight.numel()  # looked up, not multiplied
    print(header("numba"))
    if device.startswith("cuda"):
        print(f"- {torch.cuda.get_device_name()}, {torch.cuda.max_memory_allocated() / 2**30:.0f} GiB used at most")
    print(
        f"\n{arguments.shape}, random weights, preset {arguments.preset}, {dtype}, {len(inputs)} passages of 100 words "
        f"({tokens:.0f} trained tokens), groups of {size}; medians of {arguments.repeat}. The reference in {dtype}.\n"
    )
    print(rounds.table(tokens, parameters))
    what = f"a product of {DENSE_SIZE}^3 in bfloat16" if device.startswith("cuda") else "the model's own matrices"
    print(f"\nThe rate is {statistics.median(rounds.rates):.0f} GFLOP/s: {what}.")


def on_paper(arguments: argparse.Namespace) -> None:
    """Print GPU-hours and dollars for Wikipedia from a rate and the share of it that is reached."""
    print("| model | TFLOP a passage | passages/s a GPU | GPU-hours for 21 million | dollars |\n|---|---|---|---|---|")
    for name, parameters in (("Llama-3.2-1B", 1.236e9), ("Llama-3-8B", 7.504e9)):
        flops = 4 * parameters * PASSAGE_TOKENS
        a_second = arguments.tflops * 1e12 * arguments.share / flops
        hours = PASSAGES / a_second / 3600
        print(f"| {name} | {flops / 1e12:.1f} | {a_second:.0f} | {hours:.0f} | {hours * arguments.price:.0f} |")
    print(
        f"\n{arguments.tflops:.0f} TFLOP/s, {arguments.share:.0%} of it reached, {arguments.price:.2f} dollars an hour."
    )


def _recipe(arguments: argparse.Namespace, dtype: str) -> Recipe:
    settings = {name: json.loads(value) for name, _, value in (item.partition("=") for item in arguments.set)}
    return override(replace(preset(arguments.preset), dtype=dtype), settings, origin="--set")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--models", type=Path, default=ROOT / ".demo" / "models", help="cache of converted models")
    parser.add_argument("--documents", type=Path, help="JSON Lines with id, title, text")
    parser.add_argument("--augmentations", type=Path, help="JSON Lines with document_id, rewrites, qa")
    parser.add_argument("--shape", choices=invented.SHAPES, help="a random model of this shape, and invented text")
    parser.add_argument("--device", default="cpu", help="with --shape")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--group-size", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a recipe setting, as JSON")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--no-padded", action="store_true", help="leave out the reference's padded way")
    parser.add_argument("--on-paper", action="store_true", help="only GPU-hours and dollars for Wikipedia")
    parser.add_argument("--tflops", type=float, default=790.0, help="with --on-paper: a GPU's dense bf16 rate")
    parser.add_argument("--share", type=float, default=0.45, help="with --on-paper: the share of it that is reached")
    parser.add_argument("--price", type=float, default=3.5, help="with --on-paper: dollars a GPU-hour")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.on_paper:
        on_paper(arguments)
    elif arguments.shape:
        shaped(arguments)
    elif arguments.documents and arguments.augmentations:
        processor(arguments)
    else:
        parser.error("name --documents and --augmentations, or --shape, or --on-paper")


if __name__ == "__main__":
    main()
