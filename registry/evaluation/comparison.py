"""Two evaluations side by side: what a way of answering gained or lost from the first to the second, and where."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from registry.digests import question_digest
from registry.errors import InputError
from registry.evaluation.folder import EvaluationFolder
from registry.evaluation.paired import Comparison, compare_scores
from registry.evaluation.report import compared, count, escaped, figure, table
from registry.evaluation.results import Judged, Settings, Way
from registry.evaluation.scores import Scores, mean_scores

F1_CHANGE = 0.25
"""So much more or less F1 makes an answer a changed one; so does containing a right answer or no longer doing so."""

DEFAULT_SHOWN = 50
_LONGEST_TEXT = 240
_HINT = "evaluate both on the same question file, with the same modes and numbers of documents"
_NAMES = {"exact_match": "EM", "f1": "F1", "precision": "precision", "recall": "recall", "contains": "contains"}


@dataclass(frozen=True, slots=True)
class ChangedAnswer:
    """A question that the second evaluation answered better or worse than the first; ``right`` as the second has it."""

    question: str
    right: tuple[str, ...]
    first_answer: str
    second_answer: str
    first: Scores
    second: Scores

    @property
    def change(self) -> tuple[float, float]:
        """By how much ``contains`` rose, and F1; the first of them that is not 0 says whether it is better."""
        return self.second.contains - self.first.contains, self.second.f1 - self.first.f1

    @property
    def better(self) -> bool:
        """Whether the second answer is the better one."""
        return self.change > (0, 0)


@dataclass(frozen=True, slots=True)
class WayChange:
    """One way in both evaluations, over the ``questions`` that both answered; only the merge may differ.

    ``measures`` compare the second with the first: a difference above 0 is a gain. ``relabelled`` of the questions
    have other right answers in the second. ``changed`` has the largest changes first.
    """

    first: Way
    second: Way
    questions: int
    relabelled: int
    first_means: Scores
    second_means: Scores
    measures: Mapping[str, Comparison]
    changed: tuple[ChangedAnswer, ...]


@dataclass(frozen=True, slots=True)
class EvaluationComparison:
    """Two evaluations over ``shared`` questions that both asked; the rest was asked by one of them only."""

    first: Settings
    second: Settings
    shared: int
    only_first: int
    only_second: int
    ways: tuple[WayChange, ...]


def compare_evaluations(first: EvaluationFolder, second: EvaluationFolder, *, seed: int = 0) -> EvaluationComparison:
    """Compare every way of mode and k that both evaluations have, on the questions that both put to it.

    Questions are the same if their words are, see ``question_digest``, wherever they stand in their files; a question
    that a file has twice counts once. Of several merges, a way is compared with its own if the other has that.

    Raises:
        InputError: the two have no question or no way in common.
    """
    answers = _by_way(first.answers), _by_way(second.answers)
    asked = tuple({digest for own in by_way.values() for digest in own} for by_way in answers)
    shared = asked[0] & asked[1]
    if not shared:
        raise InputError(
            f"the evaluations in {first.path} and {second.path} have no question in common: one is of "
            f"{first.settings.questions_name}, the other of {second.settings.questions_name}",
            hint=_HINT,
        )
    pairs = _pairs(answers[0], answers[1])
    changes = [_change(way, other, answers[0][way], answers[1][other], seed) for way, other in pairs]
    found = tuple(change for change in changes if change is not None)
    if not found:
        raise InputError(
            f"the evaluations in {first.path} and {second.path} have no way of answering in common: one has "
            f"{_listed(answers[0])}, the other {_listed(answers[1])}",
            hint=_HINT,
        )
    return EvaluationComparison(
        first=first.settings,
        second=second.settings,
        shared=len(shared),
        only_first=len(asked[0] - shared),
        only_second=len(asked[1] - shared),
        ways=found,
    )


def comparison_markdown(comparison: EvaluationComparison, *, shown: int = DEFAULT_SHOWN) -> str:
    """Return a page for people, with at most ``shown`` better and as many worse answers of each way."""
    parts = [_heading(comparison)]
    for way in comparison.ways:
        parts += [_means(way), _answers("Better", [one for one in way.changed if one.better], shown)]
        parts += [_answers("Worse", [one for one in way.changed if not one.better], shown)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _by_way(answers: Iterable[Judged]) -> dict[Way, dict[str, Judged]]:
    digests: dict[str, str] = {}  # a question comes once for every way
    by_way: dict[Way, dict[str, Judged]] = {}
    for one in answers:
        if one.question not in digests:
            digests[one.question] = question_digest(one.question)
        by_way.setdefault(one.way, {}).setdefault(digests[one.question], one)
    return by_way


def _pairs(first: Collection[Way], second: Collection[Way]) -> list[tuple[Way, Way]]:
    """Return each way of the first with the second's: the same one, else one that only its merge tells apart."""
    pairs = []
    left = dict.fromkeys(second)
    for way in sorted(first, key=lambda one: one not in left):  # the same ones take theirs before any other can
        alike = [other for other in left if (other.mode, other.k) == (way.mode, way.k)]
        if alike:
            other = way if way in left else alike[0]
            del left[other]
            pairs.append((way, other))
    order = list(first)
    return sorted(pairs, key=lambda pair: order.index(pair[0]))


