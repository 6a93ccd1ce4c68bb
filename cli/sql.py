"""``pragreg sql``: queries by people, on a connection that can change nothing."""

from __future__ import annotations

import re
import sys
from itertools import islice
from pathlib import Path

import click

from cli.options import home_option
from cli.output import say
from cli.rows import chosen_style, format_options, write_rows
from registry.errors import UsageError
from registry.settings import Home

_INTEGER = re.compile(r"[+-]?\d{1,40}")
_NUMBER = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+)([eE][+-]?\d+)?")
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


@click.command(short_help="Run a query on the catalog; it can change nothing.")
@click.argument("query")
@click.option(
    "-p",
    "--param",
    "given",
    metavar="NAME=VALUE",
    multiple=True,
    help="The value of :NAME in the query; a number, true, false or null are that, and 'text' in quotes is text.",
)
@click.option(
    "--limit", type=click.IntRange(min=0), metavar="N", default=0, show_default=True, help="The most rows; 0 for all."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True, max=86_400),
    metavar="SECONDS",
    default=60.0,
    show_default=True,
    help="How long the database may work.",
)
@format_options
@home_option
def sql(
    home: Home,
    query: str,
    given: tuple[str, ...],
    limit: int,
    timeout: float,
    style: str | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Run a QUERY on the catalog, or with - the one on standard input; nothing can be changed by it.

    The views v_corpora, v_versions, v_members, v_documents, v_adapters, v_queries and others are there to rely on;
    docs/sql.md tells their columns. Rows are written as they come.

    \b
    pragreg sql "SELECT corpus, documents FROM v_corpora"
    pragreg sql "SELECT * FROM v_builds WHERE corpus = :name" -p name=handbook --format csv
    """
    from registry.catalog.read_only.connection import open_read_only

    chosen = chosen_style(style, as_json, out)
    text = sys.stdin.read() if query == "-" else query
    parameters = dict(map(parse_parameter, given))
    with open_read_only(home.catalog_url) as catalog:
        result = catalog.query(text, parameters, timeout_seconds=timeout)
        write_rows(result.columns, islice(result.rows, limit) if limit else result.rows, chosen, out)
        if limit and next(result.rows, None) is not None:
            say("there are more rows; see --limit")


def parse_parameter(text: str) -> tuple[str, object]:
    """Return name and value of ``NAME=VALUE``.

    Raises:
        UsageError: there is no "=", or no name before it.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise UsageError(f"-p {text!r} is not NAME=VALUE", hint="-p corpus=handbook")
    return name.strip(), _value(value)


def _value(text: str) -> object:
    if len(text) >= 2 and text[0] == text[-1] == "'":
        return text[1:-1]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text)
    return _WORDS.get(text.lower(), text)
