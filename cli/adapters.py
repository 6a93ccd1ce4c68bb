"""``pragreg adapters``: the adapters that are there, and those that come from elsewhere."""

from __future__ import annotations

from typing import Any

import click

from cli.listing import print_list, show, version_option
from cli.options import home_option, json_option, limit_option, offset_option
from cli.output import say, write_json, write_record, write_records
from cli.progress import progress_bars
from registry.settings import Home


@click.group()
def adapters() -> None:
    """Look at the adapters, and import those that were made elsewhere."""


@adapters.command("list")
@version_option
@click.option("--title", metavar="TEXT", help="Only those of documents with TEXT in their title.")
@click.option("--recipe", metavar="DIGEST", help="Only those of a recipe.")
@click.option("--document", metavar="DIGEST", help="Only those of a document.")
@limit_option
@offset_option
@home_option
@json_option
def list_adapters(home: Home, limit: int, as_json: bool, **filters: Any) -> None:
    """List adapters, oldest first."""
    columns = ("digest", "title", "document_digest", "recipe_digest", "size_bytes", "first_loss", "last_loss")
    print_list(home, "adapters", (*columns, "created_at"), as_json, limit, **filters)


@adapters.command("show")
@click.argument("digest")
@home_option
@json_option
def show_adapter(home: Home, digest: str, as_json: bool) -> None:
    """Show an adapter, how it was trained, and where it is used; DIGEST may be abbreviated."""
    found = show(home, "adapter", digest)
    write_json(found) if as_json else write_record(found)


@adapters.command("import")
@click.argument("source", metavar="REPOSITORY|FOLDER")
@click.option(
    "--subfolder",
    "subfolders",
    metavar="NAME",
    multiple=True,
    help="A folder of it with an adapter; may be given many times. Default: its root, or else all folders in it.",
)
@click.option(
    "--base-model",
    metavar="REF",
    show_default="the home's, which the adapters must name",
    help="The model that the adapters were trained for: a Hub id, a folder or a .gguf file.",
)
@home_option
@json_option
def import_command(home: Home, source: str, subfolders: tuple[str, ...], base_model: str | None, as_json: bool) -> None:
    """Import LoRA adapters that PEFT wrote, of a repository on the Hub (NAMESPACE/NAME@REVISION) or of a folder.

    They become adapters of a document that nobody knows: of no corpus, to be used by their digests with `pragreg
    export`, `pragreg merge` and `pragreg push --format peft`. Only adapter_config.json and adapter_model.safetensors
    are read, and what they hold besides plain LoRA on the base model's linear modules is refused.
    """
    from registry.pipeline.import_adapters import ImportRequest, import_adapters

    with progress_bars() as progress:
        imported = import_adapters(home, ImportRequest(source, subfolders, base_model), progress)
    columns = ("digest", "title", "rank", "alpha", "targets", "size_bytes", "is_new")
    write_records(imported, columns, as_json=as_json)


@adapters.command("forget")
@click.argument("digests", nargs=-1, required=True, metavar="ADAPTER...")
@home_option
@json_option
def forget(home: Home, digests: tuple[str, ...], as_json: bool) -> None:
    """Let go of imported adapters: `pragreg gc` then frees what no version has; an ADAPTER may be abbreviated."""
    from registry.pipeline.import_adapters import forget_adapters

    for digest in forget_adapters(home, digests):
        if as_json:
            write_json({"digest": digest})
        else:
            say(f"forgot {digest}")
