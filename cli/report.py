"""``pragreg report``: named questions to the catalog, one ``.sql`` file each."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import click

from cli.options import complete_corpus, home_option, json_option, path_option
from cli.output import say, write_records
from cli.rows import chosen_style, format_options, partial_file, write_rows
from registry.errors import UsageError
from registry.reports.definitions import Parameter, Report, read_report, report_names
from registry.settings import Home


class ReportGroup(click.Group):
    """A group with a command for each report, made of what the head of its file says."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the reports."""
        return report_names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Make the command of a report; None if there is none of that name."""
        return _command(read_report(cmd_name)) if cmd_name in report_names() else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of a report, or say which are near."""
        name = args[0]
        if name not in report_names() and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, report_names())
            meant = f"; did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(report_names())}"
            ctx.fail(f"there is no report {name!r}{meant}")
        return super().resolve_command(ctx, args)


@click.group(short_help="Answer a named question about the registry.", cls=ReportGroup, invoke_without_command=True)
@json_option
@click.pass_context
def report(context: click.Context, as_json: bool) -> None:
    """Answer a named question about the registry; without a name, list them.

    Each is one file of SQL, in the folder registry/reports; `pragreg report NAME --help` tells its columns.
    """
    if context.invoked_subcommand is None:
        found = [{"name": name, "title": read_report(name).title} for name in report_names()]
        write_records(found, ("name", "title"), as_json=as_json)


def _command(found: Report) -> click.Command:
    columns = "\n".join(f"  {column.name} ({column.kind}): {column.meaning}" for column in found.columns)

    def run(home: Home, style: str | None, as_json: bool, out: Path | None, **options: Any) -> None:
        chart: Path | None = options.pop("chart", None)
        _run(home, found, options, chosen_style(style, as_json, out), out, chart)

    command: Any = run
    if found.chart is not None:
        command = path_option("--chart", "Draw the rows too, into this .png or .svg file.")(command)
    for decorate in (home_option, format_options, *map(_option, reversed(found.parameters))):
        command = decorate(command)
    made = click.command(found.name, help=f"{found.title}.\n\n{found.about}\n\n\b\nColumns:\n{columns}")(command)
    made.short_help = found.title
    assert isinstance(made, click.Command)
    return made


def _option(parameter: Parameter) -> Any:
    kind: Any = click.Choice(parameter.choices) if parameter.choices else None
    if parameter.kind == "integer":
        kind = click.IntRange(min=0)
    help_text = f"{parameter.meaning[0].upper()}{parameter.meaning[1:]}."
    return click.option(
        f"--{parameter.name}",
        type=kind,
        metavar=None if parameter.choices else "N" if parameter.kind == "integer" else "TEXT",
        default=parameter.default,
        show_default=parameter.default is not None,
        required=parameter.required,
        shell_complete=complete_corpus if parameter.name == "corpus" else None,
        help=help_text,
    )


def _run(home: Home, found: Report, given: dict[str, Any], style: str, out: Path | None, chart: Path | None) -> None:
    from registry.reports.charts import CHART_FORMATS, draw
    from registry.reports.running import run_report

    if chart is not None and chart.suffix.removeprefix(".") not in CHART_FORMATS:
        raise UsageError(f"a chart is a .png or .svg file, not {chart}", hint=f"--chart {chart.with_suffix('.png')}")
    names = [column.name for column in found.columns]
    with run_report(home.catalog_url, found, given) as rows:
        shown = rows if chart is None else list(rows)
        write_rows(names, shown, style, out, found.columns)
    if chart is not None:
        picture = draw(found, list(shown), chart.suffix.removeprefix("."))
        with partial_file(chart) as partial:
            partial.write_bytes(picture)
    if rows.more:
        say("there are more rows; see --limit")
