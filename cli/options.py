"""Options that several commands share, each defined once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from registry.errors import PragregError
from registry.merging.weights import DEFAULT_WEIGHTS
from registry.records import MODES
from registry.settings import DEFAULT_CORPUS, HOME_VARIABLE, Home, locate_home, open_home

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Decorator = Callable[[Decorated], Decorated]

MAX_HITS = 32
WEIGHTS_HELP = (
    "How much each hit's adapter counts: uniform, mean, score, first, best, or a number for each hit (0.8,0.1,0.1)."
)


def open_home_option(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Home:
    """Return the registry home that ``--home`` names, or the one that is found without it."""
    return open_home(locate_home(value))


def complete_corpus(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the corpora whose names begin with ``incomplete``, for the shell; none if they cannot be read."""
    from registry.catalog.engine import open_catalog
    from registry.catalog.listing import list_corpora

    named = context.params.get("home")
    try:
        home = named if isinstance(named, Home) else open_home(locate_home(None))
        with open_catalog(home.catalog_url) as catalog, catalog.read() as session:
            names = [corpus.name for corpus in list_corpora(session, limit=None)]
    except PragregError:
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


home_option: Decorator[Any] = click.option(
    "--home",
    metavar="FOLDER",
    callback=open_home_option,
    envvar=HOME_VARIABLE,
    show_envvar=True,
    show_default="the nearest .pragreg, here or in a folder above",
    help="The registry home.",
)
json_option: Decorator[Any] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: one object a line, with whole digests and plain numbers."
)
corpus_option: Decorator[Any] = click.option(
    "--corpus",
    metavar="NAME",
    default=DEFAULT_CORPUS,
    show_default=True,
    shell_complete=complete_corpus,
    help="The corpus to build.",
)
reference_option: Decorator[Any] = click.option(
    "--corpus",
    "reference",
    metavar="REF",
    default=DEFAULT_CORPUS,
    show_default=True,
    shell_complete=complete_corpus,
    help="Which corpus and version: NAME, NAME@ALIAS, NAME@v3 or NAME@sha256:DIGEST.",
)
hits_option: Decorator[Any] = click.option(
    "-k",
    "k",
    type=click.IntRange(1, MAX_HITS),
    metavar="N",
    default=3,
    show_default=True,
    help="How many documents to retrieve for a question.",
)
mode_option: Decorator[Any] = click.option(
    "--mode",
    type=click.Choice(MODES),
    default=MODES[0],
    show_default=True,
    help="prag: the documents' adapters; rag: their texts in the prompt; combined: both; closed-book: neither.",
)
max_tokens_option: Decorator[Any] = click.option(
    "--max-tokens",
    type=click.IntRange(1),
    metavar="N",
    default=32,
    show_default=True,
    help="The longest answer, in tokens.",
)
batch_size_option: Decorator[Any] = click.option(
    "--batch-size",
    type=click.IntRange(1),
    metavar="N",
    default=8,
    show_default=True,
    help="Questions answered at once.",
)
weights_option: Decorator[Any] = click.option(
    "--weights", metavar="HOW", default=DEFAULT_WEIGHTS, show_default=True, help=WEIGHTS_HELP
)
device_option: Decorator[Any] = click.option(
    "--device",
    metavar="NAME",
    default="auto",
    show_default=True,
    help="Where to compute: auto, cpu, cuda, cuda:0 or mps.",
)
limit_option: Decorator[Any] = click.option(
    "--limit",
    type=click.IntRange(min=0),
    metavar="N",
    default=50,
    show_default=True,
    help="The most lines to list; 0 lists all.",
)
offset_option: Decorator[Any] = click.option(
    "--offset",
    type=click.IntRange(min=0),
    metavar="N",
    default=0,
    show_default=True,
    help="How many lines to pass over first.",
)


def dtype_option(purpose: str) -> Decorator[Any]:
    """Return the option ``--dtype`` with a help that says what is computed in it."""
    return click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16"]),
        default=None,
        help=f"The numbers that {purpose} in; auto measures which is fast here.",
    )


def path_option(name: str, help_text: str, *, required: bool = False) -> Decorator[Any]:
    """Return an option that takes a path, which the command checks itself."""
    return click.option(name, type=click.Path(path_type=Path), required=required, help=help_text)
