"""What compiled loops have in common: how they are compiled, rows of any width lane by lane, and norms.

bfloat16 comes as its bits in uint16; everything is computed in float32 and rounded once. Loops give the interpreter's
lock back while they run.
"""

# Numba gives its decorators no types.
# mypy: disable-error-code="no-untyped-call,untyped-decorator,misc,operator"

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from registry.kernels.vectors import WIDTH, load, load_some, splat, store, store_some, total

F = np.float32
LOWEST = F(-3e38)
Array = Any

compile_loop = njit(error_model="numpy", cache=True, nogil=True)
inline_loop = njit(error_model="numpy", cache=True, nogil=True, forceinline=True)


@inline_loop
def get(row: Array, place: int, end: int) -> Any:
    """Return the lanes from ``place`` on, those from ``end`` on as 0."""
    return load(row, place) if place + WIDTH <= end else load_some(row, place, end - place)


@inline_loop
def put(row: Array, place: int, value: Any, end: int) -> None:
    """Write the lanes from ``place`` on, up to ``end``."""
    if place + WIDTH <= end:
        store(row, place, value)
    else:
        store_some(row, place, value, end - place)


@inline_loop
def along(row: Array, values: Array, at: int, width: int) -> Any:
    """Return the inner product of a row and the values from ``at`` on."""
    sums = splat(F(0))
    for i in range(0, width, WIDTH):
        sums = sums + get(row, i, width) * get(values, at + i, at + width)
    return total(sums)


@compile_loop
def rms_norm(x: Array, weight: Array, epsilon: Any, out: Array, inverse: Array) -> None:
    """Write x over the root of its mean square, times the weight, to ``out``; and one over the root to ``inverse``."""
    tokens, width = x.shape
    for token in range(tokens):
        row, to = x[token], out[token]
        squares = splat(F(0))
        for i in range(0, width, WIDTH):
            value = get(row, i, width)
            squares = squares + value * value
        scale = F(1) / math.sqrt(total(squares) / F(width) + epsilon)
        inverse[token] = scale
        for i in range(0, width, WIDTH):
            put(to, i, get(row, i, width) * splat(scale) * get(weight, i, width), width)


@compile_loop
def add_rms_norm(
    x: Array, addend: Array, weight: Array, epsilon: Any, summed: Array, out: Array, inverse: Array
) -> None:
    """Write the sum of two to ``summed`` and its norm to ``out``, as ``rms_norm`` does."""
    tokens, width = x.shape
    for token in range(tokens):
        row, more, both, to = x[token], addend[token], summed[token], out[token]
        squares = splat(F(0))
        for i in range(0, width, WIDTH):
            put(both, i, get(row, i, width) + get(more, i, width), width)
            value = get(both, i, width)
            squares = squares + value * value
        scale = F(1) / math.sqrt(total(squares) / F(width) + epsilon)
        inverse[token] = scale
        for i in range(0, width, WIDTH):
            put(to, i, get(both, i, width) * splat(scale) * get(weight, i, width), width)
