"""The commands that move names of versions, and pin versions: ``alias``, ``rollback``, ``pin``, ``unpin``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from cli.options import complete_corpus, home_option, json_option
from cli.output import say, write_records
from cli.versions import optional_corpus_argument, reading, reference_argument
from registry.errors import UsageError
from registry.settings import Home, user_name

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

corpus_argument = click.argument("corpus", shell_complete=complete_corpus)


@contextmanager
def writing(home: Home) -> Iterator[Session]:
    """Open the catalog of a home for one transaction that writes."""
    from registry.catalog.engine import open_catalog

    with open_catalog(home.catalog_url) as catalog, catalog.write() as session:
        yield session


@click.group()
def alias() -> None:
    """Look at the aliases of versions, and move them."""


@alias.command("set")
@reference_argument
@click.argument("name")
@home_option
def set_alias(home: Home, reference: str, name: str) -> None:
    """Let the alias NAME stand for the version REF; `pragreg query --corpus CORPUS@NAME` asks it then."""
    from registry.catalog import versions as library

    with writing(home) as session:
        version = library.resolve(session, reference)
        before = library.aliases(session, version.corpus).get(name)
        moved = library.set_alias(session, version, name, who=user_name())
    if not moved:
        say(f"{version.corpus}@{name} is {version.reference} already")
    else:
        say(f"{version.corpus}@{name} is {version.reference} now" + (f", it was v{before}" if before else ""))


@alias.command("remove")
@corpus_argument
@click.argument("name")
@home_option
def remove_alias(home: Home, corpus: str, name: str) -> None:
    """Remove the alias NAME of a CORPUS; its history stays."""
    from registry.catalog import versions as library

    with writing(home) as session:
        before = library.remove_alias(session, corpus, name, who=user_name())
    say(f"removed {corpus}@{name}, it was v{before}")


@alias.command("list")
@optional_corpus_argument
@home_option
@json_option
def list_aliases(home: Home, corpus: str | None, as_json: bool) -> None:
    """List the aliases of a CORPUS, or of all."""
    from registry.catalog import versions as library

    with reading(home) as session:
        found = library.list_aliases(session, corpus)
    write_records(found, ("corpus", "name", "version", "digest", "who", "moved_at"), as_json=as_json)


@alias.command("history")
@corpus_argument
@click.argument("name", required=False)
@home_option
@json_option
def alias_history(home: Home, corpus: str, name: str | None, as_json: bool) -> None:
    """List the moves of all aliases of a CORPUS, or of the alias NAME, oldest first."""
    from registry.catalog import versions as library

    with reading(home) as session:
        found = library.alias_history(session, corpus, name)
    write_records(found, ("name", "from_version", "to_version", "who", "moved_at"), as_json=as_json)


@click.command(short_help="Take a corpus back to an earlier version.")
@corpus_argument
@click.argument("reference", metavar="REF", shell_complete=complete_corpus)
@home_option
def rollback(home: Home, corpus: str, reference: str) -> None:
    """Take a CORPUS back to a version: let its `latest` stand for REF, which is v3, an alias or a digest.

    Nothing is lost: later versions stay, and the next build starts from the documents and the recipe of REF.
    """
    from registry.catalog import versions as library

    with writing(home) as session:
        found = library.rollback(session, _of_corpus(corpus, reference), who=user_name())
    left, now = found.from_version, found.to_version
    if left == now:
        say(f"{corpus} is at {now.reference} already")
        return
    about = f" ({now.message})" if now.message else ""
    say(
        f"{corpus} went from v{left.number} back to v{now.number}, {now.documents} documents{about}"
        if now.number < left.number
        else f"{corpus} went from v{left.number} on to v{now.number}, {now.documents} documents{about}"
    )
    say(
        f"the next build starts from v{now.number} and its recipe; `pragreg rollback {corpus} v{left.number}` undoes it"
    )


def _of_corpus(corpus: str, reference: str) -> str:
    named, at, wanted = reference.rpartition("@")
    if at and named not in ("", corpus):
        raise UsageError(
            f"{reference} is no version of {corpus!r}", hint=f"pragreg rollback {named} {wanted}, if that is meant"
        )
    return f"{corpus}@{wanted}"


@click.command()
@reference_argument
@click.option("--reason", metavar="TEXT", default="", help="Why it is kept.")
@home_option
def pin(home: Home, reference: str, reason: str) -> None:
    """Keep a version from `pragreg gc`, until it is unpinned."""
    from registry.catalog import versions as library

    with writing(home) as session:
        version = library.resolve(session, reference)
        is_new = library.pin(session, version, reason=reason, who=user_name())
    say(f"{version.reference} is pinned" + ("" if is_new else " already"))


@click.command()
@reference_argument
@home_option
def unpin(home: Home, reference: str) -> None:
    """Take the pin off a version."""
    from registry.catalog import versions as library

    with writing(home) as session:
        version = library.resolve(session, reference)
        was_pinned = library.unpin(session, version)
    say(f"{version.reference} is pinned no more" if was_pinned else f"{version.reference} was not pinned")
