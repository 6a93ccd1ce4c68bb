"""Training examples: what an adapter is taught, as token ids with a loss weight for every token."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from registry.base_model.chat import encode_example, encode_text
from registry.encoding.cloze import cloze_pairs
from registry.encoding.short_answers import FEW_WORDS, short_answer
from registry.errors import EncodingError
from registry.layout import question_prompt, taught_answer, titled
from registry.recipe import Recipe
from registry.records import Document, EncodingInput, QAPair


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids; the loss counts the predictions of ``ids[loss_start:]``.

    ``teacher`` are the ids of a prompt that shows the passage too: what the model without adapter says after it to
    ``ids[loss_start:]`` is imitated. Empty where there is no teacher.
    """

    ids: tuple[int, ...]
    loss_start: int
    teacher: tuple[int, ...] = ()

    @property
    def loss_tokens(self) -> int:
        """How many predictions count."""
        return len(self.ids) - self.loss_start


@dataclass(frozen=True, slots=True)
class PreparedInput(EncodingInput):
    """An input whose examples were built beforehand, under the same recipe."""

    examples: tuple[Example, ...]


def prepare(tokenizer: Any, recipe: Recipe, given: EncodingInput) -> PreparedInput:
    """Build a document's examples now, so that ``build_examples`` has nothing to do when it is trained."""
    return PreparedInput(given.document, given.augmentation, tuple(build_examples(tokenizer, recipe, given)))


def build_examples(tokenizer: Any, recipe: Recipe, given: EncodingInput) -> list[Example]:
    """Return a document's examples in the recipe's order; never empty.

    A document for which no example of the recipe's kinds exists (no augmentation came) is taught its own text.
    """
    if isinstance(given, PreparedInput):
        return list(given.examples)
    document, augmentation = given.document, given.augmentation
    pairs = augmentation.pairs[: recipe.pairs]
    rewrites = augmentation.rewrites[: recipe.rewrites]
    shown = passage(document)
    makers = {
        "qa": lambda: [_question(tokenizer, recipe, pair, (), shown) for pair in pairs],
        "qa-short": lambda: [_question(tokenizer, recipe, _short(pair), (), shown) for pair in pairs],
        "qa-both": lambda: [_question(tokenizer, recipe, _both(pair), (), shown) for pair in pairs],
        "qa-passage": lambda: [_question(tokenizer, recipe, pair, (shown,)) for pair in pairs],
        "reversed": lambda: [_question(tokenizer, recipe, _reversed(pair), (), shown) for pair in pairs],
        "cloze": lambda: [_question(tokenizer, recipe, pair, (), shown) for pair in cloze_pairs(document.text)],
        "cloze-both": lambda: _cloze_both(tokenizer, recipe, document),
        "text": lambda: [_text(tokenizer, recipe, shown)],
        "statements": lambda: _statements(tokenizer, recipe, document, pairs),
        "rewrite": lambda: [_text(tokenizer, recipe, titled(document.title, text)) for text in rewrites],
        "paper": lambda: _paper(tokenizer, recipe, document, pairs, rewrites),
    }
    examples = [example for kind in recipe.examples for example in makers[kind]()]
    if not examples:
        examples = [_text(tokenizer, recipe, shown)]
    return examples


def passage(document: Document) -> str:
    """Return a document as it is shown in a prompt and taught as text."""
    return titled(document.title, document.text)


def plan_steps(recipe: Recipe, document_digest: str, count: int) -> list[list[int]]:
    """Return, for every optimiser step of one document, the indices of the examples it is taught.

    ``count`` examples are gone through ``epochs`` times, ``examples_per_step`` at a time, in an order that only the
    recipe's seed and the document decide, so that it does not matter which documents are trained together.
    """
    seed = hashlib.sha256(f"{recipe.seed}:{document_digest}".encode()).digest()
    shuffle = random.Random(seed)
    steps: list[list[int]] = []
    for _ in range(recipe.epochs):
        order = list(range(count))
        if recipe.shuffle:
            shuffle.shuffle(order)
        steps += [order[i : i + recipe.examples_per_step] for i in range(0, count, recipe.examples_per_step)]
    return steps


