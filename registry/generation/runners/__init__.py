"""What computes tokens: a model with room for rows of keys and values, and for adapters.

A row is one text in progress: it has its own keys and values, and its own sum of adapters. Adapters lie in ``entries``,
each prepared once when it is put there; a row's *slot* is a list of entries with factors, so injecting a merge writes
a few numbers, and rows share the adapters that they have in common:

    y = W x + sum over the terms of a row of  factor * scale * B (A x)

which is the exact sum of the adapters (merging by concatenation, without copying them together).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from registry.generation.requests import Bytes


class Runner(Protocol):
    """See the module. Not safe to share between threads."""

    @property
    def rows(self) -> int:
        """How many texts can be in progress, numbered from 0."""

    @property
    def context(self) -> int:
        """How many tokens a row may have, prompt and answer together."""

    @property
    def entries(self) -> int:
        """How many adapters there is room for, numbered from 0."""

    @property
    def most_terms(self) -> int:
        """How many adapters a row's sum may have."""

    def put(self, entry: int, body: Bytes) -> None:
        """Copy an adapter's flat vector into an entry that no row uses.

        Raises:
            IntegrityError: it is not of the layout's length.
        """

    def inject(self, row: int, entries: Sequence[int], factors: Sequence[float]) -> None:
        """Set the slot of a row: from now on its tokens see the sum of these adapters, none of them if none is given.

        ``factors`` are those of the merge; the adapters' own alpha / r is the runner's business.
        """

    def prefill(self, rows: Sequence[int], prompts: Sequence[Sequence[int]]) -> Tensor:
        """Begin rows anew with these prompts; return the logits ``[n, vocabulary]`` float32 after each, on the device.

        The tensor is valid until the next call.
        """

    def decode(self, rows: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Go on with rows by a token each; return the logits as ``prefill`` does."""

    def weight(self, path: str) -> Tensor:
        """Return the weight ``[out, in]`` of a module that adapters are for: the parameter itself or a copy.

        Raises:
            BaseModelError: adapters are not for such a module.
        """

    def set_weight(self, path: str, weight: Tensor) -> None:
        """Put numbers of the same shape and dtype in the place of a module's weight, bit by bit.

        Runners of one model share its weights.
        """
