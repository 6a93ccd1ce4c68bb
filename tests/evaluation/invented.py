"""Invented answers and evaluations for the tests of what is made of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

from registry.evaluation.intervals import Estimate
from registry.evaluation.ranking import ranking_estimates
from registry.evaluation.results import Evaluation, Judged, Settings, Used, Way, compare_ways, summarise
from registry.evaluation.scores import Scores

SETTINGS = Settings(
    version="handbook@v3",
    version_digest="1" * 64,
    recipe_digest="2" * 64,
    questions_name="squad100.questions.jsonl",
    questions_digest="3" * 64,
    questions=4,
    sample=None,
    seed=0,
    gold=False,
    max_new_tokens=20,
    dtype="bfloat16",
    device="cpu",
)
DOCUMENT = Used(document="4" * 64, title="Genghis | Khan", score=7.25, weight=0.8, adapter="5" * 64)
MILLISECONDS = {"search": 1.0, "decode": 100.0}


def scores(f1: float, contains: float = 0.0) -> Scores:
    return Scores(float(f1 == 1), f1, f1, f1, contains)


def judged(
    way: Way,
    number: int,
    given: Scores,
    *,
    question: str = "",
    answer: str = "Otrar",
    type: str = "",
    right: tuple[str, ...] = ("Otrar",),
) -> Judged:
    return Judged(
        way=way,
        number=number,
        id=f"q{number}",
        question=question or f"Which town is number {number}?",
        type=type,
        right=right,
        answer=answer,
        scores=given,
        documents=(DOCUMENT,) if way.k else (),
        prompt_tokens=25,
        answer_tokens=3,
        milliseconds=MILLISECONDS | ({"merge": 4.0} if way.merge else {}),
    )


def answers(way: Way, f1: Iterable[float]) -> list[Judged]:
    """Return answers to questions 1, 2, ...; what has all of F1 contains the right answer."""
    return [judged(way, number, scores(one, float(one == 1))) for number, one in enumerate(f1, 1)]


def evaluation(
    given: Sequence[Judged], *, settings: Settings = SETTINGS, retrieval: dict[str, Estimate] | None = None
) -> Evaluation:
    asked = len({one.number for one in given})
    return Evaluation(
        settings=replace(settings, questions=asked),
        retrieval=retrieval or {},
        results=summarise(given, seed=0),
        comparisons=compare_ways(given, seed=0),
    )


MERGE = "first:0.8"
REALISTIC_WAYS = {
    Way("closed-book"): (0.04, 280),
    Way("task-only"): (0.07, 290),
    Way("wrong-document", 1, MERGE): (0.06, 330),
    Way("rag", 1): (0.15, 420),
    Way("prag", 1, MERGE): (0.19, 350),
    Way("combined", 1, MERGE): (0.21, 480),
    Way("wrong-document", 3, MERGE): (0.055, 380),
    Way("rag", 3): (0.145, 580),
    Way("prag", 3, MERGE): (0.17, 390),
    Way("combined", 3, MERGE): (0.205, 650),
}
"""Every mode with 1 and 3 documents, its mean F1 and milliseconds: about what the default model reaches."""


def realistic(questions: int = 200, types: Sequence[str] = ("bridge", "comparison")) -> Evaluation:
    """Return an evaluation of ``REALISTIC_WAYS``, in which some questions are hard for every way."""
    generator = random.Random(1)
    ease = [generator.random() for _ in range(questions)]
    given: list[Judged] = []
    for way, (f1, milliseconds) in REALISTIC_WAYS.items():
        for number in range(questions):
            known = generator.random() < 2 * f1 * ease[number]
            partly = 1.0 if known else generator.choice([0.0] * 9 + [0.4])
            one = judged(way, number + 1, scores(partly, float(known)), type=types[number % len(types)])
            spent = {"search": 2.0, "prefill": milliseconds * 0.3, "decode": milliseconds * generator.uniform(0.4, 1)}
            given.append(replace(one, milliseconds=spent if way.k else spent | {"search": 0.0}))
    ranked = [["d1", "d2", "d3"] if generator.random() < 0.9 else ["d2", "d3"] for _ in range(questions)]
    retrieval = ranking_estimates(ranked, [{"d1": 1}] * questions)
    return evaluation(given, retrieval=retrieval)
