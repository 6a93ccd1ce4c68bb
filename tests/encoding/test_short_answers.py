"""What a sentence says beyond its question."""

from __future__ import annotations

import pytest

from registry.encoding.short_answers import short_answer


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("When was the Wren Society founded?", "The Wren Society was founded in 1811.", "1811"),
        ("Who built Fennaway Bridge?", "Fennaway Bridge was built by Odo Marl and his sons.", "Odo Marl and his sons"),
        ("What does the ferry carry?", "The ferry carries salt, wool and eleven mules.", "salt, wool and eleven mules"),
        (
            "How long is the Tarn canal?",
            "The Tarn canal is 42.5 miles long. It took nine years to dig.",
            "42.5 miles",
        ),
        ("What colour is the barley?", "Blue.", "Blue"),
        ("Which oil does the lamp burn?", "Green oil", "Green oil"),
        ("What is the name of the mill's owner?", "The name of the mill’s owner is Pell Arrow.", "Pell Arrow"),
        ("Where is it?", "It is in the old town\nAnd here begins something else.", "old town"),
    ],
)
def test_the_short_answer_is_what_is_new(question: str, answer: str, expected: str) -> None:
    assert short_answer(question, answer) == expected


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Is the mill old?", "The mill is old, the mill is."),
        ("Why did the guild close?", "Because " + "one master after another went to the coast for higher wages " * 3),
        ("What?", " "),
        ("What?", "."),
    ],
)
def test_there_may_be_none(question: str, answer: str) -> None:
    assert short_answer(question, answer) is None


def test_of_two_equal_stretches_the_last_counts() -> None:
    assert short_answer("Who met whom at the fair?", "Ama Roe met at the fair Tib Hale.") == "Tib Hale"
