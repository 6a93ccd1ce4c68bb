"""``pragreg export``: adapters as PEFT folders."""

from __future__ import annotations

from pathlib import Path

import click

from cli.options import home_option, json_option, path_option
from cli.output import write_json, write_line
from registry.settings import Home


@click.command(short_help="Write single adapters as PEFT folders.")
@click.argument("adapters", nargs=-1, required=True, metavar="ADAPTER...")
@path_option("--out", "The folder to write; several adapters get a folder each in it.", required=True)
@home_option
@json_option
def export(home: Home, adapters: tuple[str, ...], out: Path, as_json: bool) -> None:
    """Write single adapters as folders that PEFT loads; an ADAPTER is a digest or its beginning."""
    from registry.pipeline.export import export as run

    for exported in run(home, adapters, out):
        (digest,) = exported.digests
        if as_json:
            write_json({"digest": digest, "folder": exported.folder})
        else:
            write_line(str(exported.folder))
