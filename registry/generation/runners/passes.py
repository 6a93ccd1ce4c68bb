"""Which prompts go through a model together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def passes(lengths: Sequence[int], most_tokens: int, most_prompts: int) -> Iterator[slice]:
    """Yield which prompts share a pass: as many in their order as fit; one of more than ``most_tokens`` is alone."""
    start = tokens = 0
    for number, length in enumerate(lengths):
        if number > start and (tokens + length > most_tokens or number - start == most_prompts):
            yield slice(start, number)
            start, tokens = number, 0
        tokens += length
    if lengths:
        yield slice(start, len(lengths))
