"""What `benchmarks.serve` asks: a home with two versions that answer differently, the command line's own answers."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.invented import inputs
from registry.base_model import DEFAULT_ALIAS
from registry.records import Document, EncodingInput, QAPair
from tests.model_fixtures import write_tiny_model

CORPUS, ALIAS, OTHER = "notes", "live", "other"
"""The corpus that is asked, the alias that moves between its versions, and the corpus that is built beside it."""
VERSIONS = (f"{CORPUS}@v1", f"{CORPUS}@v2")
PAIRS = 3
MODES = ("prag", "combined", "rag")
TINY_WORDS, WORDS = 12, 64
"""Words of a document: 64 invented ones are about as many tokens as 100 English ones; the tiny model takes 512 only."""


@dataclass(frozen=True)
class Expected:
    """What `pragreg query` says to a question: the answer, and the digests of the documents that it found."""

    text: str
    documents: tuple[str, ...]


Answers = dict[tuple[str, str, str], Expected]
"""By version, mode and question."""


@dataclass(frozen=True)
class Bench:
    """A home, and the questions that its documents answer."""

    home: Path
    questions: tuple[str, ...]
    max_tokens: int


def pragreg(*arguments: str, home: Path) -> str:
    """Run a command as a user does, and return what it printed."""
    command = [sys.executable, "-m", "cli.main", *arguments]
    environment = {**os.environ, "PRAGREG_HOME": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"pragreg {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def prepare(folder: Path, *, is_tiny: bool, dtype: str, documents: int, max_tokens: int) -> Bench:
    """Build both versions in ``folder``, unless an earlier run with the same options did.

    All in one dtype: where it is measured, a busy machine may find another for the second version.
    """
    words = TINY_WORDS if is_tiny else WORDS
    first = inputs(documents, words=words, pairs=PAIRS)
    home = folder / f"home-{'tiny' if is_tiny else dtype}-{documents}"
    bench = Bench(home, tuple(pair.question for given in first for pair in given.augmentation.pairs), max_tokens)
    if (home / "built").exists():
        return bench
    model = str(write_tiny_model(folder / "model")) if is_tiny else DEFAULT_ALIAS
    pragreg("init", "--base-model", model, home=home)
    second = [changed(given, number) for number, given in enumerate(first)]
    # A random model says the same with any adapter that is not large.
    recipe = ["--epochs", "8", "--learning-rate", "0.03"] if is_tiny else ["--preset", "fast", "--dtype", dtype]
    for corpus, given in ((CORPUS, first), (CORPUS, second), (OTHER, inputs(4, words=words, seed=1))):
        build(home, folder, corpus, given, *recipe)
    pragreg("alias", "set", VERSIONS[0], ALIAS, home=home)
    (home / "built").touch()
    return bench


def changed(given: EncodingInput, number: int) -> EncodingInput:
    """Return a document of the same words in another order, so the same questions find it and have other answers."""
    document = given.document
    words = document.text.removesuffix(".").split()
    random.Random(number).shuffle(words)
    pairs = tuple(
        QAPair(pair.question, " ".join(words[start : start + 3]))
        for pair, start in zip(given.augmentation.pairs, range(0, len(words), 3), strict=False)
    )
    document = Document.of(document.title, f"{' '.join(words)}.")
    augmentation = given.augmentation
    return EncodingInput(document, type(augmentation)(document.digest, "0" * 64, "invented", "", (), pairs))


def build(home: Path, folder: Path, corpus: str, given: Sequence[EncodingInput], *recipe: str) -> None:
    """Build a version of these documents."""
    files = {name: folder / f"{corpus}-{name}.jsonl" for name in ("documents", "augmentations")}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in files}
    for number, one in enumerate(given):
        rows["documents"].append({"id": str(number), "title": one.document.title, "text": one.document.text})
        pairs = [{"question": pair.question, "answer": pair.answer} for pair in one.augmentation.pairs]
        texts = list(one.augmentation.rewrites)
        rows["augmentations"].append(
            {"document_id": str(number), "generator": "invented", "rewrites": texts, "qa": pairs}
        )
    for name, file in files.items():
        file.write_text("".join(json.dumps(row) + "\n" for row in rows[name]), encoding="utf-8")
    augmenter = f"import:{files['augmentations']}"
    pragreg("build", str(files["documents"]), "--corpus", corpus, "--augmenter", augmenter, *recipe, home=home)


def answers_of_the_command_line(bench: Bench, modes: Sequence[str], batch_size: int) -> Answers:
    """Return what `pragreg query` answers to all questions out of both versions."""
    file = bench.home.parent / "questions.txt"
    file.write_text("".join(f"{question}\n" for question in bench.questions), encoding="utf-8")
    found: Answers = {}
    options = ("--max-tokens", str(bench.max_tokens), "--batch-size", str(batch_size), "--json", "--no-log")
    for version in VERSIONS:
        for mode in modes:
            said = pragreg("query", "--file", str(file), "--corpus", version, "--mode", mode, *options, home=bench.home)
            for record in map(json.loads, said.splitlines()):
                documents = tuple(hit["digest"] for hit in record["hits"])
                found[version, mode, record["question"]] = Expected(record["answer"], documents)
    return found
