import pytest

from registry.evaluation.results import Way, compare_ways, summarise
from tests.evaluation.invented import answers, evaluation, judged, scores

CLOSED, RAG, PRAG = Way("closed-book"), Way("rag", 3), Way("prag", 3, "first:0.8")


def test_a_way_says_its_mode_and_its_number_of_documents() -> None:
    assert [way.label for way in (CLOSED, RAG, PRAG)] == ["closed-book", "rag, k = 3", "prag, k = 3"]


def test_every_way_is_summarised_in_the_order_of_coming() -> None:
    results = summarise([*answers(PRAG, [1.0, 0.5, 0.0]), *answers(CLOSED, [0.0, 0.0, 0.0])], seed=0)
    assert [(result.way, result.question_type, result.questions) for result in results] == [
        (PRAG, "", 3),
        (CLOSED, "", 3),
    ]
    first = results[0]
    assert first.scores["f1"].mean == pytest.approx(0.5)
    assert first.scores["contains"].mean == pytest.approx(1 / 3)
    assert first.scores["f1"].low <= 0.5 <= first.scores["f1"].high
    assert first.latencies["merge"].mean_ms == 4.0
    assert first.latencies["total"].mean_ms == 105.0
    assert first.prompt_tokens == 25
    assert "merge" not in results[1].latencies


def test_ways_may_come_mixed() -> None:
    mixed = [one for pair in zip(answers(RAG, [1.0, 0.0]), answers(PRAG, [0.0, 0.0]), strict=True) for one in pair]
    assert summarise(mixed, seed=0) == summarise([*answers(RAG, [1.0, 0.0]), *answers(PRAG, [0.0, 0.0])], seed=0)
    assert compare_ways(mixed, seed=0)[0].measures["f1"].difference.mean == -0.5


def test_several_types_are_summarised_each_and_questions_without_one_only_in_all() -> None:
    given = [
        judged(RAG, 1, scores(1.0), type="comparison"),
        judged(RAG, 2, scores(0.0), type="bridge"),
        judged(RAG, 3, scores(0.5), type="bridge"),
        judged(RAG, 4, scores(0.5)),
    ]
    results = summarise(given, seed=0)
    assert [(result.question_type, result.questions, result.scores["f1"].mean) for result in results] == [
        ("", 4, 0.5),
        ("bridge", 2, 0.25),
        ("comparison", 1, 1.0),
    ]


def test_one_type_for_all_questions_is_not_repeated() -> None:
    given = [judged(RAG, number, scores(1.0), type="bridge") for number in (1, 2)]
    assert [result.question_type for result in summarise(given, seed=0)] == [""]


def test_no_answers_have_no_results() -> None:
    assert summarise([], seed=0) == ()
    assert compare_ways([], seed=0) == ()


def test_each_pair_is_compared_the_later_way_first() -> None:
    given = [*answers(CLOSED, [0.0, 0.0]), *answers(RAG, [0.0, 1.0]), *answers(PRAG, [1.0, 1.0])]
    found = compare_ways(given, seed=0)
    assert [(one.first, one.second) for one in found] == [(RAG, CLOSED), (PRAG, CLOSED), (PRAG, RAG)]
    assert [one.measures["f1"].difference.mean for one in found] == [0.5, 1.0, 0.5]


def test_ways_of_different_numbers_of_documents_are_not_compared() -> None:
    ways = [CLOSED, RAG, Way("prag", 1, "first:0.8"), PRAG]
    found = compare_ways([one for way in ways for one in answers(way, [1.0])], seed=0)
    assert {(one.first.k, one.second.k) for one in found} == {(3, 0), (1, 0), (3, 3)}
    assert len(found) == 4


def test_only_questions_that_both_answered_are_compared() -> None:
    given = [
        *(judged(CLOSED, number, scores(0.0)) for number in (1, 2, 3)),
        *(judged(RAG, number, scores(float(number == 2))) for number in (4, 3, 2)),
        judged(PRAG, 5, scores(1.0)),
    ]
    (only,) = compare_ways(given, seed=0)
    assert (only.first, only.second) == (RAG, CLOSED)
    assert only.measures["f1"].difference.count == 2
    assert only.measures["f1"].difference.mean == 0.5


def test_the_seed_decides_the_bounds() -> None:
    given = answers(RAG, [0.1 * number for number in range(11)])
    assert summarise(given, seed=1) == summarise(given, seed=1)
    assert summarise(given, seed=1)[0].scores["f1"] != summarise(given, seed=2)[0].scores["f1"]


def test_an_evaluation_finds_a_result_by_way_and_type() -> None:
    found = evaluation(answers(RAG, [1.0, 0.0]))
    assert found.result(RAG) is found.results[0]
    with pytest.raises(KeyError):
        found.result(PRAG)
    with pytest.raises(KeyError):
        found.result(RAG, "bridge")
