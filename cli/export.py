"""``pragreg export``: adapters as PEFT folders, single or merged for vLLM."""

from __future__ import annotations

from pathlib import Path

import click

from cli.options import home_option, json_option, merge_option, path_option
from cli.output import counted, say, write_json, write_line
from cli.progress import progress_bars
from registry.errors import UsageError
from registry.merging.methods import DEFAULT_MERGE
from registry.settings import Home


@click.command(short_help="Write adapters as PEFT folders, for other engines too.")
@click.argument("what", nargs=-1, required=True, metavar="ADAPTER|NAME...")
@path_option("--out", "The folder to write; several adapters get a folder each in it.", required=True)
@click.option(
    "--vllm",
    "for_vllm",
    is_flag=True,
    help="Merge what each NAME stands for into a folder that vLLM takes, and print the command that serves them.",
)
@merge_option
@home_option
@json_option
def export(home: Home, what: tuple[str, ...], out: Path, for_vllm: bool, merge: str, as_json: bool) -> None:
    """Write single adapters as folders that PEFT loads; an ADAPTER is a digest or its beginning.

    With --vllm a NAME is an adapter too, or several to be merged: CORPUS@REF:DOCUMENT,DOCUMENT,... (digests or 4 or
    more of their digits), or the digest of a retrieval, which `pragreg search --retrieval` prints.
    """
    if for_vllm:
        _export_for_vllm(home, what, out, merge, as_json)
        return
    if merge != DEFAULT_MERGE:
        raise UsageError("--merge goes with --vllm", hint="`pragreg merge` merges adapters by PEFT's methods")
    from registry.pipeline.export import export as run

    for exported in run(home, what, out):
        (digest,) = exported.digests
        if as_json:
            write_json({"digest": digest, "folder": exported.folder})
        else:
            write_line(str(exported.folder))


def _export_for_vllm(home: Home, names: tuple[str, ...], out: Path, merge: str, as_json: bool) -> None:
    from registry.pipeline.vllm_export import export_for_vllm

    with progress_bars() as progress:
        exported = export_for_vllm(home, names, out, progress, merge=merge)
    if as_json:
        write_json({"command": exported.command, "folders": exported.folders})
        return
    for folder in exported.folders:
        say(f"{folder.folder}: {folder.name}, rank {folder.rank}")
    say(f"wrote {counted(len({folder.folder for folder in exported.folders}), 'folder')}; to serve them:")
    write_line(exported.command)
