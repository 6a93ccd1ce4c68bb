"""What is asked of the model, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from registry.errors import UsageError

Bytes = bytes | memoryview
Finish = Literal["stop", "length", "cancelled"]
MOST_STOPS = 16


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen: the most probable one at a temperature of 0, else drawn.

    ``top_p`` keeps the most probable tokens that together have so much (arXiv 1904.09751). The same ``seed`` draws the
    same tokens from the same probabilities; None draws anew each time.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn from."""
        if not 0 <= self.temperature <= 100:
            raise UsageError(f"a temperature is from 0 to 100, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is above 0 and at most 1, not {self.top_p}")


@dataclass(frozen=True, slots=True)
class Term:
    """One adapter of a merge: ``key`` identifies its bytes, ``factor`` counts it.

    ``body`` is the flat vector as it lies in the pack; it is read only where the key is not on the device yet.
    """

    key: str
    factor: float
    body: Bytes = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to go on with: at most ``max_new_tokens``, up to the model's end or one of ``stop``.

    ``terms`` are the adapters whose exact sum answers; without any it is the bare model. A stop string is not part of
    the text.
    """

    ids: tuple[int, ...]
    max_new_tokens: int
    terms: tuple[Term, ...] = ()
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be generated."""
        if not self.ids:
            raise UsageError("a prompt is empty")
        if self.max_new_tokens < 1:
            raise UsageError(f"an answer needs room for at least one token, not {self.max_new_tokens}")
        if len(self.stop) > MOST_STOPS or not all(self.stop):
            raise UsageError(f"stop strings must not be empty, and {MOST_STOPS} are the most")


@dataclass(frozen=True, slots=True)
class Generated:
    """What came after a prompt: ``text`` without special tokens, ``tokens`` without the end.

    ``finish`` says why it ended. Milliseconds: ``waiting_ms`` until it joined the batch, ``inject_ms`` to put its
    adapters in place, ``prefill_ms`` for the passes of its prompt and ``decode_ms`` for those of its tokens, each
    shared evenly by the rows of a pass; ``first_token_ms`` and ``elapsed_ms`` by the clock, from submission.
    """

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    finish: Finish
    waiting_ms: float
    inject_ms: float
    prefill_ms: float
    decode_ms: float
    first_token_ms: float
    elapsed_ms: float


OnText = Callable[[str], None]
"""Called with the text that an answer grew by, in whole characters; never with a part of a stop string."""
