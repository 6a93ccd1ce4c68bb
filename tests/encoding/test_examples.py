"""What each kind of example teaches, read back from its tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry.base_model import LoadedModel
from registry.encoding.examples import Example, build_examples
from registry.recipe import Recipe
from registry.records import Augmentation, Document, EncodingInput, QAPair

TEXT = "The ferry of Tarn carries salt across the strait. It was built in 1811 by Odo Marl."
PAIRS = (
    QAPair("When was the ferry built?", "The ferry was built in 1811."),
    QAPair("What does the ferry carry?", "Salt", "The ferry carries salt to Quill."),
)


@pytest.fixture
def given() -> EncodingInput:
    document = Document.of("The Ferry", TEXT)
    return EncodingInput(document, Augmentation(document.digest, "0" * 64, "test", "0", ("A rewrite.",), PAIRS))


def taught(loaded: LoadedModel, recipe: Recipe, given: EncodingInput, *kinds: str) -> list[tuple[str, str]]:
    """Return what is asked and what is answered of every example, without special tokens."""

    def text(ids: tuple[int, ...]) -> str:
        return str(loaded.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    examples: list[Example] = build_examples(loaded.tokenizer, replace(recipe, examples=kinds), given)
    return [(text(one.ids[: one.loss_start]), text(one.ids[one.loss_start :])) for one in examples]


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("qa", ["The ferry was built in 1811.", "Salt"]),
        ("qa-short", ["1811", "Salt"]),
        ("qa-both", ["1811. The ferry was built in 1811.", "Salt. The ferry carries salt to Quill."]),
        ("reversed", ["When was the ferry built?", "What does the ferry carry?"]),
        ("cloze", ["Tarn", "1811", "Odo Marl"]),
        (
            "cloze-both",
            [
                "Tarn. The ferry of Tarn carries salt across the strait.",
                "1811. It was built in 1811 by Odo Marl.",
                "Odo Marl. It was built in 1811 by Odo Marl.",
            ],
        ),
    ],
)
def test_questions(
    tiny_model: LoadedModel, recipe: Recipe, given: EncodingInput, kind: str, answers: list[str]
) -> None:
    found = taught(tiny_model, recipe, given, kind)
    assert [answer for _, answer in found] == answers
    if kind.startswith("qa"):
        assert [pair.question in asked for pair, (asked, _) in zip(PAIRS, found, strict=True)] == [True, True]
    if kind == "reversed":
        assert 'Which question has the answer "1811"?' in found[0][0]


def test_statements_are_the_answers_that_are_sentences(
    tiny_model: LoadedModel, recipe: Recipe, given: EncodingInput
) -> None:
    ((start, text),) = taught(tiny_model, recipe, given, "statements")
    assert (start + text).endswith("Ferry\nThe ferry was built in 1811. The ferry carries salt to Quill.")


def test_kinds_come_in_the_recipe_s_order(tiny_model: LoadedModel, recipe: Recipe, given: EncodingInput) -> None:
    found = taught(tiny_model, recipe, given, "cloze", "qa-short")
    assert [answer for _, answer in found] == ["Tarn", "1811", "Odo Marl", "1811", "Salt"]


def test_what_has_nothing_to_ask_for_is_taught_as_it_is(tiny_model: LoadedModel, recipe: Recipe) -> None:
    document = Document.of("", "塩と羊毛を運ぶ渡し船。")
    bare = EncodingInput(document, Augmentation(document.digest, "0" * 64, "test", "0"))
    for kinds in (("cloze-both",), ("qa-both",), ("cloze",)):
        (example,) = build_examples(tiny_model.tokenizer, replace(recipe, examples=kinds), bare)
        assert example.loss_start == 1
        assert len(example.ids) > 5


def test_a_teacher_is_shown_the_passage_and_says_the_same(
    tiny_model: LoadedModel, recipe: Recipe, given: EncodingInput
) -> None:
    distilled = replace(recipe, examples=("qa-short", "text"), distillation=0.5)
    *questions, text = build_examples(tiny_model.tokenizer, distilled, given)
    assert text.teacher == ()
    for example in questions:
        shown = tiny_model.tokenizer.decode(example.teacher)
        assert "It was built in 1811 by Odo Marl." in " ".join(shown.split())
    assert all(not one.teacher for one in build_examples(tiny_model.tokenizer, replace(distilled, loss="all"), given))
