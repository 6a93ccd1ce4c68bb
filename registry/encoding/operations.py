"""Floating-point operations of encoding, from counts of tokens; a multiplication and an addition are two.

Attention's scores and the adapters' own products are left out: a few in a hundred for passages.
"""

from __future__ import annotations

from registry.base_model import Matrices
from registry.recipe import Recipe


def operations(matrices: Matrices, tokens: int) -> int:
    """Return 4 x parameters x tokens: the forward pass, and the gradient of activations through a frozen base.

    ``parameters`` are all that multiply a token, the head's included even if it is tied. ``tokens`` are the trained
    ones, every epoch counted. Weights get no gradient, which would be another 2.
    """
    return 4 * matrices.parameters * tokens


def operations_needed(matrices: Matrices, recipe: Recipe, tokens: int, loss_tokens: int) -> int:
    """Return the operations that a recipe leaves to be done.

    Blocks below the first adapted one are run once and not once an epoch, and get no backward pass; the head is
    needed only for the ``loss_tokens`` that the loss counts. Both numbers of tokens have every epoch counted.
    """
    outputs, inputs = matrices.head
    head = outputs * inputs
    below = matrices.below(recipe.first_layer)
    adapted = matrices.parameters - head - below
    return 4 * adapted * tokens + 2 * below * tokens // recipe.epochs + 4 * head * loss_tokens
