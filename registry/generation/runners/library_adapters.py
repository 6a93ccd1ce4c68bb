"""Adapters inside a model of transformers' modules, by hooks: the modules and their weights stay as they are.

What is added to a linear module's output is h B', h = x A', for each row of a batch its own:

    A' = [A_1; ...; A_k]^T [in, R],   B' = [f_1 s B_1, ..., f_k s B_k]^T [R, out],   R = k r

(f_i: factors of the merge, s = alpha / r). An entry holds an adapter's A of all modules side by side [r, sum of in],
and its B likewise [r, sum of out], so that the A' of all modules of a row is one copy from its entries, and a module's
own is a range of columns. Modules that read the same input (gate and up; query, key and value) have their A in
neighbouring rows and share one product.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from registry.errors import BaseModelError, UsageError
from registry.generation.requests import Bytes
from registry.store.layout import AdapterLayout

SIBLINGS = (("gate_proj", "up_proj"), ("q_proj", "k_proj", "v_proj"))
"""Modules of one parent that usually read the same input; a look at the input says whether they do."""
FEW_TOKENS = 16
"""Up to here products in float32 cost a CPU less than those in bfloat16, conversions counted."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The sum of a row's adapters: entries and their factors, as many."""

    entries: tuple[int, ...] = ()
    factors: tuple[float, ...] = ()


EMPTY = Slot()


@dataclass(slots=True)
class _Input:
    """What ``members`` modules read: their A' ``[n, in, R * members]`` in the pass, and h of the input seen last."""

    members: int
    a: Tensor = field(default_factory=lambda: torch.empty(0))
    seen: Tensor | None = None
    product: Tensor | None = None

    def times_a(self, x: Tensor) -> Tensor:
        """Return h of ``x``, ``[n, tokens, R * members]``; computed once for one ``x``."""
        if self.seen is not x or self.product is None:
            flat = x.view(self.a.shape[0], -1, self.a.shape[1])
            a = self.a if flat.shape[1] <= FEW_TOKENS else self.a.to(x.dtype)
            self.seen, self.product = x, torch.bmm(flat.to(a.dtype), a)
        return self.product


@dataclass(slots=True)
class _Module:
    """A linear module: the input that it reads, its place among the others that do, and its B' ``[n, R, out]``."""

    read: _Input
    member: int
    b: Tensor = field(default_factory=lambda: torch.empty(0))

    def add(self, x: Tensor, out: Tensor) -> Tensor:
        """Add h B' to ``out``, in place."""
        members = self.read.members
        h = self.read.times_a(x)
        if members > 1:
            h = h.view(*h.shape[:2], -1, members)[..., self.member]
        if self.member == members - 1:
            self.read.seen = self.read.product = None
        flat = out.view(h.shape[0], h.shape[1], -1)
        if flat.dtype == h.dtype:
            flat.baddbmm_(h, self.b.to(h.dtype))
        else:
            flat.copy_(flat.to(h.dtype).baddbmm_(h, self.b))
        return out


@dataclass(slots=True)
class _Active:
    """In which thread the hooks add something at the moment; 0 is none."""

    thread: int = 0


