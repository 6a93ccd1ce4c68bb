"""Adapter slots: merged adapters inside a loaded model, without touching its weights.

Every target linear module is replaced once by one that adds a low-rank product from preallocated memory:

    y = W x + B' A' x,   A' = [A_1; ...; A_k] [R, in],   B' = [w_1 s B_1, ..., w_k s B_k] [out, R],   R = k r

which is the exact weighted sum of the k adapters (w_i: weights of the merge, s = alpha / r). Merging copies whole
stretches of the adapters' bodies, a handful of copies a document, whatever the number of modules, to where they lie in
a slot; injecting is then one copy of A' and one of B'.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from registry.base_model import LoadedModel
from registry.errors import BaseModelError, IntegrityError, UsageError
from registry.store.layout import AdapterLayout, TensorSpec

NO_ADAPTER = -1
"""The slot number of a row that is answered by the bare model."""

Indices = npt.NDArray[np.int64]
Stretches = npt.NDArray[np.generic]
"""A body as ``[n, unit]``; bfloat16 numbers as uint16."""


@dataclass(slots=True)
class _LowRank:
    """What a module adds at the moment: ``a`` ``[batch, R, in]`` and ``b`` ``[batch, out, R]``, or None for nothing."""

    a: Tensor | None = None
    b: Tensor | None = None


@dataclass(frozen=True, slots=True)
class MergedAdapter:
    """What ``AdapterSlots.merge`` made: A' and B' of every module, in main memory as they lie in a slot.

    It is valid until the next merge, which uses the same memory.
    """

    a: Tensor
    b: Tensor


class SlotLinear(nn.Module):
    """A linear module plus, while slots are in use, the low-rank product of each row's slot, in the base's dtype."""

    def __init__(self, base: nn.Linear, added: _LowRank) -> None:
        """Wrap ``base``, which stays as it is; ``added`` is changed from outside."""
        super().__init__()
        self.base = base
        self._added = added

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, tokens, in]`` to ``[batch, tokens, out]``."""
        out: Tensor = self.base(x)
        a, b = self._added.a, self._added.b
        if a is None or b is None:
            return out
        return torch.baddbmm(out, torch.bmm(x, a.transpose(1, 2)), b.transpose(1, 2))


