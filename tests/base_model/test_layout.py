"""The paper's prompts and examples, to the letter of the reference's code but for the space after "is"."""

from __future__ import annotations

from registry.base_model import LoadedModel
from registry.encoding.examples import build_examples
from registry.layout import question_prompt
from registry.recipe import preset
from registry.records import Augmentation, Document, EncodingInput, QAPair

INSTRUCTION = (
    "You should answer the question by referring to the knowledge provided below and integrating your own knowledge."
)


def test_the_papers_prompt_is_the_references() -> None:
    given = question_prompt("paper", "Who built the mill ?", ["It is old.", "Ivo built it."])
    assert given.user == (
        f"{INSTRUCTION}\nPassage 1: It is old.\nPassage 2: Ivo built it.\n\n\nQuestion: Who built the mill?"
    )
    assert given.answer_start == "The answer is"
    assert given.with_system
    bare = question_prompt("paper", "Name the mill")
    assert bare.user == f"{INSTRUCTION}\n\n\nQuestion: Name the mill?"


def test_the_papers_examples_are_the_references(tiny_model: LoadedModel) -> None:
    document = Document.of("", "Ivo built the mill.")
    pairs = (QAPair("Who built it?", "Ivo"), QAPair("What did Ivo build?", "the mill."), QAPair("Who is Ivo?", "he"))
    augmentation = Augmentation(document.digest, "0" * 64, "test", "0", ("The mill is by Ivo.",), pairs)
    tokenizer = tiny_model.tokenizer
    examples = build_examples(tokenizer, preset("paper"), EncodingInput(document, augmentation))

    def expected(question: str, answer: str, *passages: str) -> str:
        messages = [{"role": "user", "content": question_prompt("paper", question, passages).user}]
        head = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return f"{head}The answer is {answer}"

    assert [tokenizer.decode(example.ids) for example in examples] == [
        expected("Who built it?", "Ivo.", "Ivo built the mill."),
        expected("Who built it?", "Ivo.", "The mill is by Ivo."),
        expected("What did Ivo build?", "the mill.", "Ivo built the mill."),
        expected("What did Ivo build?", "the mill.", "The mill is by Ivo."),
        expected("Who is Ivo?", "he."),
    ]
    assert {example.loss_start for example in examples} == {1}
