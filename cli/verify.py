"""``pragreg verify``: is everything there, and is it what it should be?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cli.options import home_option, json_option
from cli.output import counted, plain, say, write_fields, write_json, write_line, write_table
from cli.progress import progress_bars
from registry.errors import IntegrityError
from registry.settings import Home

if TYPE_CHECKING:
    from registry.upkeep.findings import Finding
    from registry.upkeep.verify.run import VerifyReport

COLUMNS = ("kind", "subject", "detail", "versions", "size_bytes")
MOST_VERSIONS = 3


@click.command(
    short_help="Check catalog, packs and indexes; changes nothing.",
    epilog="The exit status is 0 where nothing is damaged, whatever is left over, and 7 where something is.",
)
@click.option("--deep", is_flag=True, help="Read every byte: texts, packs and indexes.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    metavar="N",
    show_default="one a core",
    help="Packs read at once.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="With --deep: pass over the packs that an interrupted run found sound and nobody touched since.",
)
@home_option
@json_option
def verify(home: Home, deep: bool, jobs: int | None, resume: bool, as_json: bool) -> None:
    """Check that all that the catalog says is there, and is what its digest says.

    Nothing is changed: `pragreg repair` mends damage, `pragreg gc` removes leftovers. Without --deep the rows of the
    catalog, the headers of the packs and the descriptions of the indexes are compared with each other.
    """
    from registry.catalog.engine import open_catalog
    from registry.store.packs import PackStore
    from registry.upkeep.verify.run import VerifyRequest
    from registry.upkeep.verify.run import verify as run

    packs = PackStore(home.packs_url)
    with open_catalog(home.catalog_url) as catalog, progress_bars() as progress:
        report = run(home, catalog, packs, VerifyRequest(deep=deep, jobs=jobs, resume=resume), progress)
    packs.close()
    _write_json(report) if as_json else _write(report)
    if not report.is_sound:
        kinds = ", ".join(dict.fromkeys(finding.kind for finding in report.damage))
        raise IntegrityError(f"{counted(len(report.damage), 'fault')} found: {kinds}", hint="pragreg repair")


def finding_record(finding: Finding) -> dict[str, Any]:
    """Return a finding as it stands in JSON."""
    return {"severity": finding.severity, **plain(finding)}


def write_findings(findings: tuple[Finding, ...], title: str) -> None:
    """Write a table of findings under a title; nothing if there are none."""
    if not findings:
        return
    write_line(f"{title}: {len(findings)}")
    rows = [
        (finding.kind, finding.subject, finding.detail, _versions(finding), finding.size_bytes or None)
        for finding in findings
    ]
    write_table(rows, COLUMNS)
    write_line()


def _write(report: VerifyReport) -> None:
    write_findings(report.damage, "damage")
    write_findings(report.leftovers, "leftovers")
    for note in report.notes:
        say(f"not checked: {note}")
    write_fields(_summary(report))


def _write_json(report: VerifyReport) -> None:
    for finding in report.findings:
        write_json(finding_record(finding))
    write_json(_summary(report) | {"is_sound": report.is_sound, "notes": report.notes})


def _summary(report: VerifyReport) -> dict[str, Any]:
    rate = report.bytes_read / report.pack_seconds / 1e6 if report.bytes_read else None
    return {
        "damage": len(report.damage),
        "leftovers": len(report.leftovers),
        **plain(report.counts),
        "read_bytes": report.bytes_read,
        "elapsed_seconds": report.elapsed_seconds,
        "megabytes_per_second": rate,
    }


def _versions(finding: Finding) -> str | None:
    more = len(finding.versions) - MOST_VERSIONS
    return ", ".join(finding.versions[-MOST_VERSIONS:]) + (f" and {more} more" if more > 0 else "") or None