class AdapterSlots:
    """Preallocated slots, each for the merge of up to ``max_adapters`` adapters of one layout, in one model.

    Memory: (capacity + 2) * max_adapters adapters in the dtype of the base, one of them in main memory. A's rows lie
    adapter after adapter ``[k, r, in]``, B's columns side by side ``[out, k, r]``, so that both are plain matrices of
    rank R.
    """

    def __init__(self, loaded: LoadedModel, layout: AdapterLayout, capacity: int, max_adapters: int) -> None:
        """Replace the layout's modules in ``loaded.model``; every slot starts empty.

        Raises:
            BaseModelError: the model lacks a module of the layout, or it is not linear or of another shape.
            UsageError: ``capacity`` or ``max_adapters`` is below 1.
        """
        if capacity < 1 or max_adapters < 1:
            raise UsageError(f"slots need room for at least one adapter, not {capacity} x {max_adapters}")
        self._layout, self._max_adapters, self._capacity = layout, max_adapters, capacity
        self._model = loaded.model
        self._bases = _find_modules(self._model, layout)
        weight = next(iter(self._bases.values())).weight
        a_tensors, b_tensors = zip(*layout.modules.values(), strict=True)
        # The longest stretch that every tensor is a multiple of: rows of 384 elements for SmolLM2 at rank 2.
        unit = math.gcd(*(tensor.elements for tensor in layout.tensors))
        self._from_a, self._from_b = _stretches(a_tensors, unit), _stretches(b_tensors, unit)
        self._into_a = [torch.from_numpy(places) for places in _places_of_a(a_tensors, unit, max_adapters)]
        stored = getattr(torch, layout.dtype)
        self._staged_a = torch.empty(len(self._from_a), unit, dtype=stored)
        self._staged_b = torch.empty(len(self._from_b), unit, dtype=stored)
        # Row 0 stays zero: it is the slot of rows without an adapter in a batch that has some.
        self._a_sizes = [max_adapters * tensor.elements for tensor in a_tensors]
        self._b_sizes = [tensor.shape[0] for tensor in b_tensors]
        self._a = weight.new_zeros(capacity + 1, sum(self._a_sizes))
        self._b = weight.new_zeros(capacity + 1, sum(self._b_sizes), max_adapters, layout.rank)
        self._merged = MergedAdapter(self._a[0].cpu().clone(), self._b[0].cpu().clone())
        self._merged_places = 0
        self._added = [_LowRank() for _ in layout.modules]
        wrapped = zip(layout.modules, self._added, strict=True)
        self._wrapped = {path: SlotLinear(self._bases[path], added) for path, added in wrapped}
        self.insert()

    @property
    def capacity(self) -> int:
        """The number of slots; they are numbered from 0."""
        return self._capacity

    @property
    def max_adapters(self) -> int:
        """How many adapters a slot has room for."""
        return self._max_adapters

    @torch.no_grad()
    def merge(self, bodies: Sequence[bytes | memoryview], weights: Sequence[float], scale: float) -> MergedAdapter:
        """Merge adapters by concatenation: A' has their A, B' their B times weight and scale, in the base's dtype.

        Args:
            bodies: the adapters' flat vectors, as they lie in the pack, in the layout's dtype.
            weights: as many; any finite numbers.
            scale: alpha / r of the adapters.

        Raises:
            UsageError: a slot has no room for so many adapters, or there is not a weight for each.
            IntegrityError: a body is not of the layout's length.
        """
        if len(bodies) > self._max_adapters or len(bodies) != len(weights):
            raise UsageError(
                f"{len(bodies)} adapters with {len(weights)} weights do not fit a slot for {self._max_adapters}"
            )
        bare = [self._checked(body) for body in bodies]
        into_a, into_b = self._merged.a.view(-1, self._staged_a.shape[1]), self._merged.b
        for place, (body, weight) in enumerate(zip(bare, weights, strict=True)):
            into_a.index_copy_(0, self._into_a[place], _stage(body, self._from_a, self._staged_a).to(into_a.dtype))
            from_b = _stage(body, self._from_b, self._staged_b).view(-1, self._layout.rank)
            into_b[:, place] = from_b.mul_(weight * scale)
        for place in range(len(bodies), self._merged_places):
            into_a.index_fill_(0, self._into_a[place], 0)
            into_b[:, place] = 0
        self._merged_places = len(bodies)
        return self._merged

    @torch.no_grad()
    def inject(self, slot: int, merged: MergedAdapter) -> None:
        """Copy a merged adapter into ``slot``, from 0 to ``capacity`` - 1.

        Raises:
            UsageError: there is no such slot.
        """
        if not 0 <= slot < self._capacity:
            raise UsageError(f"there is no adapter slot {slot}, only 0 to {self._capacity - 1}")
        self._a[slot + 1].copy_(merged.a)
        self._b[slot + 1].copy_(merged.b)

    def fill(self, slot: int, bodies: Sequence[bytes | memoryview], weights: Sequence[float], scale: float) -> None:
        """Put the weighted sum of adapters into ``slot``: ``merge`` and ``inject`` in one."""
        self.inject(slot, self.merge(bodies, weights, scale))

    def clear(self, slot: int) -> None:
        """Empty ``slot``."""
        self.fill(slot, (), (), 1.0)

    @contextmanager
    def active(self, slot_of_row: Sequence[int]) -> Iterator[None]:
        """For the time of the block, ``choose`` these slots, and none after it.

        Raises:
            UsageError: there is no such slot.
        """
        self.choose(slot_of_row)
        try:
            yield
        finally:
            self.choose(())

    def choose(self, slot_of_row: Sequence[int]) -> None:
        """Let row i of every following batch have slot ``slot_of_row[i]`` or ``NO_ADAPTER``.

        If no row has a slot, the low-rank product is left out and the model computes what the bare model computes, bit
        by bit. Slots are filled before they are chosen, not after.

        Raises:
            UsageError: there is no such slot.
        """
        if any(not NO_ADAPTER <= slot < self._capacity for slot in slot_of_row):
            raise UsageError(f"there are adapter slots 0 to {self._capacity - 1}, not {list(slot_of_row)}")
        if all(slot == NO_ADAPTER for slot in slot_of_row):
            for added in self._added:
                added.a = added.b = None
            return
        a, b = _rows(self._a, slot_of_row), _rows(self._b, slot_of_row)
        rank = self._max_adapters * self._layout.rank
        of_modules = zip(a.split_with_sizes(self._a_sizes, 1), b.split_with_sizes(self._b_sizes, 1), strict=True)
        for added, (own_a, own_b) in zip(self._added, of_modules, strict=True):
            added.a, added.b = own_a.view(len(own_a), rank, -1), own_b.flatten(2)

    def remove(self) -> None:
        """Put the model's own modules back."""
        _replace(self._model, self._bases)

    def insert(self) -> None:
        """Undo ``remove``; the slots hold what they held."""
        _replace(self._model, self._wrapped)

    def _checked(self, body: bytes | memoryview) -> Stretches:
        view = memoryview(body).cast("B")
        if view.nbytes != self._layout.body_bytes:
            raise IntegrityError(f"an adapter of {view.nbytes} bytes was given where {self._layout.body_bytes} fit")
        item = np.float32 if self._layout.dtype == "float32" else np.uint16
        return np.frombuffer(view, dtype=item).reshape(-1, self._staged_a.shape[1])


