"""Merged-into-weights mode: one hot combination of adapters inside the base's weights, for the time of a block.

Every module that the adapters are for computes with W + sum of f_i s B_i A_i, so a token costs what it costs the bare
model. The sum is rounded to the model's dtype: in bfloat16 what is small beside W is lost, which slots keep. Afterwards
the weights are what they were, bit by bit; a copy of them is kept meanwhile, in main memory.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import numpy as np
import torch
from torch import Tensor

from registry.generation.requests import Bytes, Term
from registry.generation.runners import Runner
from registry.store.layout import AdapterLayout, TensorSpec

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What may raise anywhere, where there is a handler that does."""


@contextmanager
def merged_into_weights(runner: Runner, layout: AdapterLayout, terms: Sequence[Term], scale: float) -> Iterator[None]:
    """For the time of the block, have the exact sum of ``terms`` in the weights of all modules of ``layout``.

    ``scale`` is alpha / r. Rows of the block are injected without adapters, unless these are to be added. Keys and
    values from before the block are those of other weights, and so are the block's own after it: rows end with it.
    Whatever ends the block, the weights are put back; Ctrl-C waits while they are changed.

    Raises:
        IntegrityError: a body is not of the layout's length; then nothing is changed.
        BaseModelError: the runner has no such module.
    """
    vectors = [_numbers(layout, term.body) for term in terms]
    factors = [term.factor * scale for term in terms]
    before: dict[str, Tensor] = {}
    try:
        with _undisturbed():
            for path, (a, b) in layout.modules.items():
                weight = runner.weight(path)
                before[path] = weight.to("cpu", copy=True)
                runner.set_weight(path, _changed(weight, vectors, factors, a, b))
        yield
    finally:
        try:
            _put_back(runner, before)
        finally:
            _put_back(runner, before)  # where Ctrl-C came before the line above could keep it off


def _put_back(runner: Runner, before: dict[str, Tensor]) -> None:
    with _undisturbed():
        # Backwards: where two paths are one weight, the first copy is the one from before.
        for path in reversed([*before]):
            runner.set_weight(path, before[path].to(runner.weight(path).device))
            del before[path]


@torch.no_grad()
def _changed(
    weight: Tensor, vectors: Sequence[Tensor], factors: Sequence[float], a: TensorSpec, b: TensorSpec
) -> Tensor:
    """Return W plus the terms' B A, computed in float32."""
    total = weight.float() if weight.dtype != torch.float32 else weight.clone()
    for vector, factor in zip(vectors, factors, strict=True):
        total.addmm_(_part(vector, b).to(total.device), _part(vector, a).to(total.device), alpha=factor)
    return total.to(weight.dtype)


def _part(vector: Tensor, spec: TensorSpec) -> Tensor:
    return vector[spec.offset_elements : spec.offset_elements + spec.elements].view(spec.shape).float()


def _numbers(layout: AdapterLayout, body: Bytes) -> Tensor:
    view = layout.checked(body)
    vector = torch.empty(layout.elements, dtype=getattr(torch, layout.dtype))
    # Through numpy, because torch does not take the read-only memory of a mapped pack.
    np.copyto(vector.view(torch.uint8).numpy(), np.frombuffer(view, dtype=np.uint8))
    return vector


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep Ctrl-C and the like until the block has ended; other threads than the main one are never interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[tuple[int, FrameType | None]] = []
    handlers = {number: handler for number in SIGNALS if callable(handler := signal.getsignal(number))}
    try:
        for number in handlers:
            signal.signal(number, lambda number, frame: arrived.append((number, frame)))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in arrived:
            handlers[signal.Signals(number)](number, frame)
