"""``pragreg catalog``: move a whole catalog to another database."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import click

from cli.options import json_option, optional_home_option
from cli.output import say, write_json, write_records
from cli.progress import progress_bars
from registry.errors import HomeError, UsageError
from registry.settings import Home, absolute_catalog, switch_catalog

HOME_WORD = "home"


@click.group()
def catalog() -> None:
    """Move the catalog from one database to another."""


@catalog.command(short_help="Copy a catalog to another database.")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--switch", is_flag=True, help="Afterwards let the registry home use TO. FROM must be its catalog.")
@optional_home_option
@json_option
def copy(source: str, target: str, switch: bool, home: Home | None, as_json: bool) -> None:
    """Copy all of a catalog between SQLite and PostgreSQL, in either direction, and check it.

    FROM and TO are sqlite:///PATH, the path of an SQLite file, postgresql://USER:PASSWORD@HOST/DATABASE, or the word
    home for the catalog of the registry home. TO is made if it is new and must be empty. One state of FROM is copied,
    all of it or nothing, and every table is compared by its rows and their sha256.

    The password of a database is better kept in ~/.pgpass than typed. The packs stay where they are.
    """
    from_url, to_url = _url(source, home), _url(target, home)
    if switch and (home is None or from_url != home.catalog_url):
        raise UsageError("--switch is for the catalog of a registry home", hint="pragreg catalog copy home TO --switch")
    from registry.catalog.transfer.copying import copy_catalog
    from registry.upkeep.processes import is_alive

    with progress_bars() as progress:
        done = copy_catalog(from_url, to_url, progress, is_alive=is_alive)
    if switch and home is not None:
        home = switch_catalog(home, to_url)
    if as_json:
        write_json(done)
    else:
        write_records(done.tables, ("table", "rows", "digest", "elapsed_seconds"), as_json=False)
    rows = sum(table.rows for table in done.tables)
    say(f"copied {rows} rows of {len(done.tables)} tables from {done.source} to {done.target}; their sha256 agree")
    if switch and home is not None:
        say(f"{home.settings_path} names the new catalog now; the old one is left as it is")
    elif home is not None and from_url == home.catalog_url:
        say(f"to use it, name it in {home.settings_path}, [catalog] url; the old catalog is left as it is")


def _url(text: str, home: Home | None) -> str:
    """Return the URL of a catalog; a path was typed relative to the working folder."""
    if text == HOME_WORD:
        if home is None:
            raise HomeError("there is no registry home here or above, so `home` names no catalog", hint="pragreg init")
        return home.catalog_url
    if "://" in text or re.match(r"(postgres|postgresql|sqlite)[:+]", text):
        return absolute_catalog(Path.cwd(), text)  # a URL, or meant to be one: it may hold a password
    return f"sqlite:///{quote(str(Path(text).expanduser().absolute()))}"
