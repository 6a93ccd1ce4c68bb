"""Many adapters at once: a matrix whose row i is adapter i, exactly as its body lies in the store.

The frozen base runs once for all of them; every token has its own document's A and B.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from registry.encoding.packing import Block, Packing
from registry.recipe import Recipe
from registry.store.layout import AdapterLayout

ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON = 0.9, 0.999, 1e-8
"""The defaults of torch.optim.AdamW, which the reference uses."""


class AdapterStack:
    """The parameters, gradients and AdamW state of ``n`` adapters that are trained together.

    ``parameters`` and ``gradients`` are ``[n, elements]`` float32. An optimiser step touches only the rows that took
    part, with their own step count, so every row moves as if it were alone.
    """

    def __init__(self, layout: AdapterLayout, recipe: Recipe, total_steps: Sequence[int], device: str) -> None:
        """Start ``len(total_steps)`` adapters from the recipe's shared A and B = 0."""
        count = len(total_steps)
        self.parameters = initial_parameters(layout, recipe.init_seed).to(device).repeat(count, 1)
        self.gradients = torch.zeros_like(self.parameters)
        self._mean = torch.zeros_like(self.parameters)
        self._square = torch.zeros_like(self.parameters)
        self._recipe = recipe
        self._steps = torch.zeros(count, dtype=torch.float64)
        self._total_steps = torch.tensor(total_steps, dtype=torch.float64)
        self._tensors = {(tensor.module, tensor.which): tensor for tensor in layout.tensors}

    def views(self, module: str, which: Literal["A", "B"]) -> tuple[Tensor, Tensor]:
        """Return one module's A ``[n, r, in]`` or B ``[n, out, r]`` and its gradient, sharing the stack's memory."""
        tensor = self._tensors[module, which]
        part = slice(tensor.offset_elements, tensor.offset_elements + math.prod(tensor.shape))
        shape = (len(self.parameters), *tensor.shape)
        return self.parameters[:, part].view(shape), self.gradients[:, part].view(shape)

    @torch.no_grad()
    def step(self, active: Sequence[int]) -> None:
        """Take one AdamW step (arXiv 1711.05101) on the rows ``active`` and clear all gradients."""
        recipe = self._recipe
        rows = torch.tensor(list(active))
        every = len(active) == len(self.parameters)
        done = self._steps[rows]
        rate = torch.full_like(done, recipe.learning_rate)
        if recipe.schedule == "cosine":
            rate = rate * 0.5 * (1 + torch.cos(math.pi * done / self._total_steps[rows]))
        done = done + 1
        self._steps[rows] = done
        device = self.parameters.device
        rows = rows.to(device)

        def column(values: Tensor) -> Tensor:
            return values.to(torch.float32)[:, None].to(device)

        def chosen(state: Tensor) -> Tensor:
            return state if every else state[rows]

        parameters, gradients = chosen(self.parameters), chosen(self.gradients)
        mean = chosen(self._mean).lerp_(gradients, 1 - ADAM_BETA1)
        square = chosen(self._square).mul_(ADAM_BETA2).addcmul_(gradients, gradients, value=1 - ADAM_BETA2)
        if recipe.weight_decay:
            parameters.mul_(column(1 - rate * recipe.weight_decay))
        spread = square.sqrt().div_(column((1 - ADAM_BETA2**done).sqrt())).add_(ADAM_EPSILON)
        parameters.sub_(mean / spread * column(rate / (1 - ADAM_BETA1**done)))
        if not every:
            for state, values in ((self.parameters, parameters), (self._mean, mean), (self._square, square)):
                state[rows] = values
        self.gradients.zero_()


def initial_parameters(layout: AdapterLayout, seed: int) -> Tensor:
    """Return ``[elements]`` float32: A uniform in +-1/sqrt(in) as PEFT starts it (Kaiming, a = sqrt 5), B zero.

    Drawn on the CPU in the layout's order, so that it is the same for every document and device.
    """
    generator = torch.Generator().manual_seed(seed)
    start = torch.zeros(layout.elements)
    for tensor in layout.tensors:
        if tensor.which == "A":
            bound = 1 / math.sqrt(tensor.shape[1])
            part = slice(tensor.offset_elements, tensor.offset_elements + math.prod(tensor.shape))
            start[part].uniform_(-bound, bound, generator=generator)
    return start


