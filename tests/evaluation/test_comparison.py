from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from registry.errors import InputError
from registry.evaluation.comparison import compare_evaluations, comparison_markdown
from registry.evaluation.folder import EvaluationFolder
from registry.evaluation.results import Judged, Settings, Way
from tests.evaluation.invented import SETTINGS, answers, judged, scores

CLOSED, RAG, PRAG = Way("closed-book"), Way("rag", 3), Way("prag", 3, "first:0.8")
LATER = replace(SETTINGS, version="handbook@v4", version_digest="9" * 64)

Folders = Callable[[str, Sequence[Judged]], EvaluationFolder]


@pytest.fixture
def folder(tmp_path: Path) -> Folders:
    """Make the folder of an evaluation, the first of version 3 and the second of version 4."""

    def make(name: str, given: Sequence[Judged], settings: Settings | None = None) -> EvaluationFolder:
        made = EvaluationFolder.open(tmp_path / name, settings or (SETTINGS if name == "first" else LATER))
        made.add(given)
        return made

    return make


def test_the_second_is_measured_against_the_first(folder: Folders) -> None:
    first = folder("first", [*answers(RAG, [0.0, 0.0, 1.0]), *answers(PRAG, [0.0, 0.0, 0.0])])
    second = folder("second", [*answers(PRAG, [1.0, 1.0, 0.0]), *answers(RAG, [0.0, 0.0, 1.0])])
    found = compare_evaluations(first, second)
    assert (found.first, found.second) == (SETTINGS, LATER)
    assert (found.shared, found.only_first, found.only_second) == (3, 0, 0)
    rag, prag = found.ways
    assert (rag.first, rag.second, prag.first, prag.second) == (RAG, RAG, PRAG, PRAG)
    assert rag.measures["f1"].difference.mean == 0
    assert rag.changed == ()
    assert prag.first_means.f1 == 0
    assert prag.second_means.f1 == pytest.approx(2 / 3)
    assert prag.measures["f1"].difference.mean == pytest.approx(2 / 3)
    assert set(prag.measures) == {"exact_match", "f1", "precision", "recall", "contains"}
    assert [one.better for one in prag.changed] == [True, True]
    assert compare_evaluations(second, first).ways[0].measures["f1"].difference.mean == pytest.approx(-2 / 3)


def test_questions_are_matched_by_their_words_not_their_numbers(folder: Folders) -> None:
    first = folder(
        "first",
        [
            judged(RAG, 1, scores(1.0), question="Who built it?"),
            judged(RAG, 2, scores(0.5), question="When?"),
            judged(RAG, 3, scores(0.0), question="who  BUILT it"),
        ],
    )
    second = folder(
        "second",
        [
            judged(RAG, 1, scores(0.0), question="Where?"),
            judged(RAG, 2, scores(0.25), question="when"),
            judged(RAG, 9, scores(1.0), question="Who built it ?"),
        ],
    )
    found = compare_evaluations(first, second)
    assert (found.shared, found.only_first, found.only_second) == (2, 0, 1)
    (way,) = found.ways
    assert way.questions == 2
    assert (way.first_means.f1, way.second_means.f1) == (0.75, 0.625)


def test_another_merge_of_the_same_mode_and_k_is_compared_and_said(folder: Folders) -> None:
    first = folder("first", answers(PRAG, [0.0, 1.0]))
    second = folder("second", answers(replace(PRAG, merge="ties|0.5"), [1.0, 1.0]))
    (way,) = compare_evaluations(first, second).ways
    assert (way.first.merge, way.second.merge) == ("first:0.8", "ties|0.5")
    page = comparison_markdown(compare_evaluations(first, second))
    assert "The merges differ: first:0.8 in the first, ties\\|0.5 in the second." in page


def test_a_way_meets_its_own_merge_where_there_are_several(folder: Folders) -> None:
    ties, svd = replace(PRAG, merge="ties:0.5"), replace(PRAG, merge="svd:4")
    first = folder("first", [*answers(svd, [0.0]), *answers(PRAG, [0.0]), *answers(ties, [0.0])])
    second = folder("second", [*answers(ties, [1.0]), *answers(PRAG, [1.0])])
    found = compare_evaluations(first, second)
    assert [(way.first, way.second) for way in found.ways] == [(PRAG, PRAG), (ties, ties)]


def test_changed_answers_come_largest_first(folder: Folders) -> None:
    before = [(1.0, 1.0), (0.0, 0.0), (0.5, 0.0), (0.5, 0.0), (0.5, 1.0), (0.4, 0.0)]
    after = [(0.0, 0.0), (0.0, 1.0), (0.75, 0.0), (0.74, 0.0), (0.5, 1.0), (0.0, 0.0)]
    first = folder("first", [judged(RAG, n, scores(*one), answer="old") for n, one in enumerate(before, 1)])
    second = folder("second", [judged(RAG, n, scores(*one), answer="new") for n, one in enumerate(after, 1)])
    (way,) = compare_evaluations(first, second).ways
    assert [(one.question[-2], one.better, one.change) for one in way.changed] == [
        ("1", False, (-1.0, -1.0)),
        ("2", True, (1.0, 0.0)),
        ("6", False, (0.0, pytest.approx(-0.4))),
        ("3", True, (0.0, 0.25)),
    ]
    assert {(one.first_answer, one.second_answer) for one in way.changed} == {("old", "new")}
    assert way.changed[0].right == ("Otrar",)


