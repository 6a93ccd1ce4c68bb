"""``pragreg repair``: mend what ``pragreg verify`` finds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import home_option, json_option
from cli.output import plain, say, write_fields, write_json, write_line, write_table
from cli.progress import progress_bars
from cli.verify import finding_record
from registry.digests import short
from registry.errors import IntegrityError
from registry.settings import Home

if TYPE_CHECKING:
    from registry.pipeline.repair.run import RepairReport

COLUMNS = ("result", "kind", "subject", "what was done")


@click.command(
    short_help="Mend what is damaged; nothing but what is derived is deleted.",
    epilog="The exit status is 0 where nothing is damaged afterwards, whatever is left over, and 7 where something is.",
)
@click.option("--dry-run", is_flag=True, help="Only say what is damaged and what would be done about it.")
@click.option(
    "--from",
    "backup",
    metavar="BACKUP",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The folder of a backup to take from what is nowhere else.",
)
@home_option
@json_option
def repair(home: Home, dry_run: bool, backup: Path | None, as_json: bool) -> None:
    """Verify the whole registry, mend every fault by what can mend it, and verify it again.

    Damaged packs are replaced by new ones with what is sound in them. Adapters that are lost are copied from other
    packs, from quarantine or from a backup, or else encoded again from their document, augmentation and recipe; a
    digest proves that they are the same. Indexes, tables and counters are derived again. Damaged files are moved to
    quarantine, in the packs' folder. Leftovers are not touched: they are for `pragreg gc`.
    """
    from registry.pipeline.repair.run import RepairRequest
    from registry.pipeline.repair.run import repair as run

    with progress_bars() as progress:
        report = run(home, RepairRequest(dry_run=dry_run, backup=backup), progress)
    _write_json(report) if as_json else _write(report)
    if not report.is_whole:
        what = f"{report.damage} fault{'' if report.damage == 1 else 's'} of the registry"
        if dry_run:
            raise IntegrityError(f"{what} found, and nothing done: this was a dry run", hint="pragreg repair")
        raise IntegrityError(f"{what} could not be mended", hint=_hint(report))


def _hint(report: RepairReport) -> str:
    hints = (one.hint for one in report.outcomes if one.result == "not mended" and one.hint)
    return next(hints, "pragreg verify --deep shows what is left")


def _write(report: RepairReport) -> None:
    rows = [(one.result, one.finding.kind, one.finding.subject, one.text) for one in report.outcomes]
    if rows:
        write_table(rows, COLUMNS)
        write_line()
    for one in report.outcomes:
        if one.result == "not mended":
            versions = f" (touches {', '.join(one.finding.versions)})" if one.finding.versions else ""
            say(f"not mended: {one.finding.kind} {_name(one.finding.subject)}{versions}; try: {one.hint}")
    for old, new in report.instead:
        say(f"the adapter {short(old)} could not be had again; builds take {short(new)} instead from now on")
    write_fields(_summary(report))


def _write_json(report: RepairReport) -> None:
    for one in report.outcomes:
        record = {"result": one.result, "text": one.text, "hint": one.hint}
        write_json(record | {"finding": finding_record(one.finding)})
    write_json(_summary(report) | {"is_whole": report.is_whole, "instead": plain(report.instead)})


def _summary(report: RepairReport) -> dict[str, Any]:
    results = [one.result for one in report.outcomes]
    return {
        "mended": results.count("mended"),
        "left": results.count("left"),
        "planned": results.count("planned"),
        "not_mended": results.count("not mended"),
        "damage": report.damage,
        "elapsed_seconds": report.elapsed_seconds,
    }


def _name(subject: str) -> str:
    return short(subject) if len(subject) == 64 else subject
