"""``pragreg evaluate``: how right the answers are, mode by mode."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import (
    batch_size_option,
    device_option,
    dtype_option,
    hits_option,
    home_option,
    json_option,
    max_tokens_option,
    reference_option,
    weights_option,
)
from cli.output import plain, say, write_json, write_table
from cli.progress import progress_bars
from registry.errors import UsageError
from registry.merging.weights import parse_weights
from registry.records import MODES, Mode
from registry.settings import Home

if TYPE_CHECKING:
    from registry.pipeline.evaluate import Evaluation, ModeResult

MEASURES = ("exact_match", "f1", "contains")
"""The measures of the table; JSON has all."""


@click.command(short_help="Compare the modes on held-out questions.")
@click.argument("questions", type=click.Path(path_type=Path), metavar="QUESTIONS.jsonl")
@click.option("--modes", default=",".join(MODES), show_default=True, metavar="A,B,...", help="The modes to compare.")
@hits_option
@weights_option
@home_option
@reference_option
@click.option("--gold", is_flag=True, help="Take each question's own documents instead of what the index finds.")
@click.option("--sample", type=click.IntRange(1), metavar="N", help="Ask only N questions, drawn by chance.")
@click.option("--seed", type=int, metavar="N", default=0, show_default=True, help="Decides what is drawn.")
@max_tokens_option
@batch_size_option
@device_option
@dtype_option("the model computes")
@json_option
def evaluate(
    home: Home,
    questions: Path,
    modes: str,
    k: int,
    weights: str,
    reference: str,
    gold: bool,
    sample: int | None,
    seed: int,
    max_tokens: int,
    batch_size: int,
    device: str,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Answer held-out questions in several modes, and compare the answers with the right ones.

    A line of QUESTIONS.jsonl is {"question": "...", "answers": ["..."], "document_ids": ["..."]}, the last only for
    --gold. Scores are from 0 to 1; what is asked here is not recorded.
    """
    chosen = parse_modes(modes)
    parse_weights(weights, k)
    # Only now what takes seconds: the pipeline brings torch, and then the model is loaded.
    from registry.pipeline.evaluate import EvaluationRequest
    from registry.pipeline.evaluate import evaluate as run
    from registry.pipeline.query import Asking

    asking = Asking(chosen[0], k, weights, max_tokens, batch_size, log=False)
    request = EvaluationRequest(questions, chosen, asking, gold=gold, sample=sample, seed=seed)
    with progress_bars() as progress:
        found = run(home, reference, request, device=device, dtype=dtype or "auto", progress=progress)
    if as_json:
        for result in found.results:
            write_json(_record(found, result))
    else:
        _show(found)


def parse_modes(text: str) -> tuple[Mode, ...]:
    """Return the modes that a list with commas names, each once.

    Raises:
        UsageError: one is unknown, or there is none.
    """
    named = [name.strip() for name in text.split(",") if name.strip()]
    for name in named:
        if name not in MODES:
            raise UsageError(f"there is no mode {name!r}", hint=f"use some of: {', '.join(MODES)}")
    if not named:
        raise UsageError("--modes names no mode", hint=f"use some of: {', '.join(MODES)}")
    return tuple(mode for mode in dict.fromkeys(named) if mode in MODES)


def _record(found: Evaluation, result: ModeResult) -> dict[str, Any]:
    return {
        "mode": result.mode,
        "version": found.version.reference,
        "digest": found.version.digest,
        "questions": found.questions,
        "k": found.k,
        "weights": found.weights,
        "gold": found.gold,
        "found_gold": found.found_gold,
        "scores": plain(result.scores),
        "milliseconds": result.milliseconds,
        "prompt_tokens": result.prompt_tokens,
    }


def _show(found: Evaluation) -> None:
    source = "their own documents" if found.gold else f"the {found.k} best documents"
    say(f"{found.questions} questions on {found.version.reference}, {source}, weights {found.weights}")
    if found.found_gold is not None:
        say(f"the right document was among them for {found.found_gold:.1%} of the questions")
    rows = [
        (
            result.mode,
            *(result.scores[measure].mean for measure in MEASURES),
            result.milliseconds / 1000,
            round(result.prompt_tokens),
        )
        for result in found.results
    ]
    write_table(rows, ("mode", *MEASURES, "seconds", "prompt_tokens"))