def test_ways_and_questions_of_one_side_only_are_left_out(folder: Folders) -> None:
    first = folder("first", [*answers(CLOSED, [0.0, 0.0]), *answers(RAG, [0.0, 0.0])])
    second = folder("second", [*answers(RAG, [1.0]), *answers(replace(RAG, k=1), [1.0]), *answers(PRAG, [1.0])])
    found = compare_evaluations(first, second)
    assert [way.first for way in found.ways] == [RAG]
    assert (found.shared, found.only_first, found.only_second) == (1, 1, 0)


def test_other_right_answers_are_counted(folder: Folders) -> None:
    first = folder("first", [judged(RAG, 1, scores(0.0)), judged(RAG, 2, scores(0.0), right=("a", "b"))])
    second = folder(
        "second", [judged(RAG, 1, scores(1.0), right=("Utrar",)), judged(RAG, 2, scores(0.0), right=("b", "a"))]
    )
    found = compare_evaluations(first, second)
    assert found.ways[0].relabelled == 1
    assert "1 question with other right answers in the second." in comparison_markdown(found)


def test_the_seed_decides_the_bounds(folder: Folders) -> None:
    first = folder("first", answers(RAG, [0.1 * number for number in range(10)]))
    second = folder("second", answers(RAG, [0.5] * 10))
    assert compare_evaluations(first, second, seed=1) == compare_evaluations(first, second, seed=1)
    assert compare_evaluations(first, second, seed=1) != compare_evaluations(first, second, seed=2)


@pytest.mark.parametrize("second", [[], [judged(RAG, 1, scores(1.0), question="Another one?")]])
def test_no_shared_question_is_refused(folder: Folders, second: list[Judged]) -> None:
    with pytest.raises(InputError, match="have no question in common") as raised:
        compare_evaluations(folder("first", answers(RAG, [1.0])), folder("second", second))
    assert raised.value.hint


def test_no_shared_way_is_refused_with_those_that_there_are(folder: Folders) -> None:
    first = folder("first", [*answers(CLOSED, [1.0]), *answers(PRAG, [1.0])])
    second = folder("second", answers(replace(PRAG, k=1), [1.0]))
    with pytest.raises(InputError, match=r"one has closed-book; prag, k = 3, the other prag, k = 1$") as raised:
        compare_evaluations(first, second)
    assert raised.value.hint


def test_ways_that_shared_no_question_are_refused(folder: Folders) -> None:
    first = folder("first", [judged(RAG, 1, scores(1.0)), judged(PRAG, 2, scores(1.0))])
    second = folder("second", [judged(RAG, 2, scores(1.0)), judged(PRAG, 1, scores(1.0))])
    with pytest.raises(InputError, match="rag, k = 3; prag, k = 3"):
        compare_evaluations(first, second)


def test_the_page_says_what_differs_and_shows_the_changes(folder: Folders) -> None:
    first = folder("first", [judged(RAG, 1, scores(0.0), answer="no | idea\nat all"), *answers(PRAG, [1.0])])
    second = folder("second", [*answers(RAG, [1.0]), *answers(PRAG, [0.0])])
    lines = comparison_markdown(compare_evaluations(first, second)).splitlines()
    assert lines[0] == "# handbook@v3 and handbook@v4"
    assert "| version | handbook@v3 | handbook@v4 |" in lines
    assert not any(line.startswith("| seed") for line in lines)
    assert "1 question asked by both, 0 by the first only, 0 by the second only." in lines
    assert [line for line in lines if line.startswith("#")][1:] == [
        "## rag, k = 3",
        "### Better: 1 question",
        "## prag, k = 3",
        "### Worse: 1 question",
    ]
    assert "| F1 | .000 | 1.000 | 1.000 (1.000 to 1.000) | – | 1.000 |" in lines
    assert "| Which town is number 1? | Otrar | no \\| idea at all | Otrar | .000 to 1.000 | 0 to 1 |" in lines


def test_the_page_shows_so_many_changes_and_counts_the_rest(folder: Folders) -> None:
    first, second = folder("first", answers(RAG, [0.0] * 9)), folder("second", answers(RAG, [1.0] * 9))
    found = compare_evaluations(first, second)
    page = comparison_markdown(found, shown=4)
    assert page.count("| Which town") == 4
    assert page.endswith("\n\nAnd 5 more.\n")
    assert "more." not in comparison_markdown(found, shown=9)


def test_a_long_answer_is_cut(folder: Folders) -> None:
    first = folder("first", [judged(RAG, 1, scores(0.0), answer="word " * 1000)])
    page = comparison_markdown(compare_evaluations(first, folder("second", answers(RAG, [1.0]))))
    assert "…" in page
    assert len(page) < 2000
