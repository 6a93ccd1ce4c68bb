"""``pragreg gc``: free what nothing needs any more."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from cli.options import complete_corpus, home_option, json_option
from cli.output import plain, say, size_text, write_json, write_line, write_table
from cli.progress import progress_bars
from registry.errors import UsageError
from registry.settings import Home

if TYPE_CHECKING:
    from registry.upkeep.gc.collection import CollectReport

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
MOST_SECONDS = 100 * 365 * 86_400


def parse_span(text: str) -> float:
    """Return the seconds that ``text`` names: "24h", "30m", "7d", "2w", "90s" or "0".

    Raises:
        UsageError: it names no span of time, or one of more than a hundred years.
    """
    given = text.strip().lower()
    found = _SPAN.fullmatch(given)
    if not found and given != "0":
        raise UsageError(f"--grace is no span of time: {text!r}", hint="write it as 24h, 30m, 7d or 0")
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if seconds > MOST_SECONDS:
        raise UsageError(f"--grace is too long: {text!r}", hint="give at most a hundred years: 36500d")
    return seconds


def parse_moment(text: str) -> datetime:
    """Return the moment that ``text`` names in ISO 8601; where it has no zone, in this machine's.

    Raises:
        UsageError: it names none.
    """
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError):
        raise UsageError(
            f"--keep-since is no date: {text!r}", hint="write it as 2026-03-01 or 2026-03-01T12:00"
        ) from None


@click.command(short_help="Free the bytes of what nothing needs any more.")
@click.option("--yes", is_flag=True, help="Do it. Without, it is only shown what would go.")
@click.option(
    "--keep-last", type=click.IntRange(1, 2**31 - 1), metavar="N", help="Of each corpus keep the newest N versions."
)
@click.option(
    "--keep-since", metavar="DATE", help="Keep versions made since then, such as 2026-03-01 or 2026-03-01T12:00."
)
@click.option(
    "--grace",
    metavar="SPAN",
    default="24h",
    show_default=True,
    help="What is younger stays, as do versions that an alias named so lately: 24h, 30m, 7d, or 0.",
)
@click.option(
    "--corpus",
    "corpora",
    metavar="NAME",
    multiple=True,
    shell_complete=complete_corpus,
    help="Keep all versions of other corpora. Can be given several times.",
)
@home_option
@json_option
def gc(
    home: Home,
    yes: bool,
    keep_last: int | None,
    keep_since: str | None,
    grace: str,
    corpora: tuple[str, ...],
    as_json: bool,
) -> None:
    """Free the bytes of what nothing needs any more; without --yes only show what would go.

    All versions are kept unless --keep-last or --keep-since is given; with both, what either keeps. The newest version
    of a corpus is always kept, and those that have an alias or a pin, had an alias within the grace period, or are
    being read. So is what a running build may use.

    A version that adapters are taken from is marked as collected: it can be shown and compared, but not queried any
    more. One that loses nothing, because versions that are kept have all its adapters too, or because too little of a
    pack would go, is not marked and can still be queried.

    Packs without a living adapter are deleted, and those of which more than a quarter is dead are written anew. Also
    deleted: packs that the catalog does not know, what killed processes left, and indexes of collected versions. What
    lies in quarantine is never touched.
    """
    from registry.pipeline.opened import opened
    from registry.upkeep.gc.collect import collect
    from registry.upkeep.gc.collection import CollectRequest

    since = None if keep_since is None else parse_moment(keep_since)
    request = CollectRequest(keep_last, since, parse_span(grace), corpora, yes)
    with opened(home) as registry, progress_bars() as progress:
        report = collect(home, registry.catalog, registry.packs, request, progress)
    if as_json:
        values = {field.name: plain(getattr(report, field.name)) for field in fields(report)}
        write_json(values | {"size_bytes": report.size_bytes})
    else:
        _write(report, show_versions=keep_last is not None or since is not None)
    for note in report.notes:
        say(note)
    if report.done:
        say(f"freed {size_text(report.size_bytes)}")
        return
    if not any(item.count for item in report.freed):
        say("there is nothing to free")
        return
    again = ["pragreg", "gc", *(f"--corpus={name}" for name in corpora)]
    given = {"--keep-last": keep_last, "--keep-since": keep_since, "--grace": None if grace == "24h" else grace}
    for option, value in given.items():
        again += [option, str(value)] if value is not None else []
    say(f"nothing was deleted; to free {size_text(report.size_bytes)}: {shlex.join([*again, '--yes'])}")


def _write(report: CollectReport, *, show_versions: bool) -> None:
    rows: list[tuple[Any, ...]] = [(item.kind, item.count, item.size_bytes) for item in report.freed]
    write_table(
        [*rows, ("total", None, report.size_bytes)], ("freed" if report.done else "to_free", "count", "size_bytes")
    )
    if report.young:
        say(f"{report.young} more files stay because of the grace period")
    if report.resting_bytes:
        resting = size_text(report.resting_bytes)
        say(f"{resting} of adapters that nothing needs stay: they are less than a quarter of their packs")
    if show_versions:
        write_line()
        fate = "collected" if report.done else "to be collected"
        lines = [(version, fate, "") for version in report.collected]
        lines += [
            (version, "not needed", "nothing of it goes: its adapters are in use, or in packs that stay")
            for version in report.spared
        ]
        lines += [(item.version, "kept", ", ".join(item.reasons)) for item in report.kept]
        write_table(lines, ("version", "fate", "why"))
