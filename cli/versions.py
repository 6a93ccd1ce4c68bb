"""The commands that look at versions: ``versions``, ``show``, ``diff``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from cli.options import complete_corpus, home_option, json_option, limit_option, offset_option
from cli.output import plain, say, write_fields, write_json, write_line, write_records, write_table
from cli.text_diff import unified_lines
from registry.catalog.names import is_version_number
from registry.errors import UsageError
from registry.settings import Home

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from registry.catalog.differences import Difference, DocumentChange, DocumentState

COLUMNS = (
    "corpus",
    "version",
    "aliases",
    "pinned",
    "documents",
    "size_bytes",
    "message",
    "recipe_digest",
    "created_at",
)
"""Of the table of versions; ``collected_at`` follows them."""

optional_corpus_argument = click.argument("corpus", required=False, shell_complete=complete_corpus)
reference_argument = click.argument("reference", metavar="REF", shell_complete=complete_corpus)


@contextmanager
def reading(home: Home) -> Iterator[Session]:
    """Open the catalog of a home for the time of a block that only reads."""
    from registry.catalog.engine import open_catalog

    with open_catalog(home.catalog_url) as catalog, catalog.read() as session:
        yield session


@click.command()
@optional_corpus_argument
@limit_option
@offset_option
@home_option
@json_option
def versions(home: Home, corpus: str | None, limit: int, offset: int, as_json: bool) -> None:
    """List the versions of a CORPUS, or of all, newest first.

    One that was collected has no adapters any more: it can be looked at, but not queried.
    """
    from registry.catalog.history import list_version_lines

    with reading(home) as session:
        found = list_version_lines(session, corpus, limit=limit + 1 if limit else None, offset=offset)
    shown = found[:limit] if limit else found
    columns = columns_of(shown, corpus) if sys.stdout.isatty() else [*COLUMNS, "collected_at"]
    write_records(shown, columns, as_json=as_json)
    if len(shown) < len(found):
        say("there are more versions; see --limit and --offset")


def columns_of(lines: list[Any], corpus: str | None) -> list[str]:
    """Return the columns that tell something about these lines, so that they fit a terminal."""

    def differs(name: str) -> bool:
        return len({getattr(line, name) for line in lines}) > 1

    wanted = {
        "corpus": corpus is None,
        "pinned": any(line.pinned for line in lines),
        "recipe_digest": differs("recipe_digest"),
        "collected_at": any(line.collected_at for line in lines),
    }
    return [name for name in (*COLUMNS, "collected_at") if wanted.get(name, True)]


@click.command(short_help="Show a version.")
@reference_argument
@home_option
@json_option
def show(home: Home, reference: str, as_json: bool) -> None:
    """Show a version: REF is NAME, NAME@ALIAS, NAME@v3 or NAME@DIGEST."""
    from registry.catalog.history import show_version

    with reading(home) as session:
        found = show_version(session, reference)
    record = {field.name: getattr(found.line, field.name) for field in fields(found.line)}
    record |= {"base_model": found.base_model, "sources": found.sources}
    if as_json:
        counts = None if found.difference is None else _counts(found.difference)
        write_json(record | {"pin": plain(found.pin), "difference_to_parent": counts})
        return
    record["parent"] = None if found.line.parent is None else f"v{found.line.parent}"
    if found.pin is not None:
        record["pinned"] = f"yes, by {found.pin.who}" + (f": {found.pin.reason}" if found.pin.reason else "")
    if found.difference is not None:
        record["to_parent"] = _summary(found.difference)
    write_fields(record)


@click.command(short_help="Show what differs between two versions.")
@click.argument("old", metavar="A", shell_complete=complete_corpus)
@click.argument("new", metavar="[B]", required=False, shell_complete=complete_corpus)
@click.option("--text", is_flag=True, help="Show the edits of changed documents.")
@limit_option
@offset_option
@home_option
@json_option
def diff(home: Home, old: str, new: str | None, text: bool, limit: int, offset: int, as_json: bool) -> None:
    """Show what differs from version A to version B of a corpus: documents, and adapters of those that stayed.

    B may be of the same corpus in short, as v3 or @production. Without B, A is compared with its parent.

    A document counts as changed where a version put another one in its place: the same record, the same place in its
    source, or the same title in it. An edit of an edit is followed through all versions between.
    """
    from registry.catalog.differences import compare, list_changes
    from registry.catalog.versions import resolve

    with reading(home) as session:
        first = resolve(session, old)
        if new is not None:
            difference = compare(session, first, resolve(session, _same_corpus(first.corpus, new)))
        elif first.parent is not None:
            difference = compare(session, resolve(session, f"{first.corpus}@v{first.parent}"), first)
        else:
            raise UsageError(f"{first.reference} has no parent to compare it with", hint=f"pragreg diff {old} B")
        changes = list_changes(session, difference, limit=limit or None, offset=offset)
        edits = _edits(session, difference, changes) if text else {}
    if as_json:
        shown = [
            plain(change) | ({"text_diff": edits[index]} if index in edits else {})
            for index, change in enumerate(changes)
        ]
        write_json(_counts(difference) | {"changes": shown})
        return
    _write_difference(difference, changes, list(edits.values()))
    total = difference.changed + difference.added + difference.removed + difference.reencoded
    if offset + len(changes) < total:
        say("there are more changes; see --limit and --offset")


def _same_corpus(corpus: str, reference: str) -> str:
    if is_version_number(reference):
        return f"{corpus}@{reference}"
    return f"{corpus}{reference}" if reference.startswith("@") else reference


def _counts(found: Difference) -> dict[str, Any]:
    sides = {"old": found.old, "new": found.new}
    record: dict[str, Any] = {side: version.reference for side, version in sides.items()}
    record |= {f"{side}_digest": version.digest for side, version in sides.items()}
    record |= {f"{side}_recipe_digest": version.recipe_digest for side, version in sides.items()}
    return record | {name: getattr(found, name) for name in ("changed", "added", "removed", "reencoded", "kept")}


def _summary(found: Difference) -> str:
    counts = f"{found.changed} changed, {found.added} added, {found.removed} removed"
    return f"{counts}, {found.reencoded} encoded again, {found.kept} kept"


def _write_difference(found: Difference, changes: list[DocumentChange], edits: list[list[str]]) -> None:
    recipes = "the same"
    if found.old.recipe_digest != found.new.recipe_digest:
        recipes = f"{found.old.recipe_digest[:12]} to {found.new.recipe_digest[:12]}"
    head = {"from": found.old.reference, "to": found.new.reference, "documents": _summary(found), "recipe": recipes}
    write_fields(head)
    documents = [change for change in changes if change.kind != "re-encoded"]
    adapters = [change for change in changes if change.kind == "re-encoded"]
    if documents:
        write_line()
        rows = [
            (change.kind, *_named(change.new or change.old), _digest(change.old), _digest(change.new))
            for change in documents
        ]
        write_table(rows, ("what", "title", "place", "old_digest", "new_digest"))
    if adapters:
        write_line()
        rows = [
            (change.kind, *_named(change.new), change.old.adapter_digest, change.new.adapter_digest)
            for change in adapters
            if change.old is not None and change.new is not None
        ]
        write_table(rows, ("what", "title", "place", "old_adapter_digest", "new_adapter_digest"))
    for lines in edits:
        write_line()
        for line in lines:
            write_line(line)


def _named(state: DocumentState | None) -> tuple[str, str]:
    if state is None or state.source_uri is None:
        return ("" if state is None else state.title), ""
    return state.title, f"{state.source_uri}#{state.ordinal}"


def _digest(state: DocumentState | None) -> str | None:
    return None if state is None else state.digest


def _edits(session: Session, found: Difference, changes: list[DocumentChange]) -> dict[int, list[str]]:
    """Return the lines of a text diff of every changed document, by its number among the changes."""
    from registry.catalog.documents import get_documents

    pairs = {
        index: (change.old, change.new)
        for index, change in enumerate(changes)
        if change.kind == "changed" and change.old is not None and change.new is not None
    }
    texts = get_documents(session, {state.digest for pair in pairs.values() for state in pair})
    return {
        index: unified_lines(
            texts[old.digest],
            texts[new.digest],
            f"{found.old.reference} {_named(old)[1]}",
            f"{found.new.reference} {_named(new)[1]}",
        )
        for index, (old, new) in pairs.items()
    }
