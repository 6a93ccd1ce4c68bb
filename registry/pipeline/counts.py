"""What encoding documents will take, counted with the very examples that a build trains; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from registry.augmentation import Augmenter
from registry.base_model import load_tokenizer
from registry.encoding.examples import build_examples
from registry.pipeline.opened import Registry
from registry.pipeline.recipes import Chosen
from registry.pipeline.staging import look_up
from registry.progress import Progress
from registry.recipe import Recipe
from registry.records import Augmentation, Document, EncodingInput, QAPair, StagedDocument

SAMPLE_DOCUMENTS = 200
"""Of the documents whose augmentations are yet to be written about so many are looked at, of all lengths."""
QUESTION_CHARACTERS = 60
ANSWER_CHARACTERS = 15
"""A typical question and answer; the sample corpus' have 51 and 11, questions of SQuAD 60."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a build would train.

    ``reused`` documents have their adapters, ``to_encode`` have not; of those ``to_augment`` have no augmentation yet
    either, for which the rest is estimated. ``examples`` are distinct; ``tokens`` pass through the model with every
    epoch counted, and the loss counts ``loss_tokens`` of them. ``generated_tokens`` are written by the augmenter.
    """

    reused: int
    to_encode: int
    to_augment: int
    examples: int
    tokens: int
    loss_tokens: int
    generated_tokens: int


def count(
    registry: Registry,
    documents: Iterable[StagedDocument],
    total: int,
    chosen: Chosen,
    augmenter: Augmenter,
    progress: Progress,
) -> Counts:
    """Count what ``total`` distinct ``documents`` in order of length would take; ``registry`` is only read.

    Raises:
        InputError: an import file had nothing for any of them.
        EncodingError: the recipe leaves nothing of an example.
    """
    tokenizer, recipe = load_tokenizer(chosen.files), chosen.recipe
    reused = to_augment = sampled = written = 0
    exact, guessed = _Sum(), _Sum()
    stride = max(1, total // SAMPLE_DOCUMENTS)
    progress.start("counting", total)
    for batch in look_up(registry, augmenter, recipe.digest, documents):
        for known in batch:
            document = known.staged.document
            if known.adapter_digest is not None:
                reused += 1
            elif known.augmentation is None:
                if to_augment % stride == 0:
                    sampled += 1
                    guess = _typical_augmentation(document, recipe)
                    guessed.add(tokenizer, recipe, EncodingInput(document, guess))
                    written += _tokens_of(tokenizer, guess)
                to_augment += 1
            else:
                exact.add(tokenizer, recipe, EncodingInput(document, known.augmentation))
        progress.advance(len(batch))
    progress.done()
    augmenter.finish()
    times = to_augment / sampled if sampled else 0.0
    return Counts(
        reused=reused,
        to_encode=total - reused,
        to_augment=to_augment,
        examples=exact.examples + round(times * guessed.examples),
        tokens=recipe.epochs * (exact.tokens + round(times * guessed.tokens)),
        loss_tokens=recipe.epochs * (exact.loss_tokens + round(times * guessed.loss_tokens)),
        generated_tokens=round(times * written),
    )


@dataclass(slots=True)
class _Sum:
    """Sums over documents, of one epoch."""

    examples: int = 0
    tokens: int = 0
    loss_tokens: int = 0

    def add(self, tokenizer: Any, recipe: Recipe, given: EncodingInput) -> None:
        examples = build_examples(tokenizer, recipe, given)
        self.examples += len(examples)
        self.tokens += sum(len(example.ids) for example in examples)
        self.loss_tokens += sum(example.loss_tokens for example in examples)


def _typical_augmentation(document: Document, recipe: Recipe) -> Augmentation:
    """Return all that a recipe asks for, cut from the document's own text, since only the lengths matter."""
    length = QUESTION_CHARACTERS + ANSWER_CHARACTERS
    text = document.text * (1 + 2 * length // len(document.text))
    pairs = []
    for number in range(recipe.pairs):
        start = number * length % (len(text) - length + 1)
        middle = start + QUESTION_CHARACTERS
        pairs.append(QAPair(text[start:middle], text[middle : start + length]))
    return Augmentation(document.digest, "", "", "", (document.text,) * recipe.rewrites, tuple(pairs))


def _tokens_of(tokenizer: Any, augmentation: Augmentation) -> int:
    """Return the tokens that writing it takes."""
    texts = [*augmentation.rewrites, *(text for pair in augmentation.pairs for text in (pair.question, pair.answer))]
    return sum(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]) if texts else 0
