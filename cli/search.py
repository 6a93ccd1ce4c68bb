"""``pragreg search``: the documents that a question finds."""

from __future__ import annotations

import click

from cli.answers import hit_record, write_hits
from cli.options import MAX_HITS, home_option, json_option, reference_option
from cli.output import say, write_json
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
@home_option
@reference_option
@json_option
def search(home: Home, question: str, k: int, reference: str, as_json: bool) -> None:
    """Show the documents that fit a QUESTION best, without asking the model.

    The question is text: no character in it is an operator.
    """
    from registry.pipeline.search import search as find

    version, hits = find(home, reference, question, k)
    if as_json:
        for hit in hits:
            write_json(hit_record(hit) | {"text": hit.document.text, "version": version.reference})
    elif hits:
        write_hits(hits)
    else:
        say(f"no document of {version.reference} has a word of the question")
