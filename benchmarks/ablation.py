"""What every part of a recipe is worth: one row, one build and one evaluation.

    python -m benchmarks.ablation default only-qa --documents D.jsonl --questions Q.jsonl --augmenter import:A.jsonl
    python -m benchmarks.ablation --list

Each named row is the default preset with some settings changed (``--set`` changes all rows). Documents are encoded,
and the questions answered in `prag` from their own document alone and from the best hits, by the same code as
`pragreg build` and `pragreg evaluate`; both go on where they were when they are stopped. ``--every 2`` takes every
second document, with the questions about these, in half the time. Prints a Markdown table with 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import header
from cli.options import parse_setting
from cli.progress import progress_bars
from registry.catalog import schema
from registry.evaluation.intervals import Estimate
from registry.evaluation.results import Evaluation
from registry.merging.methods import DEFAULT_MERGE
from registry.pipeline.build import BuildRequest, BuildSummary, build
from registry.pipeline.evaluate import EvaluationRequest, evaluate
from registry.pipeline.query import Asking
from registry.pipeline.recipes import RecipeRequest
from registry.settings import Home, create_home

ROWS: dict[str, Mapping[str, Any]] = {
    "default": {},
    "fast": {"preset": "fast"},
    "paper": {"preset": "paper"},
    "only-qa": {"examples": ["qa"]},
    "qa-text": {"examples": ["qa", "text"]},
    "short-text": {"examples": ["qa-short", "text"]},
    "both-text": {"examples": ["qa-both", "text"]},
    "both": {"examples": ["qa-both"]},
    "short-statements-text": {"examples": ["qa-short", "statements", "text"]},
    "both-text-cloze": {"examples": ["qa-both", "text", "cloze"]},
    "both-text-rewrites": {"examples": ["qa-both", "text", "rewrite"], "rewrites": 2},
    "both-text-reversed": {"examples": ["qa-both", "text", "reversed"]},
    "both-passage-text": {"examples": ["qa-both", "qa-passage", "text"]},
    "text-cloze": {"examples": ["text", "cloze"]},
    "loss-on-all": {"loss": "all"},
    "epochs-3": {"epochs": 3},
    "epochs-6": {"epochs": 6},
    "epochs-10": {"epochs": 10},
    "rank-1": {"rank": 1, "alpha": 16.0},
    "rank-2": {"rank": 2, "alpha": 32.0},
    "rank-8": {"rank": 8, "alpha": 128.0},
    "rank-16": {"rank": 16, "alpha": 256.0},
    "all-blocks": {"first_layer": 0},
    "upper-third": {"first_layer": 20},
    "down-only": {"targets": ["down_proj"]},
    "with-attention": {"targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]},
    "only-b": {"freeze_a": True},
    "rate-1e-3": {"learning_rate": 1e-3},
    "rate-2e-3": {"learning_rate": 2e-3},
    "rate-5e-3": {"learning_rate": 5e-3},
    "constant-rate": {"schedule": "constant"},
    "step-of-1": {"examples_per_step": 1},
    "step-of-4": {"examples_per_step": 4},
    "distilled": {"distillation": 0.5},
}
"""Every row by name: recipe settings over the default preset's, or another preset."""


@dataclass(frozen=True)
class Result:
    """What a row came to."""

    summary: BuildSummary
    tokens: float
    own: Evaluation
    found: Evaluation


def main() -> None:
    options = _options()
    if options.list:
        for name, settings in ROWS.items():
            print(f"{name:24s} {json.dumps(dict(settings))}")
        return
    home = _home(options.home)
    documents, questions = _chosen(options, home)
    print(header())
    print(f"- {documents}, {questions}, {options.augmenter}, merge {options.merge}\n")
    print(
        "| row | tokens a document | bytes | seconds a document | own F1 | own contains | found F1 | found contains |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in options.rows or ["default"]:
        result = _run(home, name, documents, questions, options)
        cells = [
            name,
            f"{result.tokens:,.0f}",
            f"{result.summary.adapter_bytes / max(1, result.summary.trained):,.0f}",
            f"{result.summary.encode_wall_seconds / max(1, result.summary.trained):.2f}",
            *(
                _cell(one.results[0].scores[measure])
                for one in (result.own, result.found)
                for measure in ("f1", "contains")
            ),
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


def _run(home: Home, name: str, documents: Path, questions: Path, options: argparse.Namespace) -> Result:
    settings = {**ROWS[name], **dict(map(parse_setting, options.settings))}
    preset = settings.pop("preset", "default")
    corpus = name if not options.settings else f"{name}-changed"
    request = BuildRequest(
        sources=(str(documents),),
        corpus=corpus,
        recipe=RecipeRequest(preset=preset, settings=settings, base_model=options.model, dtype=options.dtype),
        augmenter=options.augmenter,
        device=options.device,
    )
    asking = Asking(merge=options.merge, batch_size=16, log=False)
    with progress_bars() as progress:
        summary = build(home, request, progress)
        own, found = (
            evaluate(
                home,
                corpus,
                EvaluationRequest(questions, ("prag",), ks, asking, gold=gold, folder=home.path / f"{corpus}-{gold}"),
                device=options.device,
                progress=progress,
            )
            for ks, gold in (((1,), True), ((options.k,), False))
        )
    return Result(summary, summary.trained_tokens / max(1, summary.trained), own, found)


def _home(path: Path) -> Home:
    home = create_home(path)
    schema.upgrade(home.catalog_url)
    return home


def _chosen(options: argparse.Namespace, home: Home) -> tuple[Path, Path]:
    """Return the files of documents and questions, of every n-th document only if that is asked for."""
    if options.every == 1:
        return options.documents, options.questions
    documents = _lines(options.documents)[:: options.every]
    kept = {str(document["id"]) for document in documents}
    questions = [one for one in _lines(options.questions) if kept.issuperset(map(str, one["document_ids"]))]
    paths = home.path / f"every-{options.every}-documents.jsonl", home.path / f"every-{options.every}-questions.jsonl"
    for path, rows in zip(paths, (documents, questions), strict=True):
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return paths


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _cell(estimate: Estimate) -> str:
    values: Sequence[str] = [f"{value:.3f}"[1:] for value in (estimate.mean, estimate.low, estimate.high)]
    return f"{values[0]} ({values[1]} to {values[2]})"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], metavar="ROW")
    parser.add_argument("--list", action="store_true", help="print the rows, and do nothing")
    parser.add_argument("--documents", type=Path)
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--augmenter", default="self")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th document")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--merge", default=DEFAULT_MERGE)
    parser.add_argument("-k", type=int, default=3)
    parser.add_argument("--home", type=Path, default=Path(".ablation"), help="the registry home to build in")
    parser.add_argument("--model", help="the base model; by default the home's")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype")
    options = parser.parse_args()
    if not options.list and (options.documents is None or options.questions is None):
        parser.error("name --documents and --questions")
    return options


if __name__ == "__main__":
    main()
