"""``pragreg warmup``: a task adapter that every document's adapter starts from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import corpus_option, device_option, home_option, json_option, recipe_options, recipe_request
from cli.output import plain, say, write_fields, write_json
from cli.progress import progress_bars
from registry.digests import short
from registry.settings import Home

if TYPE_CHECKING:
    from registry.pipeline.warmup import WarmupSummary


@click.command(short_help="Train a task adapter, for adapters to start from.")
@click.argument("questions", type=click.Path(path_type=Path), metavar="QUESTIONS.jsonl")
@home_option
@click.option("--name", default="", metavar="NAME", help="What to call it; else it is named by its digest.")
@corpus_option
@recipe_options
@device_option
@json_option
def warmup(home: Home, questions: Path, name: str, as_json: bool, **options: Any) -> None:
    """Train a task adapter on the questions and answers of a file, once for any number of corpora.

    Documents that are built with it (`pragreg build --task-adapter NAME`) start from it instead of from nothing: it
    knows how questions are asked and answered, and nothing of what the documents say. Its shape is the recipe's, so
    give the same preset, --rank and --set as for the build. `pragreg evaluate` refuses questions it was trained on.
    """
    recipe = recipe_request(options)
    from registry.pipeline.warmup import WarmupRequest, warm_up

    request = WarmupRequest(questions, name, options["corpus"], recipe, options["device"])
    with progress_bars() as progress:
        summary = warm_up(home, request, progress)
    _show(summary, as_json)


def _show(summary: WarmupSummary, as_json: bool) -> None:
    made = summary.task_adapter
    if as_json:
        record = plain(made)
        record.pop("question_digests")
        write_json({**record, "pack": summary.pack_digest, "elapsed_seconds": summary.elapsed_seconds})
        return
    write_fields(
        {
            "name": made.name or None,
            "digest": made.digest,
            "questions": made.questions,
            "tokens": made.training.tokens,
            "loss": f"{made.training.first_loss:.3f} -> {made.training.last_loss:.3f}",
            "size_bytes": made.size_bytes,
            "elapsed_seconds": summary.elapsed_seconds,
        }
    )
    say(f"next: pragreg build SOURCE... --task-adapter {made.name or short(made.digest)}")
