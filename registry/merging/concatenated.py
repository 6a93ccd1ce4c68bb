"""The exact sum of adapters as one adapter of a larger rank, without PEFT and without the model.

    sum over i of f_i B_i A_i  =  [f_1 B_1, ..., f_n B_n, 0] [A_1; ...; A_n; 0]

The zeros fill the rank up to what an engine takes; they add nothing. With all f_i = 1 every number of A and B is an
adapter's own, bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from registry.merging.common import packed
from registry.merging.peft_settings import BLOCK
from registry.merging.products import as_numbers, matrix
from registry.store.headers import Bytes
from registry.store.layout import AdapterDtype, AdapterLayout


def concatenate(
    layout: AdapterLayout, terms: Sequence[tuple[Bytes, float]], rank: int, *, all_blocks: bool = False
) -> tuple[AdapterLayout, bytes]:
    """Return the layout and the ``adapter_model.safetensors`` of the sum of adapters with the same alpha / r.

    ``terms`` are bodies of ``layout`` with their factors; ``all_blocks`` gives zeros to the blocks that have no adapter
    (see ``with_all_blocks``). The sum keeps alpha / r, so its alpha is ``rank`` times that.
    It is bfloat16 where the adapters are and every factor is a power of two, which rounds nothing; else float32.

    Raises:
        IntegrityError: a body is not of the layout's length.
        ValueError: there is no term, or they need a larger rank.
    """
    if not terms or len(terms) * layout.rank > rank:
        raise ValueError(f"{len(terms)} adapters of rank {layout.rank} make no adapter of rank {rank}")
    dtype: AdapterDtype = layout.dtype if all(map(_is_power_of_two, (factor for _, factor in terms))) else "float32"
    merged = AdapterLayout.of(with_all_blocks(layout.shapes) if all_blocks else layout.shapes, rank, dtype)
    result = np.zeros(merged.elements, dtype=np.float32)
    vectors = [(as_numbers(layout, body), factor) for body, factor in terms]
    for module, (a, b) in layout.modules.items():
        all_a, all_b = (matrix(result, spec) for spec in merged.modules[module])
        for number, (vector, factor) in enumerate(vectors):
            rows = slice(number * layout.rank, (number + 1) * layout.rank)
            all_a[rows] = matrix(vector, a)
            np.multiply(matrix(vector, b), np.float32(factor), out=all_b[:, rows])
    return merged, merged.serialise(packed(merged, result))


def with_all_blocks(shapes: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Return the shapes of linear modules with those of the blocks below the first one, which are taken to be alike.

    Where the blocks that are there differ in their shapes, nothing is known of the others and none is added.
    """
    blocks: dict[int, dict[tuple[str, str], tuple[int, int]]] = {}
    for module, shape in shapes.items():
        if match := BLOCK.search(module):
            blocks.setdefault(int(match["number"]), {})[
                module[: match.start("number")], module[match.end("number") :]
            ] = shape
    lowest = min(blocks, default=0)
    if any(block != blocks[lowest] for block in blocks.values()):
        return dict(shapes)
    below = {
        f"{before}{number}{after}": shape
        for number in range(lowest)
        for (before, after), shape in blocks[lowest].items()
    }
    return {**shapes, **below}


def _is_power_of_two(factor: float) -> bool:
    return abs(math.frexp(factor)[0]) == 0.5
