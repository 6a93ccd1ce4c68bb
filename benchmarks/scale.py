"""Cost and memory from few to many documents: `python -m benchmarks.scale [--documents 100 1000 10000]`.

Builds invented corpora with imported question-answer pairs and a tiny random Llama, each through the command line and
into a registry home of its own; then builds the same again without a change, and once more into another home with a
SIGKILL when half of the adapters are in the catalog. The model is so small that everything around the training shows.
Encoding is counted from the first finished group to the last, the whole build with starting Python and loading.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import text

from benchmarks.machine import header
from registry.catalog import schema
from registry.catalog.engine import open_catalog
from registry.catalog.listing import summary
from registry.settings import Home, create_home

ROOT = Path(__file__).parents[1]
SAMPLE_SECONDS = 0.05
FINISHED = "SELECT created_at FROM adapters ORDER BY created_at"
PLACES = ["harbour", "mill", "ferry", "lantern", "orchard", "quarry", "bridge", "weir", "chapel", "market"]
NAMES = ["Ostrel", "Tarn", "Varn", "Quill", "Brom", "Sarn", "Ense", "Tamsin", "Marsh", "Bellhaven"]
THINGS = ["salt", "wool", "barley", "oil", "honey", "iron", "glass", "rope", "slate", "amber"]


@dataclass(frozen=True)
class Corpus:
    """Two JSON Lines files: ``documents`` and ``augmentations`` of them."""

    documents: Path
    augmentations: Path


@dataclass(frozen=True)
class Ran:
    """A command that ran: wall seconds, what it printed, the most memory of its own and of its workers together."""

    seconds: float
    record: dict[str, Any]
    parent_bytes: int
    workers_bytes: int


def write_corpus(folder: Path, count: int, seed: int) -> Corpus:
    """Write ``count`` documents of about 60 words with two pairs each; the sizes are alike for every count."""
    chance = random.Random(seed)
    folder.mkdir()
    corpus = Corpus(folder / "documents.jsonl", folder / "augmentations.jsonl")
    with corpus.documents.open("w") as documents, corpus.augmentations.open("w") as augmentations:
        for number in range(count):
            place, name = chance.choice(PLACES), f"{chance.choice(NAMES)} {number}"
            facts = [
                f"In {chance.randrange(1100, 1990)} it stored {chance.randrange(2, 999)} {chance.choice(THINGS)} loads."
                for _ in range(chance.randrange(5, 9))
            ]
            passage = f"The {place} of {name} was founded for {chance.choice(THINGS)}. {' '.join(facts)}"
            pairs = [
                {"question": f"What did the {place} of {name} store first?", "answer": facts[0].split()[-2]},
                {"question": f"Which year comes first for {name}?", "answer": facts[0].split()[1]},
            ]
            documents.write(json.dumps({"id": str(number), "title": f"{place} of {name}", "text": passage}) + "\n")
            augmentations.write(
                json.dumps({"document_id": str(number), "generator": "made", "rewrites": [], "qa": pairs}) + "\n"
            )
    return corpus


def write_model(folder: Path, corpus: Corpus) -> None:
    """Write a random Llama of two blocks (hidden 32, feed-forward 64) and a tokenizer made from the corpus."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.documents.read_text().splitlines(), trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>", model_max_length=1024
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer.get_vocab()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        eos_token_id=1,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def new_home(folder: Path) -> Home:
    home = create_home(folder)
    schema.upgrade(home.catalog_url)
    return home


