"""Options that several commands share, each defined once."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from registry.errors import HomeError, PragregError, UsageError
from registry.merging.methods import DEFAULT_MERGE, GRAMMAR
from registry.recipe import PRESETS
from registry.records import MODES
from registry.settings import DEFAULT_CORPUS, HOME_VARIABLE, Home, locate_home, open_home

if TYPE_CHECKING:
    from registry.documents import ReadOptions
    from registry.pipeline.recipes import RecipeRequest

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Decorator = Callable[[Decorated], Decorated]

MAX_HITS = 32
OWN_OPTIONS = {
    "augmenter": "--augmenter",
    "base_model": "--base-model",
    "dtype": "--dtype",
    "prompts_version": "another pragreg: it belongs to the program",
    "task_adapter": "--task-adapter",
}
"""Settings of a recipe that ``--set`` leaves to something else."""
DIRECT = ("rank", "epochs", "learning_rate", "pairs", "rewrites")
"""Settings of a recipe with an option of their own name."""


def open_home_option(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Home:
    """Return the registry home that ``--home`` names, or the one that is found without it."""
    return open_home(locate_home(value))


def find_home_option(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Home | None:
    """Return the registry home that ``--home`` names, or the one that is found without it, or None."""
    try:
        return open_home(locate_home(value))
    except HomeError:
        if value:
            raise
        return None


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
optional_home_option: Decorator[Any] = click.option(
    "--home",
    metavar="FOLDER",
    callback=find_home_option,
    envvar=HOME_VARIABLE,
    show_envvar=True,
    show_default="the nearest .pragreg, here or in a folder above, or none",
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
    help="Which corpus and version: NAME, NAME@ALIAS, NAME@v3 or NAME@DIGEST (its beginning).",
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
merge_option: Decorator[Any] = click.option(
    "--merge",
    metavar="HOW",
    default=DEFAULT_MERGE,
    show_default=True,
    help=f"How the hits' adapters are merged: {GRAMMAR}.",
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


def option_group(*options: Decorator[Any]) -> Decorator[Any]:
    """Return several options as one, in their order."""

    def decorate(command: Decorated) -> Decorated:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


recipe_options = option_group(
    click.option(
        "--augmenter",
        metavar="WHO",
        show_default="the recipe's",
        help="Who writes rewrites and question-answer pairs: self (the base model), openai (any compatible endpoint), "
        "import:FILE, or none.",
    ),
    click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        show_default="the corpus' last recipe, else default",
        help="The recipe to start from.",
    ),
    path_option("--recipe", "A TOML file of recipe settings, put over the preset."),
    click.option(
        "--set", "settings", metavar="NAME=VALUE", multiple=True, help="One recipe setting; may be given many times."
    ),
    click.option("--rank", type=click.IntRange(1), metavar="N", help="The rank of the adapters."),
    click.option("--epochs", type=click.IntRange(1), metavar="N", help="How often each example is trained on."),
    click.option("--learning-rate", type=float, metavar="NUMBER", help="The optimiser's first step size."),
    click.option("--pairs", type=click.IntRange(0), metavar="N", help="Question-answer pairs to ask for, a document."),
    click.option("--rewrites", type=click.IntRange(0), metavar="N", help="Rewrites to ask for, a document."),
    click.option(
        "--task-adapter",
        metavar="NAME|DIGEST",
        help="The task adapter (see `pragreg warmup`) that every document starts from; none to start from nothing.",
    ),
    click.option(
        "--base-model",
        metavar="REF",
        show_default="the corpus', else the home's",
        help="A Hub id (OWNER/NAME, or OWNER/NAME@REVISION), a folder or a .gguf file.",
    ),
    dtype_option("the frozen base model computes"),
)
"""What decides the adapters besides the documents; ``recipe_request`` reads them."""

reading_options = option_group(
    click.option(
        "--words",
        type=click.IntRange(1),
        metavar="N",
        default=100,
        show_default=True,
        help="About how many words a passage has.",
    ),
    click.option(
        "--language",
        metavar="CODE",
        show_default="the corpus', else en",
        help="The language of the text, as in ISO 639-1.",
    ),
    click.option("--title-field", metavar="NAME", help="The field of a record that holds the title."),
    click.option("--text-field", metavar="NAME", help="The field of a record that holds the text."),
    click.option("--id-field", metavar="NAME", help="The field of a record that holds its identifier."),
    click.option("--skip-invalid", is_flag=True, help="Leave out inputs that cannot be read, and list them."),
)
"""How sources are read; ``read_options`` reads them."""


def recipe_request(options: Mapping[str, Any]) -> RecipeRequest:
    """Return what ``recipe_options`` ask for.

    Raises:
        UsageError: a ``--set`` is wrong.
    """
    direct = {name: options[name] for name in DIRECT if options[name] is not None}
    settings = dict(map(parse_setting, options["settings"])) | direct
    if (start := options["task_adapter"]) is not None:
        settings["task_adapter"] = "" if start == "none" else start
    from registry.pipeline.recipes import RecipeRequest

    return RecipeRequest(
        preset=options["preset"],
        file=options["recipe"],
        settings=settings,
        base_model=options["base_model"],
        dtype=options["dtype"],
    )


def read_options(options: Mapping[str, Any]) -> ReadOptions:
    """Return how ``reading_options`` say that sources are read."""
    from registry.documents import ReadOptions

    read = ReadOptions(
        words=options["words"],
        title_field=options["title_field"],
        text_field=options["text_field"],
        id_field=options["id_field"],
    )
    return read if options["language"] is None else replace(read, language=options["language"])


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
