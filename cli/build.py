"""``pragreg build``: documents to adapters."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from cli.options import corpus_option, device_option, dtype_option, home_option, json_option, path_option
from cli.output import plain, say, write_fields, write_json
from cli.progress import progress_bars
from registry.digests import short
from registry.errors import UsageError
from registry.recipe import PRESETS
from registry.settings import Home

if TYPE_CHECKING:
    from registry.pipeline.build import BuildSummary
    from registry.records import Skipped

OWN_OPTIONS = {
    "augmenter": "--augmenter",
    "base_model": "--base-model",
    "dtype": "--dtype",
    "prompts_version": "another pragreg: it belongs to the program",
}
"""Settings of a recipe that ``--set`` leaves to something else."""
DIRECT = ("rank", "epochs", "learning_rate", "pairs", "rewrites")
"""Settings of a recipe with an option of their own name."""
FULL_LIST = 20
"""Skipped inputs and documents without pairs that are listed one by one; JSON has more."""


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
@click.option(
    "--augmenter",
    metavar="WHO",
    show_default="the recipe's",
    help="Who writes rewrites and question-answer pairs: self (the base model), openai (any compatible endpoint), "
    "import:FILE, or none.",
)
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    show_default="the corpus' last recipe, else default",
    help="The recipe to start from.",
)
@path_option("--recipe", "A TOML file of recipe settings, put over the preset.")
@click.option(
    "--set", "settings", metavar="NAME=VALUE", multiple=True, help="One recipe setting; may be given many times."
)
@click.option("--rank", type=click.IntRange(1), metavar="N", help="The rank of the adapters.")
@click.option("--epochs", type=click.IntRange(1), metavar="N", help="How often each example is trained on.")
@click.option("--learning-rate", type=float, metavar="NUMBER", help="The optimiser's first step size.")
@click.option("--pairs", type=click.IntRange(0), metavar="N", help="Question-answer pairs to ask for, a document.")
@click.option("--rewrites", type=click.IntRange(0), metavar="N", help="Rewrites to ask for, a document.")
@click.option(
    "--words",
    type=click.IntRange(1),
    metavar="N",
    default=100,
    show_default=True,
    help="About how many words a passage has.",
)
@click.option(
    "--language", metavar="CODE", show_default="the corpus', else en", help="The language of the text, as in ISO 639-1."
)
@click.option("--title-field", metavar="NAME", help="The field of a record that holds the title.")
@click.option("--text-field", metavar="NAME", help="The field of a record that holds the text.")
@click.option("--id-field", metavar="NAME", help="The field of a record that holds its identifier.")
@click.option("--skip-invalid", is_flag=True, help="Leave out inputs that cannot be read, and list them.")
@click.option(
    "--base-model",
    metavar="REF",
    show_default="the corpus', else the home's",
    help="A Hub id (OWNER/NAME, or OWNER/NAME@REVISION), a folder or a .gguf file.",
)
@device_option
@dtype_option("the frozen base model computes")
@click.option(
    "--group-size",
    type=click.IntRange(1),
    metavar="N",
    show_default="what suits the device",
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
@json_option
def build(home: Home, sources: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Give every document of the SOURCEs an adapter, and make a new version of the corpus.

    A SOURCE is a file, a folder, a glob pattern, a URL, or - for standard input. What is there already is not trained
    again, and a build that was stopped goes on where it was when the same command is given again.
    """
    settings = _settings(options)
    from registry.documents import ReadOptions
    from registry.pipeline.build import BuildRequest
    from registry.pipeline.build import build as run
    from registry.pipeline.recipes import RecipeRequest

    read = ReadOptions(
        words=options["words"],
        title_field=options["title_field"],
        text_field=options["text_field"],
        id_field=options["id_field"],
    )
    request = BuildRequest(
        sources=sources,
        corpus=options["corpus"],
        read=read if options["language"] is None else replace(read, language=options["language"]),
        recipe=RecipeRequest(
            preset=options["preset"],
            file=options["recipe"],
            settings=settings,
            base_model=options["base_model"],
            dtype=options["dtype"],
        ),
        augmenter=options["augmenter"],
        skip_invalid=options["skip_invalid"],
        device=options["device"],
        group_size=options["group_size"],
        workers=options["workers"],
        message=options["message"],
        language=options["language"],
        take_over=options["take_over"],
    )
    with progress_bars() as progress:
        summary = run(home, request, progress)
    _show(summary, as_json)


def parse_setting(text: str) -> tuple[str, Any]:
    """Return name and value of ``NAME=VALUE``; the value is TOML, and where it is not, a text.

    Raises:
        UsageError: there is no "=", or the setting is another option's.
    """
    name, equals, value = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not name:
        raise UsageError(f"--set {text!r} is not NAME=VALUE", hint='--set rank=8, or --set \'examples=["qa", "text"]\'')
    if name in OWN_OPTIONS:
        raise UsageError(f"--set cannot choose {name}", hint=f"use {OWN_OPTIONS[name]}")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return name, value.strip()
    return name, parsed["value"] if parsed.keys() == {"value"} else value.strip()


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    direct = {name: options[name] for name in DIRECT if options[name] is not None}
    return dict(map(parse_setting, options["settings"])) | direct


def _show(summary: BuildSummary, as_json: bool) -> None:
    seconds_a_document = summary.encode_wall_seconds / summary.trained if summary.trained else None
    if as_json:
        version = summary.version
        record = {"digest": version.digest, **plain(summary), "version": version.reference}
        write_json(record | {"seconds_per_document": seconds_a_document, "parent": version.parent})
        return
    for skipped in summary.skipped[:FULL_LIST]:
        say(f"skipped {_place(skipped)}: {skipped.reason}")
    if len(summary.skipped) > FULL_LIST:
        say(f"skipped {len(summary.skipped) - FULL_LIST} more; --json lists all")
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
            "adapters_bytes": summary.adapter_bytes,
        }
    )


def _place(skipped: Skipped) -> str:
    return skipped.source_uri if skipped.line is None else f"{skipped.source_uri}:{skipped.line}"
