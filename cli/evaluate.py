"""``pragreg evaluate``: how right the answers are, mode by mode, and two evaluations side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import (
    MAX_HITS,
    batch_size_option,
    device_option,
    dtype_option,
    json_option,
    max_tokens_option,
    merge_option,
    optional_home_option,
    path_option,
    reference_option,
)
from cli.output import say, write_json, write_line, write_table
from cli.progress import progress_bars
from registry.errors import UsageError
from registry.merging.methods import parse_merge
from registry.records import CONTROLS, MODES
from registry.settings import Home, locate_home, open_home

if TYPE_CHECKING:
    from registry.evaluation.results import Evaluation

MEASURES = ("exact_match", "f1", "contains")
"""The measures of the table; the report has all."""
EVERY_MODE = (*MODES, *CONTROLS)


@click.command(
    short_help="Compare the modes on held-out questions.",
    epilog="QUESTIONS are JSON Lines of {question, answers, document_ids, type}, or a file of SQuAD, HotpotQA, "
    "2WikiMultihopQA, PopQA, ComplexWebQuestions or BEIR as it comes.\n\n"
    "Controls: wrong-document answers with another document's adapter, task-only with what all adapters have in common "
    "(the task adapter, or their mean). What prag has above both is knowledge of the documents.",
)
@click.argument("questions", type=click.Path(path_type=Path), metavar="QUESTIONS.jsonl", required=False)
@click.option(
    "--modes",
    default=",".join(MODES),
    show_default=True,
    metavar="A,B,...",
    help=f"The modes to compare, some of {', '.join(EVERY_MODE)}.",
)
@click.option(
    "-k",
    "ks",
    metavar="N,...",
    default="3",
    show_default=True,
    help="How many documents a question gets; several in turn.",
)
@merge_option
@optional_home_option
@reference_option
@click.option("--gold", is_flag=True, help="Take each question's own documents instead of what the index finds.")
@path_option("--qrels", "Judgements of which documents are relevant, as BEIR has them (TSV).")
@click.option("--sample", type=click.IntRange(1), metavar="N", help="Ask only N questions, drawn by chance.")
@click.option("--seed", type=int, metavar="N", default=0, show_default=True, help="Decides what is drawn.")
@path_option("--out", "A folder for answers, report and plots; an evaluation that was stopped goes on from it.")
@click.option(
    "--compare",
    nargs=2,
    metavar="A B",
    help="Set two evaluations side by side, by their folders or their numbers; nothing is asked.",
)
@max_tokens_option
@batch_size_option
@device_option
@dtype_option("the model computes")
@json_option
def evaluate(
    home: Home | None,
    questions: Path | None,
    modes: str,
    ks: str,
    merge: str,
    reference: str,
    gold: bool,
    qrels: Path | None,
    sample: int | None,
    seed: int,
    out: Path | None,
    compare: tuple[str, str] | None,
    max_tokens: int,
    batch_size: int,
    device: str,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Answer held-out questions in several modes, and compare the answers with the right ones.

    Scores are from 0 to 1, with a bootstrap interval that holds 95 %. The results are recorded in the catalog; the
    questions are not logged.
    """
    if compare is not None:
        if questions is not None:
            raise UsageError(
                "--compare takes two evaluations and no question file", hint="pragreg evaluate --compare A B"
            )
        _compare(home, compare, as_json)
        return
    if questions is None:
        raise UsageError("no question file is named", hint="pragreg evaluate QUESTIONS.jsonl --out FOLDER")
    chosen, numbers = parse_modes(modes), parse_ks(ks)
    methods = [str(parse_merge(merge, k)) for k in numbers]
    home = home or open_home(locate_home(None))
    # Only now what takes seconds: the pipeline brings torch, and then the model is loaded.
    from registry.pipeline.evaluate import EvaluationRequest
    from registry.pipeline.evaluate import evaluate as run
    from registry.pipeline.query import Asking

    request = EvaluationRequest(
        questions=questions,
        modes=chosen,
        ks=numbers,
        asking=Asking("prag", numbers[0], methods[0], max_tokens, batch_size, log=False),
        gold=gold,
        sample=sample,
        seed=seed,
        folder=out,
        qrels=qrels,
    )
    with progress_bars() as progress:
        found = run(home, reference, request, device=device, dtype=dtype or "auto", progress=progress)
    if as_json:
        from registry.evaluation.report import results_lines

        for line in results_lines(found):
            write_json(line)
    else:
        _show(found)
    if out is not None:
        say(f"answers, report.md and plots are in {out}")


def parse_modes(text: str) -> tuple[str, ...]:
    """Return the modes that a list with commas names, each once.

    Raises:
        UsageError: one is unknown, or there is none.
    """
    named = dict.fromkeys(name.strip() for name in text.split(",") if name.strip())
    for name in named:
        if name not in EVERY_MODE:
            raise UsageError(f"there is no mode {name!r}", hint=f"use some of: {', '.join(EVERY_MODE)}")
    if not named:
        raise UsageError("--modes names no mode", hint=f"use some of: {', '.join(EVERY_MODE)}")
    return tuple(named)


def parse_ks(text: str) -> tuple[int, ...]:
    """Return the numbers of documents that a list with commas names, each once.

    Raises:
        UsageError: one is no number from 1 to ``MAX_HITS``, or there is none.
    """
    named = dict.fromkeys(part.strip() for part in text.split(",") if part.strip())
    for part in named:
        if not (part.isascii() and part.isdigit() and 1 <= int(part) <= MAX_HITS):
            raise UsageError(
                f"{part!r} is not a number of documents", hint=f"-k 1 to -k {MAX_HITS}, or several: -k 1,3"
            )
    if not named:
        raise UsageError("-k names no number of documents", hint="-k 3, or several: -k 1,3")
    return tuple(map(int, named))


def _compare(home: Home | None, names: tuple[str, str], as_json: bool) -> None:
    from registry.evaluation.comparison import comparison_markdown
    from registry.pipeline.evaluate import compare

    found = compare(home, *names)
    if as_json:
        write_json(found)
    else:
        for line in comparison_markdown(found).splitlines():
            write_line(line)


def _show(found: Evaluation) -> None:
    settings = found.settings
    source = "their own documents" if settings.gold else "the documents that were found"
    say(f"{settings.questions} questions of {settings.questions_name} on {settings.version}, {source}")
    for name, estimate in found.retrieval.items():
        if name in ("hit@1", "hit@3", "recall@10", "ndcg@10"):
            say(f"retrieval {name}: {estimate.mean:.3f} ({estimate.low:.3f} to {estimate.high:.3f})")
    rows = [
        (
            result.way.mode,
            result.way.k or None,
            result.way.merge or None,
            *(result.scores[measure].mean for measure in MEASURES),
            f"{result.scores['f1'].low:.3f} to {result.scores['f1'].high:.3f}",
            result.latencies["total"].mean_ms / 1000,
            round(result.prompt_tokens),
        )
        for result in found.overall
    ]
    if rows:
        write_table(rows, ("mode", "k", "merge", *MEASURES, "f1_interval", "seconds", "prompt_tokens"))
    for one in found.comparisons:
        if one.second.mode == "rag" and one.first.mode in ("prag", "combined"):
            f1 = one.measures["f1"]
            if f1.ratio is not None:
                say(
                    f"{one.first.label} has {f1.ratio.mean:.2f} times the F1 of rag "
                    f"({f1.ratio.low:.2f} to {f1.ratio.high:.2f}, p {_p_value(f1.p_value)})"
                )


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
