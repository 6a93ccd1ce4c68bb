"""How an adapter lies in its bytes: one header for a whole recipe, and one flat vector.

All adapters of a recipe have the same tensors, so their ``adapter_model.safetensors`` differ only behind the header.
The layout knows that header and where each tensor begins in the flat vector; with it, serialising is a concatenation
and loading is a slice. The bytes are those that ``safetensors.torch.save`` writes for PEFT's key names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Literal

from registry.errors import IntegrityError
from registry.store.headers import ITEM_BYTES, Bytes, Header, build_header, header_size, parse_header

AdapterDtype = Literal["float32", "bfloat16"]
Which = Literal["A", "B"]

MAX_HEADER_BYTES = 8 * 1024 * 1024
"""Larger headers are refused: 60,000 tensors, far more than any model has linear modules."""

_SAFETENSORS_DTYPE: dict[AdapterDtype, str] = {"float32": "F32", "bfloat16": "BF16"}
_DTYPE: dict[str, AdapterDtype] = {spelt: dtype for dtype, spelt in _SAFETENSORS_DTYPE.items()}
_METADATA = {"format": "pt"}
_KEY = re.compile(r"base_model\.model\.(?P<module>[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*)\.lora_(?P<which>[AB])\.weight")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of an adapter: ``elements`` numbers from ``offset_elements`` of the flat vector, row by row.

    ``which`` is "A" with the shape [r, in] or "B" with the shape [out, r]; ``module`` is the linear module's path in
    the base model.
    """

    name: str
    module: str
    which: Which
    shape: tuple[int, int]
    offset_elements: int

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class AdapterLayout:
    """The tensors of an adapter in the order in which they lie; get one from ``of`` or ``read_layout``.

    A body is a flat vector of ``elements`` numbers of ``dtype``, so a stack [n, elements] holds n adapters and row i is
    the body of adapter i.
    """

    rank: int
    dtype: AdapterDtype
    tensors: tuple[TensorSpec, ...]

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, int]], rank: int, dtype: AdapterDtype) -> AdapterLayout:
        """Return the layout for linear modules of ``shapes`` (path -> (out, in)), cached by its arguments.

        Raises:
            ValueError: there is no module, or a size is not positive.
        """
        return _layout(tuple(sorted(shapes.items())), rank, dtype)

    @cached_property
    def header(self) -> bytes:
        """Length, JSON and padding, as they stand before every body."""
        spelt = _SAFETENSORS_DTYPE[self.dtype]
        return build_header(_METADATA, ((spec.name, spelt, spec.shape) for spec in self.tensors))

    @property
    def element_bytes(self) -> int:
        """Bytes of one number: 4 or 2."""
        return ITEM_BYTES[_SAFETENSORS_DTYPE[self.dtype]]

    @cached_property
    def elements(self) -> int:
        """How many numbers a body has."""
        return sum(spec.elements for spec in self.tensors)

    @property
    def body_bytes(self) -> int:
        """Bytes of a body."""
        return self.elements * self.element_bytes

    @property
    def size_bytes(self) -> int:
        """Bytes of a whole adapter, header included."""
        return len(self.header) + self.body_bytes

    @cached_property
    def modules(self) -> Mapping[str, tuple[TensorSpec, TensorSpec]]:
        """The A and the B of every module, by the module's path."""
        specs = {(spec.module, spec.which): spec for spec in self.tensors}
        return {spec.module: (spec, specs[spec.module, "B"]) for spec in self.tensors if spec.which == "A"}

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(out, in) of every module, as ``of`` takes them."""
        return {module: (b.shape[0], a.shape[1]) for module, (a, b) in self.modules.items()}

    def serialise(self, body: Bytes) -> bytes:
        """Return the ``adapter_model.safetensors`` of a body (contiguous, little-endian, any item format).

        Raises:
            ValueError: the body has another size than ``body_bytes``.
        """
        view = memoryview(body)
        if view.nbytes != self.body_bytes:
            raise ValueError(f"a body of this layout has {self.body_bytes} bytes, not {view.nbytes}")
        return self.header + view.cast("B")

    def body(self, data: Bytes) -> memoryview:
        """Return the flat vector of an adapter as bytes, without copying.

        Raises:
            IntegrityError: the header or the length is not this layout's.
        """
        view = memoryview(data).cast("B")
        if bytes(view[: len(self.header)]) != self.header:  # views compare item by item, bytes all at once
            raise IntegrityError("an adapter's header is not its recipe's: other modules, shapes, rank or dtype")
        if view.nbytes != self.size_bytes:
            raise IntegrityError(f"an adapter has {view.nbytes} bytes; its recipe's have {self.size_bytes}")
        return view[len(self.header) :]

    def checked(self, body: Bytes) -> memoryview:
        """Return a body as bytes, without copying.

        Raises:
            IntegrityError: it is not of this layout's length.
        """
        view = memoryview(body).cast("B")
        if view.nbytes != self.body_bytes:
            raise IntegrityError(f"an adapter of {view.nbytes} bytes was given where {self.body_bytes} fit")
        return view


@lru_cache(maxsize=64)
def _layout(shapes: tuple[tuple[str, tuple[int, int]], ...], rank: int, dtype: AdapterDtype) -> AdapterLayout:
    if not shapes or rank < 1 or any(size < 1 for _, shape in shapes for size in shape):
        raise ValueError(f"no adapter has rank {rank} on modules of shapes {dict(shapes)}")
    named: list[tuple[str, str, Which, tuple[int, int]]] = []
    for module, (outputs, inputs) in shapes:
        named.append((f"base_model.model.{module}.lora_A.weight", module, "A", (rank, inputs)))
        named.append((f"base_model.model.{module}.lora_B.weight", module, "B", (outputs, rank)))
    # safetensors sorts tensors of one dtype by the bytes of their names, so layer 10 comes before layer 2.
    named.sort(key=lambda item: item[0].encode())
    tensors: list[TensorSpec] = []
    offset = 0
    for name, module, which, shape in named:
        tensors.append(TensorSpec(name, module, which, shape, offset))
        offset += prod(shape)
    return AdapterLayout(rank=rank, dtype=dtype, tensors=tuple(tensors))


def read_layout(data: Bytes) -> AdapterLayout:
    """Return the layout of an adapter from elsewhere after checking every part of its header.

    Accepted is exactly what PEFT writes for LoRA on linear modules, all of one rank and dtype; only the body's numbers
    remain to be checked (``check_body``).

    Raises:
        IntegrityError: the header is too large, malformed or not in safetensors' order, a key is there twice or is no
            LoRA weight, a shape or dtype does not fit, or bytes are missing or left over.
    """
    view = memoryview(data).cast("B")
    layout = _read_header(bytes(view[: header_size(view[:8], limit=MAX_HEADER_BYTES, what="the adapter")]))
    layout.body(view)
    return layout


@lru_cache(maxsize=64)
def _read_header(data: bytes) -> AdapterLayout:
    header = parse_header(data, what="the adapter")
    shapes, rank = lora_modules(header)
    dtypes = {entry.dtype for entry in header.entries}
    if len(dtypes) != 1 or not dtypes <= _DTYPE.keys():
        raise IntegrityError(
            f"the adapter must have one rank and one dtype of {', '.join(_DTYPE)}; it has the dtypes {sorted(dtypes)}"
        )
    layout = AdapterLayout.of(shapes, rank, _DTYPE[dtypes.pop()])
    if layout.header != data:
        raise IntegrityError("the adapter's header is not as safetensors writes it: other order, spacing or metadata")
    return layout


def lora_modules(header: Header) -> tuple[dict[str, tuple[int, int]], int]:
    """Return (out, in) of every module that an adapter's tensors are for, and their rank.

    Raises:
        IntegrityError: a tensor is no LoRA weight or no matrix, one of A and B is missing, or ranks differ.
    """
    inputs: dict[str, int] = {}
    outputs: dict[str, int] = {}
    ranks: set[int] = set()
    for entry in header.entries:
        key = _KEY.fullmatch(entry.name)
        if key is None:
            raise IntegrityError(f"the adapter holds {entry.name!r}, which is no LoRA weight")
        if len(entry.shape) != 2 or 0 in entry.shape:
            raise IntegrityError(f"the adapter's {entry.name!r} has the shape {list(entry.shape)}, which is no matrix")
        if key["which"] == "A":
            rank, inputs[key["module"]] = entry.shape
        else:
            outputs[key["module"]], rank = entry.shape
        ranks.add(rank)
    if alone := inputs.keys() ^ outputs.keys():
        raise IntegrityError(f"the adapter has only one of A and B for {min(alone)!r}")
    if len(ranks) != 1:
        raise IntegrityError(f"the adapter must have one rank and one dtype; it has the ranks {sorted(ranks)}")
    return {module: (outputs[module], inputs[module]) for module in inputs}, ranks.pop()


def check_body(layout: AdapterLayout, body: Bytes) -> None:
    """Check that an adapter does something: every number is finite and not every B is zero.

    Raises:
        IntegrityError: there is a NaN or an infinity (the message names the tensor), or all B are zero.
        ValueError: the body has another size than the layout's.
    """
    import numpy as np  # costs 0.1 s, which `search` and `info` need not pay

    view = memoryview(body).cast("B")
    if view.nbytes != layout.body_bytes:
        raise ValueError(f"a body of this layout has {layout.body_bytes} bytes, not {view.nbytes}")
    # bfloat16 is the upper half of float32: sign, 8 bits of exponent (all set for NaN and infinity), 7 of fraction.
    wide = layout.element_bytes == 4
    exponent, magnitude = (0x7F800000, 0x7FFFFFFF) if wide else (0x7F80, 0x7FFF)
    bits = np.frombuffer(view, dtype="<u4" if wide else "<u2")
    if not _is_finite(view, wide):
        first = int(((bits & exponent) == exponent).argmax())
        name = next(spec.name for spec in layout.tensors if first < spec.offset_elements + spec.elements)
        raise IntegrityError(f"the adapter's {name!r} holds a number that is not finite")
    b_tensors = (bits[s.offset_elements : s.offset_elements + s.elements] for s in layout.tensors if s.which == "B")
    if not any((numbers & magnitude).any() for numbers in b_tensors):
        raise IntegrityError("the adapter has no effect: every B is zero")


def _is_finite(body: memoryview, wide: bool) -> bool:
    import numpy as np

    if wide:  # the extremes of numbers among which there is a NaN are NaN
        numbers = np.frombuffer(body, dtype="<f4")
        return bool(np.isfinite(numbers.min()) and np.isfinite(numbers.max()))
    return bool((np.frombuffer(body, dtype="<u2") & 0x7FFF).max() < 0x7F80)
