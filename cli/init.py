"""``pragreg init``: make a registry home."""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote

import click

from cli.options import json_option
from cli.output import say, write_json, write_line
from registry.errors import PragregError
from registry.settings import (
    DEFAULT_BASE_MODEL,
    DEFAULT_HOME,
    HOME_VARIABLE,
    SETTINGS_FILE,
    Home,
    absolute_catalog,
    create_home,
)


@click.command(short_help="Make a registry home.")
@click.option(
    "--home",
    "folder",
    metavar="FOLDER",
    envvar=HOME_VARIABLE,
    show_envvar=True,
    default=DEFAULT_HOME,
    show_default=True,
    help="The folder to make the registry home in.",
)
@click.option(
    "--catalog", metavar="URL", help="Where the catalog is: sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE."
)
@click.option("--packs", metavar="URL", help="Where adapters are kept: a folder, or a URL that fsspec can open.")
@click.option(
    "--base-model",
    metavar="REF",
    help=f"The base model of new corpora: a Hub id, a folder, a .gguf file or {DEFAULT_BASE_MODEL} (the default).",
)
@json_option
def init(folder: str, catalog: str | None, packs: str | None, base_model: str | None, as_json: bool) -> None:
    """Make a registry home, and bring its catalog to this program's schema.

    In a home that exists, the settings stay as they are and nothing is lost.
    """
    path = Path(folder or DEFAULT_HOME).expanduser()
    existed = (path / SETTINGS_FILE).exists()
    home = create_home(
        path,
        catalog_url=None if catalog is None else absolute_catalog(Path.cwd(), catalog),
        packs_url=packs_place(packs),
        base_model=_base_model(base_model),
    )
    _upgrade(home, existed)
    if existed and (catalog or packs or base_model):
        say(f"this home existed, its settings were kept; change them in {home.settings_path}")
    if as_json:
        write_json({"home": home.path, "created": not existed})
        return
    write_line(f"{'the registry home is' if existed else 'made a registry home in'} {home.path}")
    if not existed:
        is_default = home.path == Path.cwd() / DEFAULT_HOME
        say("next: pragreg build SOURCE..." + ("" if is_default else f" --home {quote(str(home.path))}"))


def _upgrade(home: Home, existed: bool) -> None:
    """Bring the catalog to the newest schema; a new home whose catalog cannot be had is no home."""
    from registry.catalog.schema import upgrade

    try:
        upgrade(home.catalog_url)
    except PragregError:
        if not existed:
            home.settings_path.unlink(missing_ok=True)
        raise


def packs_place(reference: str | None) -> str | None:
    """Return where packs are to lie; a path was typed relative to the working folder, not to the home."""
    if not reference:
        return None
    if "://" not in reference:
        return str(Path(reference).expanduser().absolute())
    from registry.store.packs import PackStore

    PackStore(reference).close()  # a URL that nothing can open is refused before there is a home
    return reference


def _base_model(reference: str | None) -> str:
    """Return the base model's reference; a path is told from a Hub id by its look, or by being there."""
    if not reference:
        return DEFAULT_BASE_MODEL
    path = Path(reference).expanduser()
    is_path = path.exists() or reference.startswith((".", "~", os.sep))
    return str(path.absolute()) if is_path else reference
