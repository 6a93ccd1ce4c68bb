from __future__ import annotations

import pytest

from registry.augmentation.cleaning import clean_line, clean_pair, clean_rewrite


@pytest.mark.parametrize(
    ("written", "cleaned"),
    [
        ("Adela Quist.\nYou are an AI assistant. You will be given a task.", "Adela Quist."),
        ("  52 metres<|im_end|>\n<|im_start|>user", "52 metres"),
        ("1. Who built the tower?", "Who built the tower?"),
        ("1b. Who built the tower?", "Who built the tower?"),
        ("2 In which year was it built?", "In which year was it built?"),
        ("**Question 3:** Who built the tower?", "Who built the tower?"),
        ('"Cape Merrow"', "Cape Merrow"),
        ('The "Salt" and the "Road"', 'The "Salt" and the "Road"'),
        ("According to the passage, the tower is high.", "The tower is high."),
        ("What burns in the lamp, according to the text?", "What burns in the lamp?"),
        ("What is the tower mentioned in the passage called?", "What is the tower called?"),
        ("Which towers are mentioned in the passage?", "Which towers are mentioned in the passage?"),
        ("Who is named in the text of the treaty?", "Who is named in the text of the treaty?"),
        ("The passage mentions whale oil.", "Whale oil."),
        ("1921", "1921"),
        ("52 metres", "52 metres"),
        ("\n\n- in July\nNote: from the passage", "in July"),
        ("### Assistant:", ""),
        ("", ""),
    ],
)
def test_a_line_loses_what_is_not_said(written: str, cleaned: str) -> None:
    assert clean_line(written) == cleaned


def test_a_question_gets_its_mark() -> None:
    assert clean_pair("how high is the tower", "52 metres").question == "how high is the tower?"
    assert clean_pair("the tower", "52 metres").question == "the tower"


def test_an_empty_full_answer_is_none() -> None:
    assert clean_pair("Who?", "A", " \n").full_answer is None


def test_a_rewrite_loses_headings_and_further_versions() -> None:
    text = "Here is a rewrite:\nThe Tower\n- The tower has a lamp that burns oil.\n- A lamp burning oil stands on it."
    assert clean_rewrite(text, 10) == "The tower has a lamp that burns oil."
    assert clean_rewrite(text, 100).endswith("oil. A lamp burning oil stands on it.")


def test_a_rewrite_ends_where_another_task_begins() -> None:
    assert clean_rewrite("The tower is high.\n\nUser: write a poem", 100) == "The tower is high."
