"""The two forms of an answer: as a message of a chat, and as the rest of a text."""

from __future__ import annotations

import time
import uuid
from typing import Any, Protocol

from registry.serving.asking import Ended
from registry.serving.replies import (
    AnswerMessage,
    ChatChoice,
    ChatCompletion,
    Completion,
    TextChoice,
    Usage,
    explanation,
)


class Shape(Protocol):
    """How answers are told; ``chunk`` is a part of a stream."""

    def whole(self, answers: list[Ended]) -> ChatCompletion | Completion:
        """Return all answers in one."""

    def begin(self, index: int) -> dict[str, Any] | None:
        """Return what is sent before the text of an answer."""

    def grown(self, index: int, text: str) -> dict[str, Any]:
        """Return what is sent of an answer that grew."""

    def ended(self, index: int, reason: str) -> dict[str, Any]:
        """Return what is sent at the end of an answer."""

    def last(self) -> dict[str, Any]:
        """Return a chunk without text, for what concerns all answers."""


class ChatShape:
    """Messages of an assistant."""

    def __init__(self, model: str) -> None:
        """Take the model's name as the client wrote it."""
        self._model, self._id, self._created = model, f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    def whole(self, answers: list[Ended]) -> ChatCompletion:
        """Return all answers in one."""
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[
                ChatChoice(index=index, message=AnswerMessage(content=each.text), finish_reason=reason_of(each))
                for index, each in enumerate(answers)
            ],
            usage=usage_of(answers),
            pragreg=explanation(answers[0].answer),
        )

    def begin(self, index: int) -> dict[str, Any] | None:
        """Say who speaks."""
        return self._chunk(index, {"role": "assistant", "content": ""}, None)

    def grown(self, index: int, text: str) -> dict[str, Any]:
        """Return a chunk with text."""
        return self._chunk(index, {"content": text}, None)

    def ended(self, index: int, reason: str) -> dict[str, Any]:
        """Return a chunk that says why an answer ended."""
        return self._chunk(index, {}, reason)

    def last(self) -> dict[str, Any]:
        """Return a chunk without choices."""
        return {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
            "choices": [],
        }

    def _chunk(self, index: int, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self.last() | {"choices": [choice]}


class TextShape:
    """Ways to go on with a text."""

    def __init__(self, model: str) -> None:
        """Take the model's name as the client wrote it."""
        self._model, self._id, self._created = model, f"cmpl-{uuid.uuid4().hex}", int(time.time())

    def whole(self, answers: list[Ended]) -> Completion:
        """Return all in one."""
        return Completion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[
                TextChoice(index=index, text=each.text, finish_reason=reason_of(each))
                for index, each in enumerate(answers)
            ],
            usage=usage_of(answers),
            pragreg=explanation(answers[0].answer),
        )

    def begin(self, index: int) -> dict[str, Any] | None:
        """Nothing comes before the text."""
        return None

    def grown(self, index: int, text: str) -> dict[str, Any]:
        """Return a chunk with text."""
        return self._chunk(index, text, None)

    def ended(self, index: int, reason: str) -> dict[str, Any]:
        """Return a chunk that says why a text ended."""
        return self._chunk(index, "", reason)

    def last(self) -> dict[str, Any]:
        """Return a chunk without choices."""
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._model,
            "choices": [],
        }

    def _chunk(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        return self.last() | {"choices": [{"index": index, "text": text, "logprobs": None, "finish_reason": reason}]}


def reason_of(ended: Ended) -> Any:
    """Return why an answer ended, as OpenAI names it."""
    return "length" if ended.generated.finish == "length" else "stop"


def usage_of(answers: list[Ended]) -> Usage:
    """Count the tokens of a prompt and its answers."""
    prompt = answers[0].generated.prompt_tokens
    answer = sum(len(each.generated.tokens) for each in answers)
    return Usage(prompt_tokens=prompt, completion_tokens=answer, total_tokens=prompt + answer)
