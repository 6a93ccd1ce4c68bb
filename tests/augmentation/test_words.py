from __future__ import annotations

import pytest

from registry.augmentation.words import Vocabulary, content_words, names, numbers, stem


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("lights", "light"),
        ("discovered", "discovery"),
        ("Keeper's", "keepers"),
        ("Parisian", "Paris"),
        ("eleven", "11"),
    ],
)
def test_forms_of_one_word_meet(one: str, other: str) -> None:
    assert Vocabulary.of(other).holds(stem(one))


@pytest.mark.parametrize(("one", "other"), [("Quist", "Quill"), ("1843", "1847"), ("cat", "catalogue")])
def test_other_words_do_not_meet(one: str, other: str) -> None:
    assert not Vocabulary.of(other).holds(stem(one))


def test_numbers_are_compared_however_they_are_written() -> None:
    assert numbers("20,000 people, 3.5 % and the 21st of May") == {"20000", "3.5", "21"}
    assert Vocabulary.of("eleven hives").missing(sorted(numbers("11 hives"))) == []


def test_content_words_leave_out_function_words() -> None:
    assert content_words("What is the lamp of the tower?") == ["lamp", stem("tower")]


def test_names_do_not_count_the_first_word_of_a_sentence() -> None:
    assert names("Granite was used. The engineer Adela Quist chose it.") == [stem("Adela"), stem("Quist")]


def test_scripts_without_spaces_are_compared_by_pairs_of_characters() -> None:
    known = Vocabulary.of("灯台は千八百年に建てられた")
    assert known.missing(content_words("灯台")) == []
    assert known.missing(content_words("飛行機"))
