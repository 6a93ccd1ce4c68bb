"""``pragreg db``: the schema of the catalog."""

from __future__ import annotations

import click

from cli.options import home_option, json_option
from cli.output import say, write_json, write_line, write_records
from registry.errors import HomeError
from registry.settings import Home


@click.group()
def db() -> None:
    """Look at the catalog's schema, or upgrade it."""


@db.command()
@click.argument("revision", default="head")
@home_option
def upgrade(home: Home, revision: str) -> None:
    """Bring the catalog to the newest schema, or to REVISION."""
    from registry.catalog import schema

    before = schema.current(home.catalog_url)
    schema.upgrade(home.catalog_url, revision)
    after = schema.current(home.catalog_url)
    say(f"the schema is {after}" + ("" if before == after else f", it was {before or 'not there'}"))


@db.command()
@home_option
@json_option
def current(home: Home, as_json: bool) -> None:
    """Show the schema that the catalog has, and the one that this program needs."""
    from registry.catalog import schema
    from registry.catalog.revisions import known_revisions

    found, needed = schema.current(home.catalog_url), schema.head()
    if as_json:
        write_json({"current": found, "head": needed})
        return
    write_line(found or "none")
    if found is not None and found not in known_revisions():
        say(f"this pragreg knows schemas up to {needed}: pip install --upgrade pragreg")
    elif found != needed:
        say(f"this pragreg needs {needed}: pragreg db upgrade")


@db.command()
@home_option
@json_option
def history(home: Home, as_json: bool) -> None:
    """List all schemas that this program knows, oldest first."""
    from registry.catalog import schema

    found = schema.current(home.catalog_url)
    records = [
        {"revision": step.revision, "parent": step.parent, "message": step.message, "current": step.revision == found}
        for step in schema.history()
    ]
    write_records(records, ("revision", "parent", "message", "current"), as_json=as_json)


@db.command()
@home_option
@json_option
def check(home: Home, as_json: bool) -> None:
    """Compare the catalog with the tables that this program needs; fails if they differ."""
    from registry.catalog import schema

    differences = schema.check(home.catalog_url)
    if as_json:
        write_json({"current": schema.current(home.catalog_url), "differences": differences})
    else:
        for difference in differences:
            write_line(difference)
    if differences:
        raise HomeError(
            f"the catalog differs from what this pragreg needs in {len(differences)} places",
            hint="pragreg did not make these changes: undo them in the database, or restore a backup",
        )
    if not as_json:
        say("the catalog is as this program needs it")
