import pytest

from registry.evaluation.scores import Scores, cut_answer, estimates, mean_scores, normalise_answer, score


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Tall, thin Tower!", "tall thin tower"),
        ("an apple a day", "apple day"),
        ("1,234", "1234"),
        ("It's “Veldra”", "its veldra"),
        ("theatre", "theatre"),
        ("北の町", "北 の 町"),
        ("", ""),
    ],
)
def test_answers_are_normalised_as_squad_does(text: str, expected: str) -> None:
    assert normalise_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Veldra. It lies north", "Veldra"),
        ("Veldra, the town", "Veldra"),
        ("\n Veldra\nQuestion: next", "Veldra"),
        ("  in the hills  ", "in the hills"),
        ("3.5 million", "3"),
        ("", ""),
    ],
)
def test_an_answer_is_cut_at_its_first_stop_comma_or_line_end(text: str, expected: str) -> None:
    assert cut_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "answers", "expected"),
    [
        ("The Glass Harbour", ["glass harbour"], Scores(1, 1, 1, 1, 1)),
        ("the old glass harbour", ["glass harbour"], Scores(0, 0.8, 2 / 3, 1, 1)),
        ("glass", ["glass harbour"], Scores(0, 2 / 3, 1, 0.5, 0)),
        ("stone stone", ["stone"], Scores(0, 2 / 3, 0.5, 1, 1)),
        ("somewhere else", ["glass harbour"], Scores(0, 0, 0, 0, 0)),
        ("In 1820, at the glass harbour", ["glass harbour"], Scores(0, 0, 0, 0, 1)),
        ("", ["glass harbour"], Scores(0, 0, 0, 0, 0)),
        ("a moonlit path", ["moon"], Scores(0, 0, 0, 0, 0)),
        ("the", ["A"], Scores(1, 1, 1, 1, 1)),
        ("北町", ["北の町"], Scores(0, 0.8, 1, 2 / 3, 0)),
    ],
)
def test_known_values(text: str, answers: list[str], expected: Scores) -> None:
    actual = score(text, answers)
    for field in Scores.__slots__:
        assert getattr(actual, field) == pytest.approx(getattr(expected, field)), field


def test_the_best_right_answer_counts_for_each_measure_by_itself() -> None:
    scores = score("old Veldra town", ["Veldra", "old Veldra town hall"])
    assert scores.precision == 1.0
    assert scores.recall == 1.0
    assert scores.f1 == pytest.approx(2 * 0.75 / 1.75)
    assert scores.contains == 1.0


def test_a_question_without_a_right_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        score("Veldra", [])


def test_means() -> None:
    mean = mean_scores([Scores(1, 1, 1, 1, 1), Scores(0, 0.5, 0.25, 1, 0)])
    assert mean == Scores(0.5, 0.75, 0.625, 1.0, 0.5)
    assert mean_scores([]) == Scores(0, 0, 0, 0, 0)


def test_the_interval_is_seeded_and_holds_the_mean() -> None:
    scores = [Scores(float(i % 4 == 0), i / 40, 0.5, 0.5, 1.0) for i in range(40)]
    first, again, other = estimates(scores), estimates(scores), estimates(scores, seed=1)
    assert first == again
    assert first["f1"] != other["f1"]
    exact = first["exact_match"]
    assert (exact.mean, exact.count) == (0.25, 40)
    # The normal interval of 10 in 40 is 0.25 +- 0.134.
    assert exact.low == pytest.approx(0.116, abs=0.03)
    assert exact.high == pytest.approx(0.384, abs=0.03)
    assert first["contains"].low == first["contains"].high == 1.0


def test_an_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        estimates([])
