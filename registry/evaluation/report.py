"""The report of an evaluation: a page for people, and its figures as lines of JSON.

The page is GitHub's Markdown: what way of answering came to what, how sure that is, and what it took.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from registry.digests import short
from registry.evaluation.intervals import Estimate
from registry.evaluation.latency import TOTAL, Latency
from registry.evaluation.paired import Comparison
from registry.evaluation.results import Evaluation, Settings, Way, WayComparison
from registry.records import CONTROLS

KNOWLEDGE_MODE = "prag"
CONTROL_MODES = ("closed-book", *CONTROLS)
"""What a document's adapter must be better than to have brought the document's knowledge."""

_MEASURES = ("f1", "contains")
_NOTHING = "–"
_SPECIAL = re.compile(r"([\\`*<\[|])")


def markdown(evaluation: Evaluation) -> str:
    """Return the page; a part that the evaluation has nothing for is left out."""
    named = labels(result.way for result in evaluation.results)
    parts = [
        _heading(evaluation.settings),
        _ways(evaluation),
        _knowledge(evaluation, named),
        _retrieval(evaluation),
        _types(evaluation, named),
        _comparisons(evaluation, named),
        _latencies(evaluation, named),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def results_lines(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return plain values: the retrieval if any, every result, every comparison; ``kind`` says which a line is."""
    retrieval = {name: asdict(estimate) for name, estimate in evaluation.retrieval.items()}
    lines: list[dict[str, Any]] = [{"kind": "retrieval", "measures": retrieval}] if retrieval else []
    for result in evaluation.results:
        values = asdict(result)
        lines.append({"kind": "result", **values.pop("way"), **values})
    lines += [{"kind": "comparison", **asdict(comparison)} for comparison in evaluation.comparisons]
    return lines


def labels(ways: Iterable[Way]) -> dict[Way, str]:
    """Return each way's label, with its merge where another way differs in nothing else."""
    distinct = list(dict.fromkeys(ways))
    known = [way.label for way in distinct]
    return {way: f"{way.label}, {way.merge}" if known.count(way.label) > 1 else way.label for way in distinct}


def figure(value: float) -> str:
    """Return a share, or a difference of shares, with three decimals and no 0 before the point: .123, -.045, 1.000."""
    text = f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"
    return ".000" if text == "-.000" else text


def amount(value: float) -> str:
    """Return what is not negative and of any size with three digits: .123, 1.23, 12.3, 1,234."""
    decimals = next((count for count, end in ((3, 1), (2, 10), (1, 100)) if round(value, count) < end), 0)
    text = f"{value:,.{decimals}f}"
    return text.removeprefix("0") if decimals else text


def interval(estimate: Estimate) -> str:
    """Return a share with its interval: .123 (.101 to .145)."""
    return f"{figure(estimate.mean)} ({figure(estimate.low)} to {figure(estimate.high)})"


def p_value(value: float) -> str:
    """Return a p-value with three decimals, or that it is less."""
    return figure(value) if value >= 0.001 else "< .001"


def ratio(estimate: Estimate | None) -> str:
    """Return a ratio with its interval, or a dash where it has no end."""
    if estimate is None:
        return _NOTHING
    return f"{amount(estimate.mean)} ({amount(estimate.low)} to {amount(estimate.high)})"


def compared(comparison: Comparison) -> tuple[str, str, str]:
    """Return the cells of a comparison: difference, ratio, p."""
    return interval(comparison.difference), ratio(comparison.ratio), p_value(comparison.p_value)


