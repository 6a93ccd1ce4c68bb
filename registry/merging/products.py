"""Inner products of adapters, and the factors of merges that follow from them.

An adapter is taken as one vector: all entries of what it adds to the weights, D = (alpha / r) B A of every module. Its
length is the Frobenius norm, and

    <D_i, D_j> = (alpha / r)^2 * sum over modules of tr((B_i^T B_j) (A_j A_i^T)),

so that no product B A is ever made. A sum of adapters is known by its factors v, and the inner product of two sums by
those of the adapters, G:  <v, w> = v^T G w.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from registry.store.headers import Bytes
from registry.store.layout import AdapterLayout, TensorSpec

Matrix = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float32]

LEAST_REST = 0.1
"""What is left of a document beside the ones before it must be this share of its length; less is left out.

Factors grow with the inverse of it, up to about 10, and the rounding of a merge in bfloat16 with them.
"""


def inner_products(layout: AdapterLayout, bodies: Sequence[Bytes], scale: float) -> Matrix:
    """Return ``[n, n]``: the inner products of n adapters with the factor ``scale`` = alpha / r.

    Products within a module are float32, their sum over modules float64.

    Raises:
        IntegrityError: a body is not of the layout's length.
    """
    vectors = [as_numbers(layout, body) for body in bodies]
    count, rank = len(vectors), layout.rank
    pairs = np.zeros((count * rank, count * rank))
    if vectors:
        for a, b in layout.modules.values():
            all_a = np.concatenate([matrix(vector, a) for vector in vectors])
            all_b = np.concatenate([matrix(vector, b) for vector in vectors], axis=1)
            pairs += (all_a @ all_a.T) * (all_b.T @ all_b)
    products: Matrix = pairs.reshape(count, rank, count, rank).sum(axis=(1, 3))
    return scale**2 * products


def combine(
    weights: Sequence[float], products: Matrix, *, common: bool, orthogonal: bool, cap: float | None
) -> tuple[tuple[float, ...], float]:
    """Return the factors of k adapters and of the common part C, if ``common``, whose products are the last.

    The sum is that of w_i E_i and C, in which E_i is D_i; D_i - C with ``common``; and what ``orthogonalise`` leaves of
    that with ``orthogonal``. With ``cap`` the sum is then scaled down to at most ``cap`` times the longest of the D_i.
    Adapters of weight 0 are left out of everything; where all are, there is no cap.

    Raises:
        ValueError: there are products of another number of adapters.
    """
    count = len(weights)
    if products.shape != (count + common, count + common):
        raise ValueError(f"products of shape {products.shape} are not those of {count} adapters (common: {common})")
    given = np.asarray(weights, dtype=np.float64)
    merged = given != 0
    lengths = np.sqrt(np.diagonal(products)[:count])
    parts = np.eye(count, len(products))
    if common:
        parts[:, -1] = -1
    if orthogonal:
        parts[merged] = orthogonalise(parts[merged], products, lengths[merged] * LEAST_REST)
    total = given @ parts
    if common:
        total[-1] += 1
    if cap is not None and merged.any():
        bound, length = cap * float(lengths[merged].max()), norm(total, products)
        if length > bound:
            total *= bound / length
    return tuple(total[:count].tolist()), float(total[-1]) if common else 0.0


def orthogonalise(parts: Matrix, products: Matrix, least: Matrix) -> Matrix:
    """Return ``[k, n]`` after Gram-Schmidt: every row, a sum of the n adapters, loses its projections on those before.

    Row i becomes 0, and nothing loses a projection on it, where no more than the length ``least[i]`` is left of it.
    """
    rest = parts.copy()
    done: list[tuple[Matrix, Matrix]] = []
    for row, shortest in zip(rest, least, strict=True):
        for earlier, dual in done:
            row -= (dual @ row) * earlier
        square = row @ products @ row
        if square > shortest**2:
            done.append((row, products @ row / square))
        else:
            row[:] = 0
    return rest


def norm(factors: Matrix, products: Matrix) -> float:
    """Return the length of a sum of adapters."""
    return math.sqrt(max(float(factors @ products @ factors), 0.0))


def as_numbers(layout: AdapterLayout, body: Bytes) -> Vector:
    """Return a body as float32, without copying where it is that.

    Raises:
        IntegrityError: it is not of the layout's length.
    """
    view = layout.checked(body)
    if layout.dtype == "float32":
        return np.frombuffer(view, dtype="<f4")
    return (np.frombuffer(view, dtype="<u2").astype(np.uint32) << 16).view(np.float32)


def matrix(vector: Vector, tensor: TensorSpec) -> Vector:
    """Return one tensor of a flat vector in its shape, without copying."""
    return vector[tensor.offset_elements : tensor.offset_elements + tensor.elements].reshape(tensor.shape)