class _LowRank(torch.autograd.Function):
    """y + scale * B A x for every token's own A and B, whose gradients are added to the stack directly.

    The A of all members are one matrix, and so are their B: a token's product with another member's A is masked away.
    That is a few large products instead of many small ones, and no copy of A and B for every row.
    """

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, x: Tensor, y: Tensor, module: StackedLinear) -> Tensor:
        saved: list[Tensor] = []
        for block in module.blocks:
            a, b = module.matrices(block, x.dtype)
            low = _masked(x[0, block.tokens] @ a.T, block)
            y[0, block.tokens].addmm_(low, b, alpha=module.scale)
            saved += [a, b, low]
        ctx.mark_dirty(y)  # the base's own output, which nobody else needs
        ctx.save_for_backward(x, *saved)
        ctx.module, ctx.blocks = module, module.blocks
        return y

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        (slope,), module = outer, ctx.module
        x_slope = torch.empty_like(x) if ctx.needs_input_grad[1] else None
        for number, block in enumerate(ctx.blocks):
            a, b, low = saved[3 * number : 3 * number + 3]
            own_slope, own_x = slope[0, block.tokens], x[0, block.tokens]
            low_slope = _masked(own_slope @ b.T, block).mul_(module.scale)
            module.add_gradients(block, low_slope.T @ own_x, (low.T @ own_slope).mul_(module.scale))
            if x_slope is not None:
                torch.mm(low_slope, a, out=x_slope[0, block.tokens])
        return None, x_slope, slope, None


def _masked(low: Tensor, block: Block) -> Tensor:
    """Zero what ``[tokens, members * r]`` holds of other members than the token's own."""
    low.view(len(low), block.own.shape[1], -1).mul_(block.own[:, :, None])
    return low


class StackedLinear(nn.Module):
    """A frozen linear module plus, for every token, the low-rank product of its own document's adapter.

    y = W x + (alpha / r) B A x, computed in the dtype of x; A and B stay float32.
    """

    def __init__(self, base: nn.Linear, stack: AdapterStack, path: str, scale: float) -> None:
        """Wrap ``base``, the module at ``path``; ``blocks`` say whose the tokens of the next pass are."""
        super().__init__()
        self.base = base
        self.scale = scale
        self.blocks: Sequence[Block] = ()
        self._a, self._b = stack.views(path, "A"), stack.views(path, "B")
        # Below the first adapter nothing needs a gradient, so autograd would not record the first product.
        self._anchor = torch.zeros((), device=stack.parameters.device, requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[1, tokens, in]`` to ``[1, tokens, out]``."""
        result: Tensor = _LowRank.apply(self._anchor, x, self.base(x), self)  # type: ignore[no-untyped-call]
        return result

    def matrices(self, block: Block, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the block's A ``[members * r, in]`` and B ``[members * r, out]``."""
        a, b = self._a[0][block.members], self._b[0][block.members]
        return a.to(dtype).flatten(0, 1), b.to(dtype).transpose(1, 2).flatten(0, 1)

    def add_gradients(self, block: Block, of_a: Tensor, of_b: Tensor) -> None:
        """Add the gradients of what ``matrices`` returned to the stack's."""
        a, b = self._a[1][block.members], self._b[1][block.members]
        a += of_a.view(a.shape)
        b += of_b.view(len(b), -1, b.shape[1]).transpose(1, 2)


class Attached:
    """The stack's modules inside a model; ``choose`` says whose the tokens of the next pass are."""

    def __init__(self, modules: Sequence[StackedLinear]) -> None:
        """Keep the modules."""
        self._modules = modules

    def choose(self, packing: Packing) -> None:
        """Let the next pass be over ``packing``."""
        for module in self._modules:
            module.blocks = packing.blocks


@contextmanager
def attached(model: nn.Module, layout: AdapterLayout, stack: AdapterStack, scale: float) -> Iterator[Attached]:
    """Put the stack into ``model`` for the time of the block, and leave the model as it was."""
    modules: list[tuple[nn.Module, str, nn.Linear, StackedLinear]] = []
    for path in dict.fromkeys(tensor.module for tensor in layout.tensors):
        parent = model.get_submodule(path.rpartition(".")[0])
        name = path.rpartition(".")[2]
        base = getattr(parent, name)
        modules.append((parent, name, base, StackedLinear(base, stack, path, scale)))
    try:
        for parent, name, _, wrapped in modules:
            setattr(parent, name, wrapped)
        yield Attached([wrapped for *_, wrapped in modules])
    finally:
        for parent, name, base, _ in modules:
            setattr(parent, name, base)
