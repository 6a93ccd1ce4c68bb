"""Many adapters at once: a matrix whose row i is adapter i, exactly as its body lies in the store.

The frozen base runs once for all of them; every row of a batch picks its adapter's A and B.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

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
    """y + scale * B A x for every row's own A and B, whose gradients are added to the stack directly.

    Autograd would make a leaf of every A and B and a copy of each for every row; the stack is one matrix instead.
    """

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, x: Tensor, y: Tensor, module: StackedLinear) -> Tensor:
        rows = module.rows
        a = module.a[0].index_select(0, rows).to(x.dtype)
        b = module.b[0].index_select(0, rows).to(x.dtype)
        low = torch.bmm(x, a.transpose(1, 2))
        ctx.save_for_backward(x, low, a, b)
        ctx.module, ctx.rows = module, rows
        return torch.baddbmm(y, low, b.transpose(1, 2), alpha=module.scale)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, low, a, b = ctx.saved_tensors
        (slope,), module = outer, ctx.module
        low_slope = torch.bmm(slope, b).mul_(module.scale)
        module.a[1].index_add_(0, ctx.rows, torch.bmm(low_slope.transpose(1, 2), x).float())
        module.b[1].index_add_(0, ctx.rows, torch.bmm(slope.transpose(1, 2), low).float(), alpha=module.scale)
        return None, torch.bmm(low_slope, a) if ctx.needs_input_grad[1] else None, slope, None


class StackedLinear(nn.Module):
    """A frozen linear module plus, for every row of the batch, the low-rank product of that row's adapter.

    y = W x + (alpha / r) B A x, computed in the dtype of x; A and B stay float32.
    """

    def __init__(self, base: nn.Linear, stack: AdapterStack, path: str, scale: float) -> None:
        """Wrap ``base``, the module at ``path``; ``rows`` says which adapter each row of the next batch has."""
        super().__init__()
        self.base = base
        self.a, self.b, self.scale = stack.views(path, "A"), stack.views(path, "B"), scale
        device = stack.parameters.device
        self.rows = torch.zeros(1, dtype=torch.int64, device=device)
        # Below the first adapter nothing needs a gradient, so autograd would not record the first product.
        self._anchor = torch.zeros((), device=device, requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, tokens, in]`` to ``[batch, tokens, out]``."""
        result: Tensor = _LowRank.apply(self._anchor, x, self.base(x), self)  # type: ignore[no-untyped-call]
        return result


class Attached:
    """The stack's modules inside a model; ``choose`` sets which adapter each row of the next batch has."""

    def __init__(self, modules: Sequence[StackedLinear]) -> None:
        """Keep the modules."""
        self._modules = modules

    def choose(self, rows: Tensor) -> None:
        """Set ``rows``, ``[batch]`` int64."""
        for module in self._modules:
            module.rows = rows


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
