"""``pragreg build``: documents to adapters."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from cli.options import (
    corpus_option,
    home_option,
    json_option,
    read_options,
    reading_options,
    recipe_options,
    recipe_request,
)
from cli.output import FULL_LIST, excerpt, plain, say, say_skipped, write_fields, write_json
from cli.progress import progress_bars
from registry.digests import short
from registry.errors import UsageError
from registry.settings import Home

if TYPE_CHECKING:
    from registry.pipeline.build import BuildSummary
    from registry.pipeline.dry_run import DryRun, Some


TITLES = 5
TITLE_CHARACTERS = 40
"""So many documents of a dry run are named, by so much of their title; JSON names a hundred."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(I?)B?|B)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return the bytes that ``text`` names: "8GB" (10^9), "8GiB" (2^30), "500MB", or a plain number.

    Raises:
        UsageError: it names none.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found or not float(found[1]):
        raise UsageError(f"{text!r} is no amount of memory", hint="write it as 8GB, 8GiB or 500MB")
    power = " KMGT".index((found[2] or " ").upper())
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


@click.command(
    short_help="Give documents adapters: a new version of a corpus.",
    epilog="Sources are .txt, .md, .html, .jsonl, .csv and .tsv files, each also as .gz.\n\n"
    "The augmenter openai takes OPENAI_API_KEY, OPENAI_BASE_URL and OPENAI_MODEL from the environment, and how many "
    "requests run at once and may be made in all from OPENAI_CONCURRENCY and OPENAI_MAX_REQUESTS.",
)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@home_option
@corpus_option
@click.option("-m", "--message", default="", metavar="TEXT", help="What is new in this version, for people.")
@recipe_options
@reading_options
@click.option(
    "--device",
    "--devices",
    "device",
    metavar="NAME[,NAME...]",
    default="auto",
    show_default=True,
    help="Where to compute: auto, cpu, cuda, cuda:0 or mps; several with commas between, or all GPUs: all.",
)
@click.option(
    "--memory",
    metavar="SIZE",
    show_default="most of what there is",
    help="The most memory to train in, such as 8GB: of all processes together, or of each GPU.",
)
@click.option(
    "--group-size",
    type=click.IntRange(1),
    metavar="N",
    show_default="what fills a pass through the model",
    help="Documents trained at once.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    show_default="one a core, or one a GPU",
    help="Processes that train.",
)
@click.option(
    "--take-over", is_flag=True, help="Build although another machine is recorded as building; for when it is gone."
)
@click.option("--wait", is_flag=True, help="While another build of the corpus runs, wait for its end.")
@click.option(
    "--dry-run", is_flag=True, help="Say what would be added, kept, removed and trained, and leave all as it is."
)
@json_option
def build(home: Home, sources: tuple[str, ...], as_json: bool, dry_run: bool, **options: Any) -> None:
    """Give every document of the SOURCEs an adapter, and make a new version of the corpus.

    A SOURCE is a file, a folder, a glob pattern, a URL, or - for standard input. What is there already is not trained
    again, and a build that was stopped goes on where it was when the same command is given again. The new version
    holds what the SOURCEs hold: a document that is in none of them any more leaves it. Where nothing differs, no
    version is made.
    """
    recipe, read = recipe_request(options), read_options(options)
    from registry.pipeline.build import BuildRequest
    from registry.pipeline.build import build as run
    from registry.pipeline.dry_run import dry_run as run_dry

    request = BuildRequest(
        sources=sources,
        corpus=options["corpus"],
        read=read,
        recipe=recipe,
        augmenter=options["augmenter"],
        skip_invalid=options["skip_invalid"],
        device=options["device"],
        group_size=options["group_size"],
        workers=options["workers"],
        memory_bytes=None if options["memory"] is None else parse_size(options["memory"]),
        message=options["message"],
        language=options["language"],
        take_over=options["take_over"],
        wait=options["wait"],
    )
    with progress_bars() as progress:
        if dry_run:
            found = run_dry(home, request, progress)
        else:
            summary = run(home, request, progress)
    if dry_run:
        _show_dry_run(found, as_json)
    else:
        _show(summary, as_json)


def _show(summary: BuildSummary, as_json: bool) -> None:
    seconds_a_document = summary.encode_wall_seconds / summary.trained if summary.trained else None
    if as_json:
        version = summary.version
        record = {"digest": version.digest, **plain(summary), "version": version.reference}
        write_json(record | {"seconds_per_document": seconds_a_document, "parent": version.parent})
        return
    say_skipped(summary.skipped)
    if 0 < summary.documents_without_pairs < summary.documents:
        for digest in summary.unaided[:FULL_LIST]:
            say(f"no pairs, encoded from its own text: pragreg documents show {short(digest)}")
        if summary.documents_without_pairs > FULL_LIST:
            say(f"no pairs for {summary.documents_without_pairs - FULL_LIST} more; --json lists up to a hundred")
    is_trained = summary.first_loss is not None and summary.last_loss is not None
    write_fields(
        {
            "version": summary.version.reference + ("" if summary.created else " (unchanged)"),
            "digest": summary.version.digest,
            "documents": summary.documents,
            "places": summary.places,
            "reused": summary.reused,
            "trained": summary.trained,
            "skipped": len(summary.skipped),
            "pairs": f"{summary.pairs_kept} kept, {summary.pairs_dropped} dropped",
            "documents_without_pairs": summary.documents_without_pairs,
            "elapsed_seconds": summary.elapsed_seconds,
            "encoding_a_document_seconds": seconds_a_document,
            "loss": f"{summary.first_loss:.3f} -> {summary.last_loss:.3f}" if is_trained else None,
            "examples": summary.trained_examples,
            "tokens": summary.trained_tokens,
            "operations": summary.operations,
            "reached_gflops": summary.reached_gflops,
            "adapters_bytes": summary.adapter_bytes,
        }
    )


def _show_dry_run(found: DryRun, as_json: bool) -> None:
    if as_json:
        write_json(found)
        return
    say_skipped(found.skipped)
    changes = [f"{name} {change.before} -> {change.after}" for name, change in found.recipe_changes.items()]
    fields: dict[str, object] = {"version": _version_text(found)}
    if changes:
        fields["recipe"] = f"another than that of {found.against}: {', '.join(changes)}"
    fields |= {
        "documents": found.documents,
        "places": found.places,
        "added": _some_text(found.added),
        "kept": found.kept,
        "removed": _some_text(found.removed),
        "reused": found.reused,
        "to_train": _some_text(found.to_train),
        "to_augment": _some_text(found.to_augment, f" by {found.augmenter}" if found.to_augment.count else ""),
        "skipped": len(found.skipped),
    }
    write_fields(fields)


def _version_text(found: DryRun) -> str:
    if found.is_nothing_to_do:
        return f"{found.version} (unchanged): nothing to do"
    if found.created is None:
        return f"{found.version} (unchanged), or a new one if what was lost is not encoded to the same bytes"
    if not found.created:
        return f"{found.version}, which latest would name again instead of {found.against}"
    return f"{found.version} (new, {f'after {found.against}' if found.against else 'the first'})"


def _some_text(some: Some, note: str = "") -> str:
    titles = [excerpt(named.title or short(named.digest), TITLE_CHARACTERS) for named in some.first[:TITLES]]
    more = ", ..." if some.count > len(titles) else ""
    return f"{some.count}{note}: {', '.join(titles)}{more}" if titles else f"{some.count}{note}"
