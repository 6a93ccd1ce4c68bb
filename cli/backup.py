"""``pragreg backup`` and ``pragreg restore``: everything of a registry in one folder, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from cli.init import packs_place
from cli.options import home_option, json_option
from cli.output import FULL_LIST, counted, say, size_text, write_fields, write_json
from cli.progress import progress_bars
from registry.errors import IntegrityError
from registry.settings import DEFAULT_HOME, HOME_VARIABLE, Home, absolute_catalog

if TYPE_CHECKING:
    from registry.upkeep.backup.pack_copies import PackFault


@click.command(short_help="Back the registry up into a folder.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Hash the packs that the backup has already, too.")
@click.option("--prune", is_flag=True, help="Delete packs from the backup that the registry has no more.")
@home_option
@json_option
def backup(folder: Path, check: bool, prune: bool, home: Home, as_json: bool) -> None:
    """Back up the catalog and all packs into DIR, while builds and queries go on.

    Where DIR has a backup, only packs that are new are copied, and until the end the backup is the one before. Every
    pack is hashed on its way; damaged ones are named, and never replace a sound copy. Indexes are derived, and
    pragreg.toml may hold passwords: neither is in a backup.
    """
    from registry.upkeep.backup.backup import back_up

    with progress_bars() as progress:
        done = back_up(home, folder.expanduser().absolute(), progress, check=check, prune=prune)
    if as_json:
        write_json(done)
    else:
        names = ("folder", "catalog_url", "versions", "packs", "copied", "present", "copied_bytes", "size_bytes")
        write_fields(done, (*names, *(("pruned",) if prune else ()), "elapsed_seconds"))
    _say_faults(done.faults)
    if done.faults:
        raise IntegrityError(
            f"{counted(len(done.faults), 'pack')} of the registry could not be backed up; all the rest is",
            hint="pragreg repair, then the same backup again",
        )


@click.command(short_help="Make a registry from a backup.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--home",
    "path",
    metavar="FOLDER",
    envvar=HOME_VARIABLE,
    show_envvar=True,
    default=DEFAULT_HOME,
    show_default=True,
    help="The registry home to make; one that is there must have nothing in it.",
)
@click.option("--catalog", metavar="URL", help="Where the catalog is to be; the default is an SQLite file in the home.")
@click.option("--packs", metavar="URL", help="Where the packs are to be; the default is a folder in the home.")
@json_option
def restore(folder: Path, path: str, catalog: str | None, packs: str | None, as_json: bool) -> None:
    """Make a registry home from the backup in DIR, on any kind of catalog.

    Packs come first, each checked by its hash, then the catalog, at once. After a kill the same command goes on.
    Builds that ran when the backup was made are marked as interrupted: run them again.
    """
    from registry.pipeline.restore import restore as load

    with progress_bars() as progress:
        done = load(
            folder.expanduser().absolute(),
            Path(path or DEFAULT_HOME).expanduser().absolute(),
            progress,
            catalog_url=None if catalog is None else absolute_catalog(Path.cwd(), catalog),
            packs_url=packs_place(packs),
        )
    if as_json:
        write_json(done)
    else:
        names = ("home", "catalog_url", "versions", "packs", "copied", "present", "copied_bytes", "elapsed_seconds")
        write_fields(done, names)
    _say_faults(done.faults)
    if done.faults:
        raise IntegrityError(
            f"{counted(len(done.faults), 'pack')} of the backup could not be restored; all the rest is",
            hint=f"pragreg repair --home {quote(str(done.home))}",
        )


def _say_faults(faults: Sequence[PackFault]) -> None:
    for fault in faults[:FULL_LIST]:
        say(f"pack {fault.digest}, {size_text(fault.size_bytes)}: {fault.detail}")
    if len(faults) > FULL_LIST:
        say(f"{len(faults) - FULL_LIST} packs more; --json lists all")
