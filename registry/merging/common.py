"""The common part of a corpus that has no task adapter: the mean of its adapters, reduced to one adapter's rank.

For every module the mean of n products is itself a product of rank n r,

    (1/n) * sum over i of B_i A_i = [B_1, ..., B_n] / n * [A_1; ...; A_n] = Q_B (R_B R_A^T / n) Q_A^T,

by QR of both factors. The singular values of the small core R_B R_A^T / n = U S V^T are the mean's own, so its best
approximation of rank r is (Q_B U_r S_r^1/2) (S_r^1/2 V_r^T Q_A^T), and the mean itself is never made.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from registry.merging.products import Matrix, Vector, as_numbers, matrix
from registry.store.headers import Bytes
from registry.store.layout import AdapterLayout, TensorSpec

MOST_ADAPTERS = 64
"""A mean of so many is taken for the mean of all: what is particular to a document is 1/64 in it."""
FORMAT = 1
"""Raised when the same adapters give another mean."""
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class CommonPart:
    """An adapter's flat vector in its layout's dtype; ``kept`` is the share of the mean's squared norm that it has."""

    body: bytes
    kept: float


def spread(count: int, most: int = MOST_ADAPTERS) -> list[int]:
    """Return at most ``most`` numbers below ``count``, in order and as evenly as can be."""
    chosen = min(count, most)
    return [number * count // chosen for number in range(chosen)]


def mean_adapter(layout: AdapterLayout, bodies: Sequence[Bytes]) -> CommonPart:
    """Return the adapter of the layout that is nearest to the mean of adapters with the same alpha / r.

    Deterministic on a machine: in each singular pair the largest number of B's column is positive. What a module lacks
    in rank is filled with zeros.

    Raises:
        IntegrityError: a body is not of the layout's length.
        ValueError: there is none.
    """
    if not bodies:
        raise ValueError("there is no mean of no adapters")
    vectors = [as_numbers(layout, body) for body in bodies]
    result = np.zeros(layout.elements, dtype=np.float32)
    kept = whole = 0.0
    for a, b in layout.modules.values():
        kept_here, whole_here = _reduce(vectors, a, b, result)
        kept, whole = kept + kept_here, whole + whole_here
    return CommonPart(packed(layout, result), kept / whole if whole else 1.0)


def _reduce(vectors: Sequence[Vector], a: TensorSpec, b: TensorSpec, result: Vector) -> tuple[float, float]:
    """Write one module's A and B into ``result``; return the squared norms of what is kept, and of all."""
    all_a = np.concatenate([matrix(vector, a) for vector in vectors]).astype(np.float64)
    all_b = np.concatenate([matrix(vector, b) for vector in vectors], axis=1).astype(np.float64)
    q_a, r_a = np.linalg.qr(all_a.T)
    q_b, r_b = np.linalg.qr(all_b)
    left, values, right = np.linalg.svd(r_b @ r_a.T / len(vectors), full_matrices=False)
    rank = min(a.shape[0], len(values))
    root = np.sqrt(values[:rank])
    new_b: Matrix = q_b @ (left[:, :rank] * root)
    new_a: Matrix = (root[:, None] * right[:rank]) @ q_a.T
    largest = np.abs(new_b).argmax(axis=0)
    signs = np.where(new_b[largest, np.arange(rank)] < 0, -1.0, 1.0)
    matrix(result, a)[:rank] = signs[:, None] * new_a
    matrix(result, b)[:, :rank] = signs * new_b
    return float(np.sum(values[:rank] ** 2)), float(np.sum(values**2))


def packed(layout: AdapterLayout, vector: Vector) -> bytes:
    """Return float32 numbers as a body; bfloat16 rounds to the nearest, ties to even."""
    if layout.dtype == "float32":
        return vector.astype("<f4").tobytes()
    bits = vector.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def remembered(file: Path, size_bytes: int, make: Callable[[], bytes]) -> bytes:
    """Return the body in ``file``; a missing or damaged one is made and written anew.

    The file is the body's sha256 and the body. One that cannot be written only costs making it the next time.
    """
    with contextlib.suppress(OSError):
        data = file.read_bytes()
        body = data[_DIGEST_BYTES:]
        if len(body) == size_bytes and hashlib.sha256(body).digest() == data[:_DIGEST_BYTES]:
            return body
    body = make()
    partial = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}.partial")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(hashlib.sha256(body).digest() + body)
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
    return body
