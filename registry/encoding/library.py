"""Blocks of any architecture, run by transformers' own modules and PyTorch's autograd, over packed rows.

Attention over packed rows is registered with transformers as a function of its own, so that every architecture that
goes through its interface computes by it, with its own projections, norms and rotations.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from registry.base_model import LoadedModel
from registry.encoding.kernels.portable import attend
from registry.encoding.low_rank import MaskedLowRank
from registry.encoding.packing import Packing
from registry.encoding.stack import AdapterStack
from registry.store.layout import AdapterLayout

NAME = "pragreg_packed"


class _LowRankFunction(torch.autograd.Function):
    """y + scale * B A x; the gradients of A and B go to the stack directly."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, x: Tensor, y: Tensor, module: StackedLinear) -> Tensor:
        assert module.packing is not None
        ctx.done = module.low_rank.forward(x[0], y[0], module.packing)
        ctx.mark_dirty(y)  # the base's own output, which nobody else needs
        ctx.save_for_backward(x)
        ctx.low_rank = module.low_rank
        return y

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (x,), (slope,) = ctx.saved_tensors, outer
        x_slope = torch.zeros_like(x) if ctx.needs_input_grad[1] else None
        ctx.low_rank.backward(ctx.done, x[0], slope[0], None if x_slope is None else x_slope[0])
        return None, x_slope, slope, None


class StackedLinear(nn.Module):
    """A frozen linear module plus, for every token, the low-rank product of its own document's adapter.

    y = W x + (alpha / r) B A x, computed in the dtype of x; A and B stay float32.
    """

    def __init__(self, base: nn.Linear, stack: AdapterStack, path: str, scale: float) -> None:
        """Wrap ``base``, the module at ``path``; ``packing`` is the next pass'."""
        super().__init__()
        self.base = base
        self.low_rank = MaskedLowRank(stack.adapted([path], [base.out_features]), base.out_features, scale)
        self.packing: Packing | None = None
        # Below the first adapter nothing needs a gradient, so autograd would not record the first product.
        self._anchor = torch.zeros((), device=stack.parameters.device, requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[1, tokens, in]`` to ``[1, tokens, out]``."""
        result: Tensor = _LowRankFunction.apply(self._anchor, x, self.base(x), self)  # type: ignore[no-untyped-call]
        return result


class LibraryBlocks:
    """The blocks of a loaded model with a stack of adapters on them; see ``Decoder`` for the two methods."""

    def __init__(self, loaded: LoadedModel, modules: list[StackedLinear]) -> None:
        """Keep what ``library_blocks`` put into the model."""
        self._body, self._modules = loaded.model.get_decoder(), modules
        self._hidden: Tensor | None = None

    def forward(self, packing: Packing) -> Tensor:
        """Return the last hidden states ``[tokens, hidden]``, and keep what ``backward`` needs."""
        for module in self._modules:
            module.packing = packing
        output = self._body(
            input_ids=packing.ids[None], position_ids=packing.positions[None], packing=packing, use_cache=False
        )
        hidden: Tensor = output.last_hidden_state[0]
        self._hidden = hidden
        return hidden.detach()

    def backward(self, slope: Tensor) -> None:
        """Take the gradient of the loss by the last hidden states ``[tokens, hidden]``."""
        assert self._hidden is not None
        self._hidden.backward(slope)  # type: ignore[no-untyped-call]
        self._hidden = None


@contextmanager
def library_blocks(
    loaded: LoadedModel, layout: AdapterLayout, stack: AdapterStack, scale: float
) -> Iterator[LibraryBlocks]:
    """Put the stack into the model for the time of the block, and leave the model as it was."""
    model = loaded.model
    modules: list[tuple[Any, str, Any, StackedLinear]] = []
    for path in dict.fromkeys(tensor.module for tensor in layout.tensors):
        parent = model.get_submodule(path.rpartition(".")[0])
        name = path.rpartition(".")[2]
        base = getattr(parent, name)
        modules.append((parent, name, base, StackedLinear(base, stack, path, scale)))
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        for parent, name, _, wrapped in modules:
            setattr(parent, name, wrapped)
        yield LibraryBlocks(loaded, [wrapped for *_, wrapped in modules])
    finally:
        for parent, name, base, _ in modules:
            setattr(parent, name, base)
        model.set_attn_implementation(before)


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Return what every token attends to in its own row, up to itself.

    Args:
        module: the attention module; unused but for the interface.
        query: ``[1, heads, tokens, width]``.
        key: ``[1, key heads, tokens, width]``; each is shared by heads / key heads queries.
        value: like ``key``.
        attention_mask: must be None: rows are causal.
        packing: where the rows lie.
        scaling: of the scores; 1 / sqrt(width) if None.
        softcap: scores are cap * tanh(score / cap) (Gemma 2).
        sliding_window: how many tokens, itself included, a token sees; None for all.

    Returns:
        ``[1, tokens, heads, width]`` and None for the weights.
    """
    if attention_mask is not None:
        raise ValueError("packed rows take no attention mask")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return attend(q, k, v, packing, scale, softcap, sliding_window)[None], None


AttentionInterface.register(NAME, packed_attention)