def escaped(text: str) -> str:
    """Return text that stands in a page as it is: one line, no control characters, what Markdown acts on escaped."""
    visible = "".join(" " if unicodedata.category(one).startswith("C") else one for one in text)
    return _SPECIAL.sub(r"\\\1", " ".join(visible.split()))


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; the cells are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def count(number: int, noun: str) -> str:
    """Return a number of things: 1 question, 2 questions."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _heading(settings: Settings) -> str:
    drawn = f"drawn by chance, seed {settings.seed}" if settings.sample is not None else "all of the file"
    documents = "gold (each question's own)" if settings.gold else "retrieved by the index"
    facts = [
        ("Version", f"{escaped(settings.version)} (sha256 {short(settings.version_digest)})"),
        ("Recipe", f"sha256 {short(settings.recipe_digest)}"),
        ("Questions", f"{escaped(settings.questions_name)} (sha256 {short(settings.questions_digest)})"),
        ("Asked", f"{count(settings.questions, 'question')}, {drawn}"),
        ("Documents", documents),
        (
            "Answers",
            f"at most {count(settings.max_new_tokens, 'token')}, {escaped(settings.dtype)}, {escaped(settings.device)}",
        ),
    ]
    title = f"# {escaped(settings.questions_name)} on {escaped(settings.version)}"
    return title + "\n\n" + "\n".join(f"- {name}: {value}" for name, value in facts)


def _ways(evaluation: Evaluation) -> str:
    header = ["mode", "k", "merge", "EM", "F1", "precision", "recall", "contains"]
    header += ["seconds a question", "seconds, p95", "prompt tokens"]
    rows = [
        (
            result.way.mode,
            result.way.k or _NOTHING,
            escaped(result.way.merge) or _NOTHING,
            figure(result.scores["exact_match"].mean),
            interval(result.scores["f1"]),
            figure(result.scores["precision"].mean),
            figure(result.scores["recall"].mean),
            interval(result.scores["contains"]),
            amount(result.latencies[TOTAL].mean_ms / 1000),
            amount(result.latencies[TOTAL].p95_ms / 1000),
            f"{result.prompt_tokens:,.0f}",
        )
        for result in evaluation.overall
    ]
    if not rows:
        return ""
    note = (
        "EM, F1, precision and recall judge the answer up to the first full stop, comma or line end; *contains* says\n"
        "whether a right answer stands anywhere in it. Each is a mean from 0 to 1, in brackets its 95 % interval."
    )
    return f"## Ways of answering\n\n{table(header, rows)}\n\n{note}"


def _knowledge(evaluation: Evaluation, named: dict[Way, str]) -> str:
    ways = [result.way for result in evaluation.overall if result.way.mode == KNOWLEDGE_MODE]
    sentences = [f"- {_counts_as_knowledge(way, evaluation.comparisons, named)}" for way in ways]
    if not sentences:
        return ""
    rule = (
        "An adapter counts as its document's knowledge only where F1 lies above that of every control, the whole\n"
        "interval of the difference over the same questions above 0."
    )
    return "## Is it knowledge?\n\n" + rule + "\n\n" + "\n".join(sentences)


def _counts_as_knowledge(way: Way, comparisons: Iterable[WayComparison], named: dict[Way, str]) -> str:
    against = _over_controls(way, comparisons)
    missing = [mode for mode in CONTROL_MODES if mode not in {control.mode for control in against}]
    lacking = f" Not measured here: {', '.join(missing)}." if missing else ""
    if not against:
        return f"**{escaped(named[way])}**: cannot be told, for no control was measured beside it.{lacking}"
    figures = "; ".join(f"over {escaped(named[control])} {interval(over)}" for control, over in against.items())
    failed = [escaped(named[control]) for control, over in against.items() if over.low <= 0]
    verdict = f"does not count as knowledge, because of {', '.join(failed)}" if failed else "counts as knowledge"
    return f"**{escaped(named[way])}** {verdict}: F1 {figures}.{lacking}"


def _over_controls(way: Way, comparisons: Iterable[WayComparison]) -> dict[Way, Estimate]:
    """Return by how much a way's F1 lies above that of each control: of the same documents and merge, or of none."""
    found: dict[Way, Estimate] = {}
    for comparison in comparisons:
        over = comparison.measures["f1"].difference
        control = comparison.second
        if comparison.second == way:
            control, over = comparison.first, replace(over, mean=-over.mean, low=-over.high, high=-over.low)
        elif comparison.first != way:
            continue
        if control.mode in CONTROL_MODES and control.k in (0, way.k) and control.merge in ("", way.merge):
            found[control] = over
    return dict(sorted(found.items(), key=lambda one: CONTROL_MODES.index(one[0].mode)))


def _retrieval(evaluation: Evaluation) -> str:
    measures = evaluation.retrieval
    if not measures:
        return ""
    rows = [(_retrieval_name(name), interval(estimate)) for name, estimate in measures.items()]
    asked = count(max(estimate.count for estimate in measures.values()), "question")
    return f"## Retrieval\n\n{asked} whose documents are known.\n\n{table(('measure', 'mean'), rows)}"


def _retrieval_name(measure: str) -> str:
    return escaped(measure.replace("ndcg@", "nDCG@"))


def _types(evaluation: Evaluation, named: dict[Way, str]) -> str:
    typed = sorted((one for one in evaluation.results if one.question_type), key=lambda one: one.question_type)
    if not typed:
        return ""
    rows = [
        (
            escaped(result.question_type),
            f"{result.questions:,}",
            escaped(named[result.way]),
            *(interval(result.scores[measure]) for measure in _MEASURES),
        )
        for result in typed
    ]
    return "## By type of question\n\n" + table(("type", "questions", "way", "F1", "contains"), rows)


def _comparisons(evaluation: Evaluation, named: dict[Way, str]) -> str:
    if not evaluation.comparisons:
        return ""
    header = ["first", "second", "questions"]
    header += [f"{name}{column}" for name in ("F1 ", "contains ") for column in ("difference", "ratio", "p")]
    rows = [
        (
            escaped(named[comparison.first]),
            escaped(named[comparison.second]),
            f"{comparison.measures['f1'].difference.count:,}",
            *(cell for measure in _MEASURES for cell in compared(comparison.measures[measure])),
        )
        for comparison in evaluation.comparisons
    ]
    note = (
        "First minus second and first over second, on the questions that both answered; p is of the paired\n"
        "randomisation test. A dash: the second has too little to divide by."
    )
    return f"## Paired comparisons\n\n{table(header, rows)}\n\n{note}"


def _latencies(evaluation: Evaluation, named: dict[Way, str]) -> str:
    results = evaluation.overall
    if not results:
        return ""
    steps = dict.fromkeys(step for result in results for step in result.latencies if step != TOTAL)
    header = ("way", *map(escaped, steps), TOTAL)
    rows = [
        (escaped(named[result.way]), *(_latency(result.latencies.get(step)) for step in (*steps, TOTAL)))
        for result in results
    ]
    return f"## Latency\n\nMilliseconds a question: mean / 95th percentile.\n\n{table(header, rows)}"


def _latency(latency: Latency | None) -> str:
    return f"{amount(latency.mean_ms)} / {amount(latency.p95_ms)}" if latency else _NOTHING
