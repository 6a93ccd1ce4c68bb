"""Which runner a model gets: its blocks by hand where they are known, the library's modules everywhere else."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

from registry.base_model import LoadedModel
from registry.base_model.blocks import is_supported
from registry.generation.runners import Runner
from registry.store.layout import AdapterLayout

_KNOWN = re.compile(r"\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)$")


def make_runner(
    loaded: LoadedModel,
    layout: AdapterLayout | None,
    scale: float,
    *,
    rows: int,
    context: int,
    cache_bytes: int,
    most_terms: int,
    takes_weights: bool = False,
) -> Runner:
    """Return a runner with room for ``rows`` texts of ``context`` tokens and for adapters of ``cache_bytes``.

    There is room for ``most_terms`` adapters at least, however many bytes they have. Several runners of one model share
    its weights, and must not run at the same time. With ``takes_weights`` nobody runs the model's own modules from now
    on, and what a runner has packed for itself is not held twice.

    Raises:
        BaseModelError: the model lacks a module of the layout, or it is not linear or of another shape.
    """
    if not _is_by_hand(loaded, layout):
        from registry.generation.runners.library import LibraryRunner

        return LibraryRunner(
            loaded, layout, scale, rows=rows, context=context, cache_bytes=cache_bytes, most_terms=most_terms
        )
    entries = 0
    if layout is not None:
        entries = max(most_terms, cache_bytes // (layout.elements * (4 if loaded.dtype == "float32" else 2)))
    if loaded.device == "cpu":
        from registry.generation.runners.processor.weights import release, weights_of

        with ThreadPoolExecutor(1) as beside:  # importing Numba takes as long as packing the weights
            packing = beside.submit(weights_of, loaded.model)
            from registry.generation.runners.processor.runner import ProcessorRunner

            packing.result()
        runner = ProcessorRunner(
            loaded, layout, scale, rows=rows, context=context, entries=entries, most_terms=most_terms
        )
        if takes_weights:
            release(loaded.model)
        return runner
    from registry.generation.runners.cuda.runner import CudaRunner

    return CudaRunner(loaded, layout, scale, rows=rows, context=context, entries=entries, most_terms=most_terms)


def _is_by_hand(loaded: LoadedModel, layout: AdapterLayout | None) -> bool:
    device = loaded.device.partition(":")[0]
    if device not in ("cpu", "cuda") or loaded.dtype not in ("float32", "bfloat16") or not is_supported(loaded.model):
        return False
    return layout is None or all(_KNOWN.search(path) for path in layout.modules)
