"""Many adapters at once: a matrix whose row i is adapter i.

The frozen base runs once for all of them; every token has its own document's A and B.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from registry.recipe import Recipe
from registry.store.headers import Bytes
from registry.store.layout import AdapterLayout, TensorSpec

if TYPE_CHECKING:
    from registry.encoding.kernels import Kernels

ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON = 0.9, 0.999, 1e-8
"""The defaults of torch.optim.AdamW, which the reference uses."""


@dataclass(frozen=True, slots=True)
class Adapted:
    """A linear module's adapters and their gradients, as views of the stack.

    ``a`` and ``of_a`` ``[n, r, in]``, ``b`` and ``of_b`` ``[n, r, out]`` (B transposed), float32; ``columns`` are the
    module's among those that are computed with it.
    """

    a: Tensor
    of_a: Tensor
    b: Tensor
    of_b: Tensor
    columns: slice


class AdapterStack:
    """The parameters, gradients and AdamW state of ``n`` adapters that are trained together.

    ``parameters`` and ``gradients`` are ``[n, elements]`` float32, in the layout's order, but with every B transposed,
    so that what a token is multiplied with lies together. An optimiser step touches only the rows that took part, with
    their own step count, so every row moves as if it were alone.
    """

    def __init__(
        self, layout: AdapterLayout, recipe: Recipe, total_steps: Sequence[int], device: str, kernels: Kernels
    ) -> None:
        """Start ``len(total_steps)`` adapters from the recipe's shared A and B = 0."""
        count = len(total_steps)
        self.parameters = initial_parameters(layout, recipe.init_seed).to(device).repeat(count, 1)
        self.gradients = torch.zeros_like(self.parameters)
        self._mean = torch.zeros_like(self.parameters)
        self._square = torch.zeros_like(self.parameters)
        self._recipe = recipe
        self._kernels = kernels
        self._steps = torch.zeros(count, dtype=torch.float64)
        self._total_steps = torch.tensor(total_steps, dtype=torch.float64)
        self._stored = getattr(torch, layout.dtype)
        self._tensors = {(tensor.module, tensor.which): tensor for tensor in layout.tensors}

    def adapted(self, paths: Sequence[str], outs: Sequence[int]) -> list[Adapted]:
        """Return the adapters of those modules at ``paths`` that have some; ``outs`` are the modules' rows."""
        found: list[Adapted] = []
        start = 0
        for path, out in zip(paths, outs, strict=True):
            if (path, "A") in self._tensors:
                a, b = self._tensors[path, "A"], self._tensors[path, "B"]
                columns = slice(start, start + out)
                both = (self.parameters, self.gradients)
                a_views, b_views = ([self._view(state, tensor) for state in both] for tensor in (a, b))
                found.append(Adapted(a_views[0], a_views[1], b_views[0], b_views[1], columns))
            start += out
        return found

    def _view(self, state: Tensor, tensor: TensorSpec) -> Tensor:
        rows, columns = tensor.shape if tensor.which == "A" else reversed(tensor.shape)
        part = state[:, tensor.offset_elements : tensor.offset_elements + tensor.elements]
        return part.view(len(state), rows, columns)

    def start_from(self, body: Bytes) -> None:
        """Let every adapter start from ``body``, which lies as in the store, in the layout's dtype."""
        stored = torch.from_numpy(np.frombuffer(body, dtype=np.uint8).copy()).view(self._stored)
        start = stored.to(torch.float32)[None]
        for tensor in self._tensors.values():
            if tensor.which == "B":
                part = self._view(start, tensor)
                rows, columns = tensor.shape
                part.copy_(part.reshape(1, rows, columns).transpose(1, 2).clone())
        self.parameters.copy_(start.expand_as(self.parameters))

    def bodies(self, dtype: torch.dtype) -> Tensor:
        """Return ``[n, elements]`` on the CPU, every row as the adapter's body lies in the store."""
        bodies = self.parameters.detach().to("cpu", dtype)
        for tensor in self._tensors.values():
            if tensor.which == "B":
                part = self._view(bodies, tensor)
                part.copy_(part.transpose(1, 2).contiguous().view(part.shape))
        return bodies

    @torch.no_grad()
    def step(self, active: Sequence[int]) -> None:
        """Take one AdamW step (arXiv 1711.05101) on the rows ``active`` and clear their gradients."""
        recipe, rows = self._recipe, torch.tensor(list(active))
        if recipe.freeze_a:
            self._keep_a()
        done = self._steps[rows]
        rates = torch.full_like(done, recipe.learning_rate)
        if recipe.schedule == "cosine":
            rates = rates * 0.5 * (1 + torch.cos(math.pi * done / self._total_steps[rows]))
        self._steps[rows] = done + 1
        self._kernels.adamw(
            self.parameters,
            self.gradients,
            self._mean,
            self._square,
            active,
            rates,
            done + 1,
            recipe.weight_decay,
            (ADAM_BETA1, ADAM_BETA2),
            ADAM_EPSILON,
        )

    def _keep_a(self) -> None:
        """Clear the gradients of A, which then stays as it is (weight decay is refused with it)."""
        for tensor in self._tensors.values():
            if tensor.which == "A":
                self._view(self.gradients, tensor).zero_()


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
