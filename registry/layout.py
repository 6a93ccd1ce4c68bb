"""The layout of prompts: how a question, with or without passages, is put to the model.

Training examples and queries share it, so that an adapter is asked as it was taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

PAPER_INSTRUCTION = (
    "You should answer the question by referring to the knowledge provided below and integrating your own knowledge."
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A user turn and the words with which the assistant's turn begins (never ending in a space).

    ``with_system`` keeps the system message that some chat templates put in by themselves.
    """

    user: str
    answer_start: str
    with_system: bool = True


def question_prompt(layout: Literal["chat", "paper"], question: str, passages: Sequence[str] = ()) -> Prompt:
    """Return the prompt for ``question``, with ``passages`` as context if there are any.

    ``paper`` is the reference's prompt to the letter (arXiv 2501.15915 and its code: the blank lines, and a question
    mark on every question) but for the prefix, which ends at "is": a space after it harms byte-pair models. ``chat``
    asks the bare question.
    """
    lines = [f"Passage {number}: {passage}\n" for number, passage in enumerate(passages, 1)]
    if layout == "paper":
        asked = f"{question.strip().removesuffix('?').rstrip()}?"
        body = f"{PAPER_INSTRUCTION}\n{''.join(lines)}\n\nQuestion: {asked}"
        return Prompt(user=body, answer_start="The answer is")
    return Prompt(user=f"{''.join(lines)}Question: {question}", answer_start="Answer:", with_system=False)


def taught_answer(layout: Literal["chat", "paper"], answer: str) -> tuple[str, bool]:
    """Return an answer as it is taught, and whether the end of the turn is taught with it.

    The reference ends an answer with a full stop, where its scoring cuts, and teaches no end of turn.
    """
    if layout == "paper":
        return f"{answer.strip().removesuffix('.')}.", False
    return answer, True


def titled(title: str, text: str) -> str:
    """Return ``text`` under its title, if it has one, as passages are shown and taught."""
    return f"{title}\n{text}" if title else text
