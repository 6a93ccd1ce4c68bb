from __future__ import annotations

import pytest

from registry.augmentation import Passage, is_faithful_rewrite, is_grounded
from registry.augmentation.grounding import pair_fault, rewrite_fault
from registry.records import Document, QAPair

REWRITE = (
    "On Cape Merrow, the northern tip of Tessel, stands the Orrin Lighthouse, which the engineer Adela Quist built of "
    "blue granite from Harth between 1843 and 1847. Whale oil burned in the lamp of its tower of 52 metres until "
    "electric light replaced it in 1921. Jonas Wray was the last keeper and left in 1978."
)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Who built the Orrin Lighthouse?", "Adela Quist"),
        ("Who built the Orrin Lighthouse?", "The Orrin Lighthouse was built by the engineer Adela Quist."),
        ("How high is the tower?", "52 metres"),
        ("How many people visit the museum every year?", "approximately 20000"),
        ("When did Jonas Wray leave the Orrin Lighthouse?", "He left it in 1978."),
        ("What did the lamp burn before it was electric?", "whale oil"),
        ("Which island does the lighthouse stand on?", "Tessel"),
        ("What changed for good at the lamp early on?", "Its whale oil gave way to electric light in 1921."),
    ],
)
def test_what_the_passage_says_is_kept(passage: Passage, question: str, answer: str) -> None:
    pair = QAPair(question, answer)
    assert is_grounded(pair, passage), pair_fault(pair, passage)


@pytest.mark.parametrize(
    ("question", "answer", "fault"),
    [
        ("", "Adela Quist", "empty"),
        ("Who built the Orrin Lighthouse?", "", "empty"),
        ("The Orrin Lighthouse", "Adela Quist", "not a question"),
        ("Who built " + "the lighthouse " * 30 + "?", "Adela Quist", "question too long"),
        ("Who built the Orrin Lighthouse?", "Adela Quist " * 40, "answer too long"),
        ("What is the passage about?", "A lighthouse", "passage as such"),
        ("Who built it?", "Adela Quist", "does not name"),
        ("Where is this located?", "Cape Merrow", "does not name"),
        ("Who painted the Orrin Lighthouse?", "The passage does not say.", "does not know"),
        ("Who painted the Orrin Lighthouse?", "It is unknown.", "does not know"),
        ("Is the Orrin Lighthouse on Cape Merrow?", "Yes, the Orrin Lighthouse is on Cape Merrow.", "nothing new"),
        ("When was the Orrin Lighthouse built?", "between 1843 and 1850", "number 1850"),
        ("What happened to the Orrin Lighthouse in 1999?", "electric light", "number 1999"),
        ("Who built the Orrin Lighthouse?", "The engineer Robert Stevenson", "name"),
        ("Why do penguins travel to warm countries?", "blue granite", "something else"),
        ("Why do penguins travel to warm countries?", "The lamp was changed to electric light.", "something else"),
        ("Why do people travel to warm countries?", "blue granite", "something else"),
        ("What is the Orrin Lighthouse?", "a system of satellites circling planets", "answer does not occur"),
    ],
)
def test_what_it_does_not_say_is_dropped(passage: Passage, question: str, answer: str, fault: str) -> None:
    assert fault in (pair_fault(QAPair(question, answer), passage) or "kept")


def test_the_title_belongs_to_what_is_known() -> None:
    passage = Passage.of(Document.of("Mount Sarrow", "The caves are home to a newt that glows."))
    assert is_grounded(QAPair("What lives in the caves of Mount Sarrow?", "a newt"), passage)


def test_other_languages_and_scripts_are_checked() -> None:
    german = Passage.of(Document.of("Turm", "Der alte Turm von Harth wurde 1843 aus blauem Granit gebaut."))
    assert is_grounded(QAPair("Woraus wurde der Turm von Harth gebaut?", "aus blauem Granit"), german)
    assert not is_grounded(QAPair("Woraus wurde der Turm von Harth gebaut?", "aus rotem Backstein"), german)
    japanese = Passage.of(Document.of("灯台", "オリン灯台は1843年にメロー岬に建てられた。"))
    assert is_grounded(QAPair("オリン灯台はどこに建てられたか？", "メロー岬"), japanese)
    assert not is_grounded(QAPair("オリン灯台はどこに建てられたか？", "東京湾"), japanese)


def test_a_faithful_rewrite_is_kept(passage: Passage) -> None:
    assert is_faithful_rewrite(REWRITE, passage), rewrite_fault(REWRITE, passage)


@pytest.mark.parametrize(
    ("rewrite", "fault"),
    [
        ("", "too short"),
        ("The lighthouse is old.", "too short"),
        (REWRITE * 3, "too long"),
        (REWRITE.replace("1921", "1931"), "number 1931"),
        (REWRITE.replace("Adela Quist", "Robert Stevenson of Great Yarmouth"), "name"),
        ("Apathy is a lack of interest or concern that stress and fear can trigger. " * 4, "something else"),
    ],
)
def test_an_unfaithful_rewrite_is_dropped(passage: Passage, rewrite: str, fault: str) -> None:
    assert fault in (rewrite_fault(rewrite, passage) or "kept")


def test_the_passage_itself_is_no_rewrite(passage: Passage) -> None:
    assert rewrite_fault(passage.text, passage) == "is the passage again"


def test_a_rewrite_must_say_something() -> None:
    assert not is_faithful_rewrite("No.", Passage.of(Document.of("", "42")))
