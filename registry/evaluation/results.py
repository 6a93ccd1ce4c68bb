"""What an evaluation finds: every answer with its scores, and what each way of answering came to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from registry.evaluation.intervals import Estimate
from registry.evaluation.latency import Latency, step_latencies
from registry.evaluation.paired import Comparison, compare_scores
from registry.evaluation.scores import Scores, estimates


@dataclass(frozen=True, slots=True, order=True)
class Way:
    """A way of answering: a mode, with ``k`` documents (0 where it takes none) merged by ``merge`` ("" if not)."""

    mode: str
    k: int = 0
    merge: str = ""

    @property
    def label(self) -> str:
        """The mode, and ``k`` if it takes documents."""
        return f"{self.mode}, k = {self.k}" if self.k else self.mode


@dataclass(frozen=True, slots=True)
class Used:
    """A document that an answer was made from; ``weight`` is its adapter's in the merge, 0 where it was not merged."""

    document: str
    title: str
    score: float
    weight: float
    adapter: str


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer to question ``number`` of the file, from 1; ``right`` are the answers that any answer may be."""

    way: Way
    number: int
    id: str
    question: str
    type: str
    right: tuple[str, ...]
    answer: str
    scores: Scores
    documents: tuple[Used, ...]
    prompt_tokens: int
    answer_tokens: int
    milliseconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class WayResult:
    """What a way came to over ``questions`` questions of a type ("": all); latencies are by step and ``total``."""

    way: Way
    question_type: str
    questions: int
    scores: Mapping[str, Estimate]
    latencies: Mapping[str, Latency]
    prompt_tokens: float


@dataclass(frozen=True, slots=True)
class WayComparison:
    """Two ways on the same questions, by measure."""

    first: Way
    second: Way
    measures: Mapping[str, Comparison]


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the answers of an evaluation, and what names it.

    ``version`` is a reference such as ``handbook@v3``, ``questions_name`` the name of the file. ``sample`` questions
    were drawn by ``seed`` (None: all).
    """

    version: str
    version_digest: str
    recipe_digest: str
    questions_name: str
    questions_digest: str
    questions: int
    sample: int | None
    seed: int
    gold: bool
    max_new_tokens: int
    dtype: str
    device: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The results of an evaluation; ``retrieval`` has recall@k, hit@k and ndcg@k, empty where no document is known."""

    settings: Settings
    retrieval: Mapping[str, Estimate]
    results: tuple[WayResult, ...]
    comparisons: tuple[WayComparison, ...]

    @property
    def overall(self) -> list[WayResult]:
        """The results over the questions of all types."""
        return [result for result in self.results if not result.question_type]

    def result(self, way: Way, question_type: str = "") -> WayResult:
        """Return a way's result.

        Raises:
            KeyError: the evaluation has none of that way and type.
        """
        for result in self.results:
            if result.way == way and result.question_type == question_type:
                return result
        raise KeyError((way, question_type))


def summarise(judged: Iterable[Judged], *, seed: int) -> tuple[WayResult, ...]:
    """Return every way's result over all questions and, where they have several types, by type, in order of coming."""
    by_way: dict[Way, list[Judged]] = {}
    for one in judged:
        by_way.setdefault(one.way, []).append(one)
    results: list[WayResult] = []
    for way, own in by_way.items():
        results.append(_result(way, "", own, seed))
        types = sorted({one.type for one in own})
        if len(types) > 1:
            results += [_result(way, name, [one for one in own if one.type == name], seed) for name in types if name]
    return tuple(results)


def compare_ways(judged: Iterable[Judged], *, seed: int) -> tuple[WayComparison, ...]:
    """Return each pair of ways compared on the questions that both answered, the later of the two as the first.

    Ways with documents are compared at the same ``k`` only.
    """
    by_way: dict[Way, dict[int, Scores]] = {}
    for one in judged:
        by_way.setdefault(one.way, {})[one.number] = one.scores
    found: list[WayComparison] = []
    for second, first in combinations(by_way, 2):
        shared = [number for number in by_way[first] if number in by_way[second]]
        if shared and (first.k == second.k or not first.k or not second.k):
            sides = ([by_way[way][number] for number in shared] for way in (first, second))
            found.append(WayComparison(first, second, compare_scores(*sides, seed=seed)))
    return tuple(found)


def _result(way: Way, question_type: str, judged: Sequence[Judged], seed: int) -> WayResult:
    return WayResult(
        way=way,
        question_type=question_type,
        questions=len(judged),
        scores=estimates([one.scores for one in judged], seed=seed),
        latencies=step_latencies([one.milliseconds for one in judged]),
        prompt_tokens=sum(one.prompt_tokens for one in judged) / len(judged),
    )
