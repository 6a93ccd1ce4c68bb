from __future__ import annotations

import pytest

from registry.augmentation import Passage
from registry.augmentation.answers import Candidate, find_candidates, is_turned_well
from registry.augmentation.grounding import pair_fault
from registry.records import Document, QAPair, StagedDocument


def candidates(text: str, title: str = "") -> dict[str, Candidate]:
    return {candidate.answer: candidate for candidate in find_candidates(Document.of(title, text))}


@pytest.mark.parametrize(
    ("text", "answer", "plain", "question"),
    [
        (
            "The rebels of the river were led by the ferryman Piet Harrow, who knew the ford.",
            "Piet Harrow",
            "The rebels of the river were led by which ferryman?",
            "By which ferryman were the rebels of the river led?",
        ),
        (
            "The charts of the Duke filled forty-four sheets.",
            "forty-four sheets",
            "The charts of the Duke filled how many sheets?",
            None,
        ),
        ("The Duke lost 1,400 men in the battle.", "1,400 men", "The Duke lost how many men in the battle?", None),
        (
            "The tower of the castle is about 52 metres high.",
            "52 metres",
            "The tower of the castle is how many metres high?",
            "How many metres high is the tower of the castle?",
        ),
        (
            "In 2018 the composer was given the Golden Reed, the highest award.",
            "Golden Reed",
            "In 2018 the composer was given what?",
            "What was the composer given in 2018?",
        ),
        (
            "The bridge was closed on 9 April 1412.",
            "9 April 1412",
            "The bridge was closed when?",
            "When was the bridge closed?",
        ),
        (
            "The last keeper, Jonas Wray, left the tower in 1978.",
            "Jonas Wray",
            "Who was the last keeper?",
            "Who was the last keeper?",
        ),
        (
            "Marta Ilves gave the money to the village school.",
            "Marta Ilves",
            "Who gave the money to the village school?",
            "Who gave the money to the village school?",
        ),
        ("Each autumn the town of Dorn holds a fair.", "Dorn", "Each autumn which town holds a fair?", None),
        (
            "The repair of the old bridge cost $2.5 million in all.",
            "$2.5 million",
            "The repair of the old bridge cost how much in all?",
            None,
        ),
    ],
)
def test_answers_are_asked_for(text: str, answer: str, plain: str, question: str | None) -> None:
    found = candidates(text)[answer]
    assert (found.plain_question, found.question) == (plain, question)
    assert found.sentence == text


def test_a_question_to_be_turned_has_an_opening() -> None:
    found = candidates("Beekeepers carry the hives to the moors of Sarn.")["moors of Sarn"]
    assert (found.question, found.opening) == (None, "To what")


def test_a_pronoun_stands_for_the_title_only_where_that_is_the_subject() -> None:
    about = candidates("Tamsin Oake is an organ builder. She was born in Port Ellery.", "Tamsin Oake")
    assert about["Port Ellery"].question == "Where was Tamsin Oake born?"
    assert "Port Ellery" not in candidates("An organ is old. She was born in Port Ellery.", "Tamsin Oake")
    assert "Port Ellery" not in candidates(
        "Tamsin Oake is an organ builder. She has a workshop. It was made in Port Ellery.", "Tamsin Oake"
    )


def test_other_languages_have_no_candidates() -> None:
    assert find_candidates(Document.of("Turm", "Der Turm wurde 1843 von Adela Quist in Harth gebaut.")) == []


def test_nothing_is_asked_of_fragments() -> None:
    assert find_candidates(Document.of("", "Of the and in the.")) == []
    assert find_candidates(Document.of("", "")) == []


def test_candidates_are_grounded_and_spread_over_the_sentences(lighthouse: StagedDocument) -> None:
    found = find_candidates(lighthouse.document)
    passage = Passage.of(lighthouse.document)
    faults = {pair_fault(QAPair(one.question or one.plain_question, one.answer), passage) for one in found}
    assert faults <= {None, "does not name what it asks about"}
    assert len({one.sentence for one in found[:5]}) >= 4
    assert len({one.plain_question for one in found}) == len(found) >= 8


def test_a_turned_question_must_keep_the_words() -> None:
    candidate = candidates("The Duke of Ashmark lost 1,400 men in the battle.")["1,400 men"]
    assert is_turned_well(candidate, "How many men did the Duke of Ashmark lose in the battle?")
    assert not is_turned_well(candidate, "How many men live in Ashmark?")
    assert not is_turned_well(
        candidate, "How many men did the Duke of Ashmark lose in the battle of the people of Elm?"
    )
