"""The commands that look at repositories on the Hub: ``remotes`` and ``status``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cli.options import complete_corpus, home_option, json_option
from cli.output import counted, say, write_fields, write_json, write_line, write_records, write_table
from registry.settings import Home

if TYPE_CHECKING:
    from registry.pipeline.hub_status import HubStatus, VersionNote

COLUMNS = ("repository", "corpus", "versions", "latest", "has_text", "is_lazy", "pushed_at", "pulled_at")
NOTE_COLUMNS = ("version", "documents", "message", "created_at", "digest")

corpus_filter = click.option(
    "--corpus",
    metavar="NAME",
    shell_complete=complete_corpus,
    help="The corpus here; by default the one that lies there.",
)


@click.command(short_help="List the repositories on the Hub that this home knows.")
@click.option("--corpus", metavar="NAME", shell_complete=complete_corpus, help="Only those of this corpus.")
@home_option
@json_option
def remotes(home: Home, corpus: str | None, as_json: bool) -> None:
    """List repositories that corpora were pushed to or pulled from, as they were then. Nothing is asked of the Hub."""
    from registry.pipeline.hub_status import remotes as list_them

    found = list_them(home, corpus)
    endpoints = {line.endpoint for line in found}
    columns = list(COLUMNS)
    if endpoints - {"https://huggingface.co"}:
        columns.insert(1, "endpoint")
    write_records(found, columns, as_json=as_json)
    if not found:
        say("no repository is known; pragreg push NAMESPACE/NAME and pragreg pull NAMESPACE/NAME make one known")


@click.command(short_help="Compare a corpus with its repository on the Hub.")
@click.argument("repository", metavar="NAMESPACE/NAME")
@corpus_filter
@home_option
@json_option
def status(home: Home, repository: str, corpus: str | None, as_json: bool) -> None:
    """Say whether a corpus is ahead of its repository, behind it, or whether both have diverged. Changes nothing."""
    from registry.pipeline.hub_status import status as compare

    found = compare(home, repository, corpus)
    if as_json:
        write_json(found)
        return
    write_fields(_fields(found))
    for heading, notes in ((f"only in {found.corpus}", found.only_here), (f"only in {repository}", found.only_there)):
        if notes and found.state not in ("missing", "empty", "unknown"):
            _write_notes(heading, notes)
    if found.next_command is not None:
        say(f"try: {found.next_command}")


def _fields(found: HubStatus) -> dict[str, Any]:
    here, there = counted(len(found.only_here), "version"), counted(len(found.only_there), "version")
    told = {
        "equal": "equal",
        "ahead": f"ahead by {here}",
        "behind": f"behind by {there}",
        "diverged": f"diverged: {here} only here, {there} only there",
        "missing": "there is no such repository, or this login may not see it",
        "empty": "nothing was pushed there yet",
        "unknown": f"{there} there, and no corpus of that name here",
    }
    latest = [None if number is None else f"v{number}" for number in (found.latest_here, found.latest_there)]
    return {
        "repository": found.url,
        "corpus": found.corpus,
        "state": told[found.state],
        "latest here": latest[0],
        "latest there": latest[1],
        "commit": found.commit_id,
    }


def _write_notes(heading: str, notes: tuple[VersionNote, ...]) -> None:
    write_line()
    write_line(f"{heading}:")
    write_table([[getattr(note, name) for name in NOTE_COLUMNS] for note in notes], NOTE_COLUMNS)
