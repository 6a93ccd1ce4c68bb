"""Training examples: what an adapter is taught, as token ids with a loss weight for every token."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from registry.base_model.chat import encode_example, encode_text
from registry.errors import EncodingError
from registry.layout import question_prompt, taught_answer, titled
from registry.recipe import Recipe
from registry.records import Document, EncodingInput, QAPair


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids; the loss counts the predictions of ``ids[loss_start:]``."""

    ids: tuple[int, ...]
    loss_start: int

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
    makers = {
        "qa": lambda: [_question(tokenizer, recipe, pair, ()) for pair in pairs],
        "qa-passage": lambda: [_question(tokenizer, recipe, pair, (passage(document),)) for pair in pairs],
        "text": lambda: [_text(tokenizer, recipe, passage(document))],
        "rewrite": lambda: [_text(tokenizer, recipe, titled(document.title, text)) for text in rewrites],
        "paper": lambda: _paper(tokenizer, recipe, document, pairs, rewrites),
    }
    examples = [example for kind in recipe.examples for example in makers[kind]()]
    if not examples:
        examples = [_text(tokenizer, recipe, passage(document))]
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


def _question(tokenizer: Any, recipe: Recipe, pair: QAPair, passages: Sequence[str]) -> Example:
    prompt = question_prompt(recipe.layout, pair.question, passages)
    answer, ends_turn = taught_answer(recipe.layout, pair.answer)
    ids, answer_start = encode_example(tokenizer, prompt, answer, ends_turn=ends_turn)
    return _cut(recipe, ids, 1 if recipe.loss == "all" else answer_start)


def _text(tokenizer: Any, recipe: Recipe, text: str) -> Example:
    return _cut(recipe, encode_text(tokenizer, text), 1)


def _cut(recipe: Recipe, ids: Sequence[int], loss_start: int) -> Example:
    """Cut a too long example from the left of its loss, so that something is left to learn."""
    surplus = max(0, len(ids) - recipe.max_tokens)
    kept, start = tuple(ids[surplus:]), max(1, loss_start - surplus)
    if len(kept) < 2:
        raise EncodingError("an example has fewer than two tokens", hint="raise the recipe's max_tokens")
    return Example(ids=kept, loss_start=start)
