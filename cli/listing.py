"""The commands that look at what is there: ``documents``, ``corpora``, ``builds``, ``queries``, ``evaluations``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from cli.answers import hit_record
from cli.options import complete_corpus, home_option, json_option, limit_option, offset_option
from cli.output import say, write_json, write_record, write_records
from registry.errors import UsageError
from registry.records import MODES
from registry.settings import Home

MOST = 2**31 - 1
BUILD_STATES = ("running", "finished", "failed", "interrupted")

version_option = click.option(
    "--corpus",
    "reference",
    metavar="REF",
    shell_complete=complete_corpus,
    help="Only those of a version: NAME or NAME@REF.",
)
corpus_option = click.option("--corpus", metavar="NAME", shell_complete=complete_corpus, help="Only those of a corpus.")


def print_list(home: Home, name: str, columns: tuple[str, ...], as_json: bool, limit: int, **filters: Any) -> None:
    """Print what ``registry.catalog.listing.list_NAME`` gives for some filters, at most ``limit`` lines (0 for all)."""
    from registry.catalog import listing
    from registry.catalog.engine import open_catalog

    for option, value in {**filters, "limit": limit}.items():
        _check_filter(option, value)
    read: Callable[..., list[Any]] = getattr(listing, f"list_{name}")
    # One more than asked for shows whether there is more.
    wanted = limit + 1 if limit else None
    with open_catalog(home.catalog_url) as catalog, catalog.read() as session:
        found = read(session, limit=wanted, **filters)
    shown = found[:limit] if limit else found
    write_records(shown, columns, as_json=as_json)
    if len(shown) < len(found):
        say(f"there are more {name}; see --limit and --offset")


def _check_filter(option: str, value: str | int | None) -> None:
    name = "corpus" if option == "reference" else option
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UsageError(f"--{name} is not UTF-8: {value!r}", hint="set the terminal to UTF-8") from None
    if isinstance(value, int) and value > MOST:
        raise UsageError(f"--{name} is too large: {value}", hint=f"give at most {MOST}")


def show(home: Home, name: str, identifier: str) -> Any:
    """Return what ``registry.catalog.listing.show_NAME`` gives."""
    from registry.catalog import listing
    from registry.catalog.engine import open_catalog

    read: Callable[..., Any] = getattr(listing, f"show_{name}")
    with open_catalog(home.catalog_url) as catalog, catalog.read() as session:
        return read(session, identifier)


@click.group()
def documents() -> None:
    """Look at the documents."""


@documents.command("list")
@version_option
@click.option("--title", metavar="TEXT", help="Only those with TEXT in their title.")
@limit_option
@offset_option
@home_option
@json_option
def list_documents(
    home: Home, reference: str | None, title: str | None, limit: int, offset: int, as_json: bool
) -> None:
    """List documents, oldest first."""
    columns = ("digest", "title", "characters", "places", "source_uri", "excerpt")
    print_list(home, "documents", columns, as_json, limit, reference=reference, title=title, offset=offset)


@documents.command("show")
@click.argument("digest")
@home_option
@json_option
def show_document(home: Home, digest: str, as_json: bool) -> None:
    """Show a document and all that was made from it; DIGEST may be abbreviated."""
    found = show(home, "document", digest)
    write_json(found) if as_json else write_record(found)


@click.group()
def corpora() -> None:
    """Look at the corpora."""


@corpora.command("list")
@limit_option
@offset_option
@home_option
@json_option
def list_corpora(home: Home, limit: int, offset: int, as_json: bool) -> None:
    """List corpora by name."""
    columns = ("name", "version", "documents", "digest", "recipe_digest", "language", "created_at")
    print_list(home, "corpora", columns, as_json, limit, offset=offset)


@corpora.command("show")
@click.argument("name", shell_complete=complete_corpus)
@home_option
@json_option
def show_corpus(home: Home, name: str, as_json: bool) -> None:
    """Show a corpus with its versions and aliases."""
    found = show(home, "corpus", name)
    write_json(found) if as_json else write_record(found)


@click.group()
def builds() -> None:
    """Look at the builds."""


@builds.command("list")
@corpus_option
@click.option("--status", type=click.Choice(BUILD_STATES), help="Only those that ended so, or run.")
@limit_option
@offset_option
@home_option
@json_option
def list_builds(home: Home, limit: int, as_json: bool, **filters: Any) -> None:
    """List builds, newest first."""
    columns = (
        "build_id",
        "corpus",
        "status",
        "version",
        "documents",
        "reused",
        "trained",
        "who",
        "started_at",
        "message",
    )
    print_list(home, "builds", columns, as_json, limit, **filters)


@builds.command("show")
@click.argument("number")
@home_option
@json_option
def show_build(home: Home, number: str, as_json: bool) -> None:
    """Show a build by its NUMBER."""
    found = show(home, "build", number)
    write_json(found) if as_json else write_record(found)


@click.group()
def queries() -> None:
    """Look at the questions that were answered."""


@queries.command("list")
@corpus_option
@click.option("--mode", type=click.Choice(MODES), help="Only those answered in a mode.")
@click.option("--text", metavar="TEXT", help="Only those with TEXT in the question.")
@limit_option
@offset_option
@home_option
@json_option
def list_queries(home: Home, limit: int, as_json: bool, **filters: Any) -> None:
    """List answered questions, newest first."""
    columns = ("query_id", "created_at", "mode", "version", "question", "answer", "elapsed_ms")
    print_list(home, "queries", columns, as_json, limit, **filters)


@queries.command("show")
@click.argument("number")
@home_option
@json_option
def show_query(home: Home, number: str, as_json: bool) -> None:
    """Show an answered question by its NUMBER, with the hits and adapters that gave the answer."""
    found = show(home, "query", number)
    hits = [hit_record(hit) | {"weight": weight} for hit, weight in zip(found.hits, found.weights, strict=True)]
    record = {field.name: getattr(found.line, field.name) for field in fields(found.line)} | {
        "recipe_digest": found.recipe_digest,
        "base_model": found.base_model,
        "prompt_tokens": found.prompt_tokens,
        "answer_tokens": found.answer_tokens,
        "milliseconds": found.milliseconds,
        "hits": hits,
    }
    write_json(record) if as_json else write_record(record)


@click.group()
def evaluations() -> None:
    """Look at the evaluations."""


@evaluations.command("list")
@corpus_option
@limit_option
@offset_option
@home_option
@json_option
def list_evaluations(home: Home, limit: int, as_json: bool, **filters: Any) -> None:
    """List evaluations with the F1 of every mode, newest first."""
    columns = ("number", "created_at", "version", "questions_name", "questions", "gold", "f1")
    print_list(home, "evaluations", columns, as_json, limit, **filters)


@evaluations.command("show")
@click.argument("number")
@home_option
@json_option
def show_evaluation(home: Home, number: str, as_json: bool) -> None:
    """Show an evaluation by its NUMBER, with all measures and their intervals."""
    found = show(home, "evaluation", number)
    write_json(found) if as_json else write_record(found)