def _find_modules(model: nn.Module, layout: AdapterLayout) -> dict[str, nn.Linear]:
    found: dict[str, nn.Linear] = {}
    for path, shape in layout.shapes.items():
        try:
            module = model.get_submodule(path)
        except AttributeError as error:
            raise BaseModelError(f"the base model has no module {path}, which the adapters are for") from error
        if not isinstance(module, nn.Linear) or tuple(module.weight.shape) != shape:
            raise BaseModelError(f"module {path} of the base model is not a linear module of shape {list(shape)}")
        found[path] = module
    return found


def _replace(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    for path, module in modules.items():
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, module)


def _stretches(tensors: Iterable[TensorSpec], unit: int) -> Indices:
    """Return ``[n]``: which stretches of ``unit`` elements of a body hold these tensors, one after the other."""
    return np.concatenate([np.arange(t.elements // unit) + t.offset_elements // unit for t in tensors])


def _places_of_a(tensors: Iterable[TensorSpec], unit: int, max_adapters: int) -> list[Indices]:
    """Return, for every place in a slot, the stretches ``[n]`` of the slot that an adapter's A tensors go to.

    A module's A' holds the A of every place one after the other: place j of a tensor of n stretches that starts at
    stretch c of an adapter's A tensors goes to max_adapters * c + j * n and on.
    """
    lengths = np.array([tensor.elements // unit for tensor in tensors])
    starts = np.cumsum(lengths) - lengths
    first = np.arange(lengths.sum()) + np.repeat((max_adapters - 1) * starts, lengths)
    step = np.repeat(lengths, lengths)
    return [first + place * step for place in range(max_adapters)]


def _stage(body: Stretches, source: Indices, into: Tensor) -> Tensor:
    """Gather stretches of a body; through numpy, because torch does not take the read-only memory of a mapped pack."""
    target = into.view(torch.uint16) if into.dtype == torch.bfloat16 else into
    np.take(body, source, axis=0, out=target.numpy(), mode="clip")
    return into


def _rows(storage: Tensor, slot_of_row: Sequence[int]) -> Tensor:
    """Return the storage of each row's slot: a view where the rows' slots follow each other, else a copy."""
    first = slot_of_row[0] + 1
    if all(slot + 1 == first + index for index, slot in enumerate(slot_of_row)):
        return storage[first : first + len(slot_of_row)]
    return storage[torch.tensor(slot_of_row, device=storage.device) + 1]
