"""``pragreg info``: where everything is, what is in it, and what runs it."""

from __future__ import annotations

import click

from cli.options import home_option, json_option
from cli.output import write_fields, write_json, write_line, write_records
from registry.settings import Home


@click.command(short_help="Show where everything is, and what is in it.")
@home_option
@json_option
def info(home: Home, as_json: bool) -> None:
    """Show where the registry is, what is in it, the versions of libraries, and the device."""
    from registry.pipeline.info import info as look

    found = look(home)
    if as_json:
        write_json(found)
        return
    places = ("home", "catalog_url", "schema", "packs_url", "index_path", "models_path", "base_model")
    write_fields(found, places)
    write_line()
    write_fields(found.contents)
    if found.corpora:
        write_line()
        write_records(found.corpora, ("name", "version", "documents", "digest", "created_at"), as_json=False)
    write_line()
    write_fields(found.machine)
    write_line()
    write_fields({"pragreg": found.version, **found.library_versions})
