"""Questions made of a passage's own sentences."""

from __future__ import annotations

from registry.encoding.cloze import cloze_pairs


def pairs_of(text: str) -> list[tuple[str, str]]:
    return [(pair.question, pair.answer) for pair in cloze_pairs(text)]


def test_names_and_numbers_are_asked_for_one_at_a_time() -> None:
    assert pairs_of("The bridge was built by Odo Marl in 1811 for $4.5 million.") == [
        ("The bridge was built by what in 1811 for $4.5 million?", "Odo Marl"),
        ("The bridge was built by Odo Marl in when for $4.5 million?", "1811"),
        ("The bridge was built by Odo Marl in 1811 for what?", "$4.5 million"),
    ]


def test_every_sentence_is_asked_about_by_itself() -> None:
    text = "The ferry leaves Tarn at dawn every day. It carries eleven mules and 42 sacks of salt."
    assert pairs_of(text) == [
        ("The ferry leaves what at dawn every day?", "Tarn"),
        ("It carries eleven mules and how many sacks of salt?", "42"),
    ]


def test_what_begins_a_sentence_is_no_name_and_short_or_long_ones_are_passed_over() -> None:
    assert pairs_of("Barley is ground by the old mill there. Yes, Tarn. " + "and Tarn " * 50 + ".") == []


def test_a_point_within_a_number_ends_no_sentence() -> None:
    assert pairs_of("the canal near Tarn is 42.5 miles long and straight") == [
        ("the canal near what is 42.5 miles long and straight?", "Tarn"),
        ("the canal near Tarn is how many miles long and straight?", "42.5"),
    ]


def test_text_without_spaces_or_names_gives_nothing() -> None:
    assert pairs_of("塩と羊毛と十一頭の騾馬を運ぶ渡し船。") == []
    assert pairs_of("") == []