def _change(
    way: Way, other: Way, first: Mapping[str, Judged], second: Mapping[str, Judged], seed: int
) -> WayChange | None:
    both = [(one, second[digest]) for digest, one in first.items() if digest in second]
    if not both:
        return None
    before, after = [one.scores for one, _ in both], [one.scores for _, one in both]
    changed = (
        ChangedAnswer(new.question, new.right, old.answer, new.answer, old.scores, new.scores) for old, new in both
    )
    return WayChange(
        first=way,
        second=other,
        questions=len(both),
        relabelled=sum(set(old.right) != set(new.right) for old, new in both),
        first_means=mean_scores(before),
        second_means=mean_scores(after),
        measures=compare_scores(after, before, seed=seed),
        changed=tuple(sorted((one for one in changed if _is_change(one)), key=_largest_first)),
    )


def _is_change(one: ChangedAnswer) -> bool:
    contains, f1 = one.change
    return contains != 0 or abs(f1) >= F1_CHANGE


def _largest_first(one: ChangedAnswer) -> tuple[float, float, str]:
    contains, f1 = one.change
    return -abs(contains), -abs(f1), one.question


def _listed(ways: Iterable[Way]) -> str:
    return "; ".join(way.label for way in ways)


def _heading(comparison: EvaluationComparison) -> str:
    first, second = asdict(comparison.first), asdict(comparison.second)
    rows = [
        (name.replace("_", " "), _setting(first[name]), _setting(second[name]))
        for name in first
        if first[name] != second[name]
    ]
    title = f"# {escaped(comparison.first.version)} and {escaped(comparison.second.version)}"
    asked = (
        f"{count(comparison.shared, 'question')} asked by both, {comparison.only_first:,} by the first only, "
        f"{comparison.only_second:,} by the second only."
    )
    differing = table(("what differs", "first", "second"), rows) if rows else "The settings of both are the same."
    return f"{title}\n\n{asked}\n\n{differing}"


def _setting(value: object) -> str:
    if value is None:
        return "all"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _cell(str(value))


def _means(way: WayChange) -> str:
    notes = [f"{count(way.questions, 'question')}. Differences and ratios are of the second to the first."]
    if way.first.merge != way.second.merge:
        first, second = escaped(way.first.merge), escaped(way.second.merge)
        notes.append(f"The merges differ: {first or 'none'} in the first, {second or 'none'} in the second.")
    if way.relabelled:
        notes.append(f"{count(way.relabelled, 'question')} with other right answers in the second.")
    rows = [
        (
            _NAMES[measure],
            figure(getattr(way.first_means, measure)),
            figure(getattr(way.second_means, measure)),
            *compared(comparison),
        )
        for measure, comparison in way.measures.items()
    ]
    header = ("measure", "first", "second", "difference", "ratio", "p")
    return f"## {escaped(way.first.label)}\n\n{' '.join(notes)}\n\n{table(header, rows)}"


def _answers(heading: str, changed: Sequence[ChangedAnswer], shown: int) -> str:
    if not changed:
        return ""
    rows = [
        (
            *(
                escaped(_cut(text))
                for text in (one.question, "; ".join(one.right), one.first_answer, one.second_answer)
            ),
            f"{figure(one.first.f1)} to {figure(one.second.f1)}",
            f"{one.first.contains:.0f} to {one.second.contains:.0f}",
        )
        for one in changed[:shown]
    ]
    header = ("question", "right", "first answer", "second answer", "F1", "contains")
    more = f"\n\nAnd {len(changed) - shown:,} more." if len(changed) > shown else ""
    return f"### {heading}: {count(len(changed), 'question')}\n\n{table(header, rows)}{more}"


def _cell(text: str) -> str:
    return escaped(_cut(text))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"