def start(home: Home, corpus: Corpus, model: Path, more: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cli.main", "build", str(corpus.documents), "--home", str(home.path), "--json"]
    command += ["--augmenter", f"import:{corpus.augmentations}", "--base-model", str(model), "--dtype", "float32"]
    command += ["--device", "cpu", "--preset", "paper", "--epochs", "2", *more]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def run(home: Home, corpus: Corpus, model: Path, more: list[str]) -> Ran:
    """Build, watching the memory of the process and its children."""
    started = time.perf_counter()
    process = start(home, corpus, model, more)
    peaks = [0, 0]
    watcher = threading.Thread(target=_watch, args=(psutil.Process(process.pid), peaks))
    watcher.start()
    said, _ = process.communicate()
    seconds = time.perf_counter() - started
    watcher.join()
    if process.returncode != 0:
        raise SystemExit(f"the build failed with status {process.returncode}")
    return Ran(seconds, json.loads(said), *peaks)


def _watch(process: psutil.Process, peaks: list[int]) -> None:
    try:
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            peaks[0] = max(peaks[0], process.memory_info().rss)
            workers = 0
            for child in process.children():
                try:
                    workers += child.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            peaks[1] = max(peaks[1], workers)
            time.sleep(SAMPLE_SECONDS)
    except psutil.NoSuchProcess:
        return


def kill_at_half(home: Home, corpus: Corpus, model: Path, count: int, more: list[str]) -> None:
    """Build until half of the adapters are in the catalog, then kill it."""
    process = start(home, corpus, model, more)
    with open_catalog(home.catalog_url) as catalog:
        while process.poll() is None:
            with catalog.read() as session:
                if summary(session).adapters >= count / 2:
                    break
            time.sleep(SAMPLE_SECONDS)
    process.send_signal(signal.SIGKILL)
    process.wait()


def steady_seconds(home: Home) -> float:
    """Return the seconds a document from the first finished group to the last, without the start of the workers."""
    with open_catalog(home.catalog_url) as catalog, catalog.read() as session:
        moments = [datetime.fromisoformat(str(moment)) for (moment,) in session.execute(text(FINISHED))]
    later = sum(moment > moments[0] for moment in moments)
    return (moments[-1] - moments[0]).total_seconds() / later


def measure(count: int, model: Path | None, more: list[str], *, interrupt: bool) -> tuple[str, float]:
    """Return the line of the table for ``count`` documents, and the encoding's seconds a document."""
    with tempfile.TemporaryDirectory(prefix="pragreg-scale-") as name:
        folder = Path(name)
        corpus = write_corpus(folder / "corpus", count, seed=0)
        if model is None:
            model = folder / "model"
            write_model(model, write_corpus(folder / "sample", 500, seed=1))
        first = new_home(folder / "first")
        built, again = run(first, corpus, model, more), run(first, corpus, model, more)
        if again.record["trained"]:
            raise SystemExit("the second build trained something")
        resumed = "-"
        if interrupt:
            second = new_home(folder / "second")
            kill_at_half(second, corpus, model, count, more)
            rest = run(second, corpus, model, more)
            if rest.record["digest"] != built.record["digest"]:
                raise SystemExit("the interrupted build ended with another digest")
            encoding = rest.record["encode_wall_seconds"]
            resumed = f"{rest.seconds - encoding:.1f} + {encoding:.1f} for {rest.record['trained']:,}"
        encode_seconds = steady_seconds(first)
        cells = [
            f"{count:,}",
            f"{1e3 * encode_seconds:.2f}",
            f"{1e3 * built.seconds / count:.2f}",
            f"{built.parent_bytes / 1e6:.0f}",
            f"{built.workers_bytes / 1e6:.0f}",
            f"{again.seconds:.1f}",
            resumed,
        ]
        return f"| {' | '.join(cells)} |", encode_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[100, 1_000, 10_000], metavar="N")
    parser.add_argument("--repeat", type=int, default=1, help="builds of each size; the median of encoding counts")
    parser.add_argument("--model", type=Path, help="a model's folder (default: a tiny random Llama)")
    parser.add_argument("--no-interrupt", action="store_true", help="leave out the build that is killed")
    parser.add_argument("build", nargs="*", help="options for the builds, after --, such as -- --workers 1")
    arguments = parser.parse_args()
    print(header(), "\n", sep="")
    print("| documents | ms a document, encoding | whole build | parent MB | workers MB | no change s |", end="")
    print(" resumed s: all but training + training |")
    print("|---|---|---|---|---|---|---|", flush=True)
    seconds = []
    for count in arguments.documents:
        rounds = []
        for number in range(arguments.repeat):
            line, encoding = measure(
                count, arguments.model, arguments.build, interrupt=number == 0 and not arguments.no_interrupt
            )
            print(line, flush=True)
            rounds.append(encoding)
        seconds.append(statistics.median(rounds))
    print(f"\nlast beside first, encoding a document: {seconds[-1] / seconds[0]:.3f}")


if __name__ == "__main__":
    main()
