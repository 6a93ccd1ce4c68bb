"""The picture of a report, as its head says; matplotlib is imported when it draws, and pyplot never."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from registry.digests import short
from registry.errors import UsageError
from registry.reports.definitions import Chart, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

CHART_FORMATS = ("png", "svg")

# The colours of Okabe and Ito, which people with any colour vision tell apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#f0e442")
_MOST_BARS = 40
_LONGEST_LABEL = 40
_WIDTH_INCHES = 8.0
_PNG_DPI = 150

Row = Sequence[Any]


def draw(report: Report, rows: Sequence[Row], style: str) -> bytes:
    """Return the picture of ``rows`` as ``png`` or ``svg``.

    Raises:
        UsageError: the report has no natural picture, or there are no rows.
    """
    if report.chart is None:
        raise UsageError(f"the report {report.name} has no chart", hint=f"pragreg report {report.name} --format csv")
    if not rows:
        raise UsageError(f"the report {report.name} has no rows to draw")
    bars = min(len(rows), _MOST_BARS) if report.chart.kind == "bar" else 0
    with _drawing():
        from matplotlib.figure import Figure

        drawing = Figure(figsize=(_WIDTH_INCHES, max(4.5, 1.5 + 0.3 * bars)), layout="constrained")
        axes = drawing.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        paint = {"bar": _bars, "line": _lines, "histogram": _histogram}[report.chart.kind]
        paint(axes, report.chart, [column.name for column in report.columns], rows)
        shown = f"\nthe first {bars} of {len(rows)}" if bars and bars < len(rows) else ""
        drawing.suptitle(report.title + shown, fontsize="medium", parse_math=False)
        picture = io.BytesIO()
        options = {"dpi": _PNG_DPI} if style == "png" else {"metadata": {"Date": None}}
        drawing.savefig(picture, format=style, **options)
        return picture.getvalue()


@contextmanager
def _drawing() -> Iterator[None]:
    """Draw as matplotlib does by itself, whatever a user's matplotlibrc says."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = "pragreg"
        matplotlib.rcParams["svg.fonttype"] = "none"
        yield


def _bars(axes: Axes, chart: Chart, names: Sequence[str], rows: Sequence[Row]) -> None:
    """Draw a bar a row, from the top; several columns are stacked, with a colour each."""
    shown = rows[:_MOST_BARS]
    labels = [_label(row[names.index(chart.x[0])]) for row in shown]
    series = _series(chart, names, shown)
    known = list(dict.fromkeys(series))
    ends = [0.0] * len(shown)
    for number, column in enumerate(chart.y):
        lengths = [float(row[names.index(column)] or 0.0) for row in shown]
        for own in known:
            places = [place for place, name in enumerate(series) if name == own]
            colour = _COLOURS[(number if len(chart.y) > 1 else known.index(own)) % len(_COLOURS)]
            label = _words(column) if len(chart.y) > 1 else own
            widths, lefts = [lengths[place] for place in places], [ends[place] for place in places]
            axes.barh(places, widths, left=lefts, height=0.8, color=colour, label=label)
        ends = [end + length for end, length in zip(ends, lengths, strict=True)]
    axes.set_yticks(range(len(shown)), labels, parse_math=False, fontsize="small")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    axes.set_ylabel(_words(chart.x[0]))
    _measure(axes.xaxis, chart.y)
    if len(chart.y) > 1 or len(known) > 1:
        _legend(axes)


def _lines(axes: Axes, chart: Chart, names: Sequence[str], rows: Sequence[Row]) -> None:
    """Draw a line for each series, with its points."""
    series = _series(chart, names, rows)
    x, y = names.index(chart.x[0]), names.index(chart.y[0])
    for number, own in enumerate(dict.fromkeys(series)):
        points = sorted((row[x], row[y]) for row, name in zip(rows, series, strict=True) if name == own)
        axes.plot(*zip(*points, strict=True), marker="os^Dv"[number % 5], color=_COLOURS[number % 8], label=own)
    if all(isinstance(row[x], int) for row in rows):
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.set_xlabel(_words(chart.x[0]))
    _measure(axes.yaxis, chart.y)
    _legend(axes)


def _histogram(axes: Axes, chart: Chart, names: Sequence[str], rows: Sequence[Row]) -> None:
    """Draw the outline of each series over the edges of its parts; a part without a row is empty."""
    series = _series(chart, names, rows)
    begin, end, y = names.index(chart.x[0]), names.index(chart.x[1]), names.index(chart.y[0])
    for number, own in enumerate(dict.fromkeys(series)):
        parts = sorted((row[begin], row[end], row[y]) for row, name in zip(rows, series, strict=True) if name == own)
        edges, heights = [parts[0][0]], []
        for start, stop, height in parts:
            # Edges are computed, so they meet only nearly.
            if start - edges[-1] > (stop - start) / 2:
                edges.append(start)
                heights.append(0.0)
            edges.append(stop)
            heights.append(height)
        colour = _COLOURS[number % len(_COLOURS)]
        axes.stairs(heights, edges, fill=True, color=colour, alpha=0.1)
        axes.stairs(heights, edges, color=colour, linewidth=1.5, label=own)
    if chart.log:
        from matplotlib.ticker import FuncFormatter

        axes.set_xscale("log")
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_major_formatter(plain)
        axes.xaxis.set_minor_formatter(plain)
        axes.tick_params(axis="x", which="minor", labelsize="small")
    axes.grid(alpha=0.3)
    _measure(axes.xaxis, (chart.x[0].removeprefix("from_"),), formatted=not chart.log)
    _measure(axes.yaxis, chart.y)
    _legend(axes)


def _series(chart: Chart, names: Sequence[str], rows: Sequence[Row]) -> list[str]:
    return [", ".join(_label(row[names.index(column)]) for column in chart.series) for row in rows]


def _measure(axis: Axis, columns: Sequence[str], *, formatted: bool = True) -> None:
    """Say what an axis measures: the name of its column, with the unit that the name ends in."""
    from matplotlib.ticker import EngFormatter

    name = columns[0] if len(columns) == 1 else f"_{columns[0].rsplit('_', 1)[-1]}"
    for ending, unit in (("_bytes", "B"), ("_seconds", "s"), ("_ms", "ms"), ("seconds", "s"), ("loss", "nats a token")):
        if name.endswith(ending):
            if unit == "B" and formatted:
                axis.set_major_formatter(EngFormatter("B"))
            what = "loss" if ending == "loss" else _words(name.removesuffix(ending)) or "time"
            axis.set_label_text(what if unit == "B" and formatted else f"{what} ({unit})")
            return
    axis.set_label_text(_words(name) if len(columns) == 1 else "")


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        axes.figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)


def _words(name: str) -> str:
    for ending in ("_digest", "_ms"):
        name = name.removesuffix(ending)
    return name.replace("_", " ").strip()


def _label(value: Any) -> str:
    text = " ".join(str(value).split())
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return short(text)
    return text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…"
