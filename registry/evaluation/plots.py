"""Pictures of an evaluation, each as PNG and as SVG: how right the ways of answering are, and what they take.

Nothing here touches pyplot, so it needs no display and leaves no state behind; matplotlib is imported when it draws.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

from registry.evaluation.intervals import Estimate
from registry.evaluation.latency import TOTAL
from registry.evaluation.report import count, figure, labels
from registry.evaluation.results import Evaluation, Settings, Way, WayResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The colours of Okabe and Ito, which people with any colour vision tell apart, with a grey for the plain model.
MODE_COLOURS = {
    "closed-book": "#7f7f7f",
    "rag": "#0072b2",
    "prag": "#d55e00",
    "combined": "#009e73",
    "wrong-document": "#56b4e9",
    "task-only": "#e69f00",
}
_OTHER_COLOUR = "#cc79a7"

_K_MARKERS = "osD^vP"
_WIDTH_INCHES = 8.0
_PNG_DPI = 150
_LONGEST_NAME = 60


def f1_by_mode(evaluation: Evaluation) -> dict[str, bytes]:
    """Return a bar for every way, grouped by mode, as ``png`` and ``svg``; empty where there are no answers."""
    results = _grouped(evaluation)
    if not results:
        return {}
    named = labels(result.way for result in results)
    places = _places(results)
    with _drawing():
        drawing, axes = _axes(evaluation.settings, "F1 by mode", height_inches=1.5 + 0.36 * (places[-1] + 1))
        for place, result in zip(places, results, strict=True):
            f1, colour = result.scores["f1"], _colour(result.way)
            axes.barh(place, f1.mean, height=0.8, color=colour)
            axes.errorbar(f1.mean, place, xerr=_bars(f1), fmt="none", ecolor="black", elinewidth=1, capsize=3)
            axes.annotate(
                figure(f1.mean),
                (max(f1.high, f1.mean), place),
                xytext=(6, 0),
                textcoords="offset points",
                verticalalignment="center",
            )
        axes.set_yticks(places, [named[result.way] for result in results], parse_math=False)
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.set_xlim(0, _top(results))
        axes.set_xlabel("F1, with its 95 % interval")
        axes.grid(axis="x", alpha=0.3)
        return _written(drawing)


def f1_against_latency(evaluation: Evaluation) -> dict[str, bytes]:
    """Return a point for every way, F1 over seconds a question, as ``png`` and ``svg``; empty without answers.

    The points of a mode are joined in the order of k.
    """
    results = _grouped(evaluation)
    if not results:
        return {}
    named = labels(result.way for result in results)
    numbers = sorted({result.way.k for result in results if result.way.k})
    with _drawing():
        drawing, axes = _axes(evaluation.settings, "F1 and time", height_inches=max(5.0, 1.0 + 0.22 * len(results)))
        for mode in dict.fromkeys(result.way.mode for result in results):
            own = [result for result in results if result.way.mode == mode]
            line = [_seconds(result) for result in own], [result.scores["f1"].mean for result in own]
            axes.plot(*line, color=_colour(own[0].way), linewidth=1, alpha=0.5)
        # The legend is in the order of the points, the highest first.
        for result in sorted(results, key=lambda one: -one.scores["f1"].mean):
            f1 = result.scores["f1"]
            marker = _K_MARKERS[numbers.index(result.way.k) % len(_K_MARKERS)] if result.way.k else "X"
            place, colour = (_seconds(result), f1.mean), _colour(result.way)
            axes.errorbar(*place, yerr=_bars(f1), fmt="none", ecolor=colour, elinewidth=1, capsize=3)
            axes.plot(*place, marker, color=colour, markersize=8, clip_on=False, label=named[result.way])
        axes.set_xlim(0, 1.08 * max(map(_seconds, results)) or 1.0)
        axes.set_ylim(0, _top(results))
        axes.set_xlabel("seconds a question, mean")
        axes.set_ylabel("F1, with its 95 % interval")
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False)
        return _written(drawing)


def _grouped(evaluation: Evaluation) -> list[WayResult]:
    """Return the ways' results over all questions, those of a mode together and in the order of k."""
    modes = list(dict.fromkeys(result.way.mode for result in evaluation.overall))
    return sorted(evaluation.overall, key=lambda result: (modes.index(result.way.mode), result.way))


def _places(results: Sequence[WayResult]) -> list[float]:
    """Return where the bars stand: one apart within a mode, a little more between modes."""
    places = [0.0]
    for before, result in pairwise(results):
        places.append(places[-1] + (1.0 if result.way.mode == before.way.mode else 1.4))
    return places


@contextmanager
def _drawing() -> Iterator[None]:
    """Draw as matplotlib does by itself, whatever a user's matplotlibrc says, so that the bytes are the same."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # Names in scripts that the font lacks are boxes in the PNG, and as they should be in the SVG.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = "pragreg"  # identifiers are of what is drawn, not of chance
        matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
        yield


def _axes(settings: Settings, subject: str, *, height_inches: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained")
    axes = drawing.add_subplot()
    title = f"{subject}: {_short(settings.version)}\n{count(settings.questions, 'question')}"
    drawing.suptitle(f"{title} of {_short(settings.questions_name)}", fontsize="medium", parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    return drawing, axes


def _written(drawing: Figure) -> dict[str, bytes]:
    png, svg = io.BytesIO(), io.BytesIO()
    drawing.savefig(png, format="png", dpi=_PNG_DPI)
    drawing.savefig(svg, format="svg", metadata={"Date": None})
    return {"png": png.getvalue(), "svg": svg.getvalue()}


def _colour(way: Way) -> str:
    return MODE_COLOURS.get(way.mode, _OTHER_COLOUR)


def _seconds(result: WayResult) -> float:
    return result.latencies[TOTAL].mean_ms / 1000


def _bars(estimate: Estimate) -> list[list[float]]:
    return [[max(0.0, estimate.mean - estimate.low)], [max(0.0, estimate.high - estimate.mean)]]


def _top(results: Sequence[WayResult]) -> float:
    """Return the end of the F1 axis: room beyond the largest, for its number too."""
    return 1.15 * max(result.scores["f1"].high for result in results) or 1.0


def _short(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME // 2]}…{name[-_LONGEST_NAME // 2 :]}"