class Adapters:
    """Entries with adapters, and for each of ``places`` in a batch the A' and B' of what it was last asked for.

    Memory: ``cache_bytes`` of entries, and at most ``places`` * ``most_terms`` adapters for A' and B'. On a CPU all
    of it is float32.
    """

    def __init__(
        self,
        model: Any,
        layout: AdapterLayout,
        scale: float,
        *,
        places: int,
        most_terms: int,
        cache_bytes: int,
    ) -> None:
        """Hook into the layout's modules.

        Raises:
            BaseModelError: the model lacks a module of the layout, or it is not linear or of another shape.
            UsageError: there is no room for a single adapter.
        """
        if places < 1 or most_terms < 1:
            raise UsageError(f"a runner needs room for at least one adapter, not {places} rows x {most_terms}")
        self._layout, self._scale, self._most_terms = layout, scale, most_terms
        modules = find_modules(model, layout)
        weight = next(iter(modules.values())).weight
        dtype = torch.float32 if weight.device.type == "cpu" else weight.dtype
        self._by_members = _by_members(layout)
        self._body = torch.empty(layout.elements, dtype=getattr(torch, layout.dtype))
        self.entries = max(most_terms, cache_bytes // (layout.elements * dtype.itemsize))
        self._make_buffers(places, dtype, weight.device)
        self._make_views()
        self._held = [EMPTY] * places
        self._shown = (0, 0, 0)
        self._active = _Active()
        hooks = [
            modules[path].register_forward_hook(_hook(module, self._active)) for path, module in self._modules.items()
        ]
        self._finish = weakref.finalize(self, _remove, hooks)

    def _make_buffers(self, places: int, dtype: torch.dtype, device: torch.device) -> None:
        rank, outputs = self._layout.rank, sum(outputs for outputs, _ in self._layout.shapes.values())
        self._entries_a: dict[int, Tensor] = {}
        self._places_a: dict[int, Tensor] = {}
        for members, groups in self._by_members.items():
            shape = (rank, members, sum(self._layout.shapes[group[0]][1] for group in groups))
            self._entries_a[members] = torch.empty(self.entries, *shape, dtype=dtype, device=device)
            self._places_a[members] = untouched_zeros((places, self._most_terms, *shape), dtype, device)
        self._entries_b = torch.empty(self.entries, rank, outputs, dtype=dtype, device=device)
        self._places_b = untouched_zeros((places, self._most_terms, rank, outputs), dtype, device)

    def _make_views(self) -> None:
        """Make the modules in the order of the buffers' columns, and pairs of where a body's numbers lie and go."""
        self._modules: dict[str, _Module] = {}
        self._inputs: dict[int, list[_Input]] = {}
        self._into_a = {members: torch.empty_like(a[0]) for members, a in self._entries_a.items()}
        self._into_b = torch.empty_like(self._entries_b[0])
        self._a_sizes, self._b_sizes = {}, []
        self._from: list[Tensor] = []
        self._into: list[Tensor] = []
        after = 0
        flat = self._flat = self._body.to(self._into_b.device)
        for members, groups in self._by_members.items():
            self._inputs[members] = [_Input(members) for _ in groups]
            self._a_sizes[members] = [self._layout.shapes[group[0]][1] for group in groups]
            columns = self._into_a[members].split_with_sizes(self._a_sizes[members], 2)
            for group, read, column in zip(groups, self._inputs[members], columns, strict=True):
                for member, path in enumerate(group):
                    a, b = self._layout.modules[path]
                    self._modules[path] = _Module(read, member)
                    self._b_sizes.append(b.shape[0])
                    self._from.append(flat[a.offset_elements : a.offset_elements + a.elements].view(a.shape))
                    self._into.append(column[:, member])
                    self._from.append(flat[b.offset_elements : b.offset_elements + b.elements].view(b.shape).t())
                    self._into.append(self._into_b[:, after : after + b.shape[0]])
                    after += b.shape[0]

    @torch.inference_mode()
    def put(self, entry: int, body: Bytes) -> None:
        """Copy an adapter into an entry.

        Raises:
            IntegrityError: it is not of the layout's length.
            UsageError: there is no such entry.
        """
        if not 0 <= entry < self.entries:
            raise UsageError(f"there is no adapter entry {entry}, only 0 to {self.entries - 1}")
        view = self._layout.checked(body)
        # Through numpy, because torch does not take the read-only memory of a mapped pack.
        np.copyto(self._body.view(torch.uint8).numpy(), np.frombuffer(view, dtype=np.uint8))
        self._flat.copy_(self._body)
        torch._foreach_copy_(self._into, self._from)
        for members, into in self._into_a.items():
            self._entries_a[members][entry].copy_(into)
        self._entries_b[entry].copy_(self._into_b)
        for place, slot in enumerate(self._held):
            if entry in slot.entries:
                self._fill(place, EMPTY)  # it is filled again when it is used next

    def slot(self, entries: Sequence[int], factors: Sequence[float]) -> Slot:
        """Return the slot with these entries.

        Raises:
            UsageError: there are too many, not a factor for each, or no such entry.
        """
        if len(entries) > self._most_terms or len(entries) != len(factors):
            raise UsageError(
                f"{len(entries)} adapters with {len(factors)} factors do not fit a row for {self._most_terms}"
            )
        if any(not 0 <= entry < self.entries for entry in entries):
            raise UsageError(f"there are adapter entries 0 to {self.entries - 1}, not {list(entries)}")
        return Slot(tuple(entries), tuple(map(float, factors)))

    @contextmanager
    def active(self, first: int, slots: Sequence[Slot]) -> Iterator[None]:
        """For the time of the block and in this thread, add for row i of a batch the sum of ``slots[i]``.

        A' and B' of row i lie at place ``first`` + i, and are copied there where that place has others yet. If all
        slots are empty, the model computes what the bare model computes, bit by bit.
        """
        if not any(slot.entries for slot in slots):
            yield
            return
        self._show(first, slots)
        self._active.thread = get_ident()
        try:
            yield
        finally:
            self._active.thread = 0

    def close(self) -> None:
        """Take the hooks out of the model, as happens when nothing refers to this any more."""
        self._finish()

    def _show(self, first: int, slots: Sequence[Slot]) -> None:
        """Have the modules see the places from ``first`` on, filled with these slots."""
        for place, slot in enumerate(slots, first):
            if self._held[place] != slot:
                self._fill(place, slot)
        shown = first, len(slots), max(len(slot.entries) for slot in slots)
        if self._shown == shown:
            return
        places, terms = slice(first, first + len(slots)), shown[2]
        for members, storage in self._places_a.items():
            a = storage[places, :terms].flatten(1, 3).transpose(1, 2)
            for read, own in zip(self._inputs[members], a.split_with_sizes(self._a_sizes[members], 1), strict=True):
                read.a = own
        b = self._places_b[places, :terms].flatten(1, 2).split_with_sizes(self._b_sizes, 2)
        for module, own in zip(self._modules.values(), b, strict=True):
            module.b = own
        self._shown = shown

    def _fill(self, place: int, slot: Slot) -> None:
        before, terms = len(self._held[place].entries), len(slot.entries)
        chosen = torch.tensor(slot.entries, dtype=torch.int64, device=self._entries_b.device)
        pairs = [(self._places_a[members], entries) for members, entries in self._entries_a.items()]
        for storage, entries in (*pairs, (self._places_b, self._entries_b)):
            if terms:
                torch.index_select(entries, 0, chosen, out=storage[place, :terms])
            storage[place, terms:before] = 0
        for number, factor in enumerate(slot.factors):
            self._places_b[place, number].mul_(factor * self._scale)
        self._held[place] = slot


def _hook(module: _Module, active: _Active) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor | None]:
    def add(_: nn.Module, inputs: tuple[Tensor], out: Tensor) -> Tensor | None:
        # Other threads may use the same model, with adapters of their own or none.
        return module.add(inputs[0], out) if active.thread == get_ident() else None

    return add


def _remove(hooks: Sequence[RemovableHandle]) -> None:
    for hook in hooks:
        hook.remove()


def find_modules(model: nn.Module, layout: AdapterLayout) -> dict[str, nn.Linear]:
    """Return the linear modules that a layout is for, by their paths.

    Raises:
        BaseModelError: the model lacks one, or it is not linear or of another shape.
    """
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


def untouched_zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros; on a CPU their memory is taken only when it is first written."""
    if device.type != "cpu":
        return torch.zeros(*shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(*shape)


def _by_members(layout: AdapterLayout) -> dict[int, list[tuple[str, ...]]]:
    """Return the layout's modules in groups that may read the same input, by the size of the group."""
    groups: dict[int, list[tuple[str, ...]]] = {}
    for path, (_, inputs) in layout.shapes.items():
        group = tuple(other for other in _siblings(path) if layout.shapes.get(other, (0, 0))[1] == inputs)
        if path == group[0]:
            groups.setdefault(len(group), []).append(group)
    return groups


def _siblings(path: str) -> Iterable[str]:
    parent, _, name = path.rpartition(".")
    names = next((names for names in SIBLINGS if name in names), (name,))
    return [f"{parent}.{other}" if parent else other for other in names]