def _paper(
    tokenizer: Any, recipe: Recipe, document: Document, pairs: Sequence[QAPair], rewrites: Sequence[str]
) -> list[Example]:
    """The reference's layout: the first half of the pairs (rounded up) with each text in the prompt, the rest bare."""
    texts = [passage(document), *(titled(document.title, text) for text in rewrites)]
    shown = (len(pairs) + 1) // 2
    examples = [_question(tokenizer, recipe, pair, (text,)) for pair in pairs[:shown] for text in texts]
    return examples + [_question(tokenizer, recipe, pair, ()) for pair in pairs[shown:]]


def _short(pair: QAPair) -> QAPair:
    return QAPair(pair.question, short_answer(pair.question, pair.answer) or pair.answer)


def _both(pair: QAPair) -> QAPair:
    """The short answer as a sentence of its own, and then the full one: what is asked for comes first."""
    short, full = short_answer(pair.question, pair.answer), pair.full_answer or pair.answer
    if short is None or short == full.strip().removesuffix("."):
        return QAPair(pair.question, full)
    return QAPair(pair.question, f"{short}. {full}")


def _reversed(pair: QAPair) -> QAPair:
    """The answer given, the question asked for (against the reversal curse, arXiv 2309.12288)."""
    short = short_answer(pair.question, pair.answer) or pair.answer
    return QAPair(f'Which question has the answer "{short}"?', pair.question)


def _cloze_both(tokenizer: Any, recipe: Recipe, document: Document) -> list[Example]:
    """The passage's own sentences as questions, each answered by a name or number and then the sentence.

    A passage without names and numbers, as in scripts without capitals, is taught as it is.
    """
    shown = passage(document)
    pairs = [QAPair(pair.question, f"{pair.answer}. {pair.full_answer}") for pair in cloze_pairs(document.text)]
    return [_question(tokenizer, recipe, pair, (), shown) for pair in pairs] or [_text(tokenizer, recipe, shown)]


def _statements(tokenizer: Any, recipe: Recipe, document: Document, pairs: Sequence[QAPair]) -> list[Example]:
    """The answers that are sentences, one after the other, as one text."""
    full = dict.fromkeys((pair.full_answer or pair.answer).strip() for pair in pairs)
    sentences = [f"{text.removesuffix('.')}." for text in full if len(text.split()) > FEW_WORDS]
    return [_text(tokenizer, recipe, titled(document.title, " ".join(sentences)))] if sentences else []


def _question(
    tokenizer: Any, recipe: Recipe, pair: QAPair, passages: Sequence[str], teacher_passage: str | None = None
) -> Example:
    """Ask a question with ``passages`` in the prompt; its teacher, where the recipe has one, is shown a passage."""
    answer, ends_turn = taught_answer(recipe.layout, pair.answer)

    def asked(shown: Sequence[str]) -> tuple[list[int], int]:
        prompt = question_prompt(recipe.layout, pair.question, shown)
        return encode_example(tokenizer, prompt, answer, ends_turn=ends_turn)

    ids, answer_start = asked(passages)
    example = _cut(recipe, ids, 1 if recipe.loss == "all" else answer_start)
    if not recipe.distillation or teacher_passage is None:
        return example
    taught, taught_start = asked([teacher_passage])
    said = ids[answer_start:]
    # Only where both are asked the same, and the answer alone is learned from, token stands beside token.
    if recipe.loss == "all" or taught[taught_start:] != said or len(said) != example.loss_tokens:
        return example
    return replace(example, teacher=tuple(taught[:taught_start]))


def _text(tokenizer: Any, recipe: Recipe, text: str) -> Example:
    return _cut(recipe, encode_text(tokenizer, text), 1)


def _cut(recipe: Recipe, ids: Sequence[int], loss_start: int) -> Example:
    """Cut a too long example from the left of its loss, so that something is left to learn."""
    surplus = max(0, len(ids) - recipe.max_tokens)
    kept, start = tuple(ids[surplus:]), max(1, loss_start - surplus)
    if len(kept) < 2:
        raise EncodingError("an example has fewer than two tokens", hint="raise the recipe's max_tokens")
    return Example(ids=kept, loss_start=start)
