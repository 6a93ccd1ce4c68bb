"""``pragreg search``: the documents that a question finds."""

from __future__ import annotations

import click

from cli.answers import hit_record, write_hits
from cli.options import MAX_HITS, home_option, json_option, merge_option, reference_option
from cli.output import say, write_json, write_line
from registry.errors import UsageError
from registry.merging.methods import DEFAULT_MERGE, parse_merge
from registry.settings import Home


@click.command(short_help="Show the documents that fit a question.")
@click.argument("question")
@click.option(
    "-k",
    "k",
    type=click.IntRange(1, MAX_HITS),
    metavar="N",
    default=5,
    show_default=True,
    help="How many documents to show.",
)
@click.option(
    "--retrieval",
    "with_retrieval",
    is_flag=True,
    help="Remember what was found, and print its digest, by which another engine merges these adapters.",
)
@merge_option
@home_option
@reference_option
@json_option
def search(home: Home, question: str, k: int, with_retrieval: bool, merge: str, reference: str, as_json: bool) -> None:
    """Show the documents that fit a QUESTION best, without asking the model.

    The question is text: no character in it is an operator.
    """
    if merge != DEFAULT_MERGE and not with_retrieval:
        raise UsageError("--merge goes with --retrieval", hint="a search alone merges nothing")
    method = parse_merge(merge, k)
    from registry.pipeline.search import search as find

    version, hits = find(home, reference, question, k)
    retrieval = None
    if with_retrieval and hits:
        from registry.pipeline.retrievals import remember_hits

        retrieval = remember_hits(home, version, hits, method)
    if as_json:
        named = {"retrieval": retrieval} if with_retrieval else {}
        for hit in hits:
            write_json(hit_record(hit) | {"text": hit.document.text, "version": version.reference} | named)
    elif hits:
        write_hits(hits)
        if retrieval:
            write_line(f"\nretrieval {retrieval}")
    else:
        say(f"no document of {version.reference} has a word of the question")
