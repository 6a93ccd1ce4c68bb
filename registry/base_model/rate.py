"""How fast this machine multiplies matrices of a model's own shapes: what any encoder can at most reach."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import cycle, islice
from multiprocessing.connection import Connection
from threading import Barrier, BrokenBarrierError
from typing import TYPE_CHECKING, Any

from registry.errors import BaseModelError

if TYPE_CHECKING:
    from torch import Tensor

CPU_TOKENS = 2048
ACCELERATOR_TOKENS = 8192
"""Tokens that are multiplied at once, as in a pass of the encoder."""
MOST_ROWS = 16384
"""Of a larger matrix (a head) so many rows are multiplied: more of them are no faster."""
CYCLED_BYTES = 128 * 1024 * 1024
"""Bytes of matrices of one shape that are taken in turn, so that a core finds none of them in its own cache."""
START_SECONDS = 120.0
"""How long a process may take to import torch and fill its matrices while the others wait."""

Shapes = Sequence[tuple[int, int, int]]
"""(out, in, how many matrices of that shape there are)."""


def measured_rate(shapes: Shapes, dtype: str, device: str = "cpu", workers: int = 1, seconds: float = 2.0) -> float:
    """Return the rate, in GFLOP/s summed over ``workers``, at which tokens pass through all matrices of ``shapes``.

    The product is x W^T, x ``[2048, in]`` (8192 tokens on an accelerator) and W ``[out, in]``, both in ``dtype``; of
    every shape several W are taken in turn. A shape is measured for its share of ``seconds`` by its operations, and
    the sum is over operations and times of the whole model. On a CPU all workers multiply at once, each with one
    thread; of several workers on "cuda" each has a GPU of its own.

    Raises:
        BaseModelError: a process that measured died, most likely for want of memory.
    """
    if workers == 1:
        return _rate(shapes, dtype, device, seconds, lambda: None)
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(workers)
    pipes: list[Connection] = []
    processes = []
    try:
        for number in range(workers):
            receiver, sender = context.Pipe(duplex=False)
            own = f"{device}:{number}" if device == "cuda" else device
            process = context.Process(target=_run, args=(sender, together, shapes, dtype, own, seconds), daemon=True)
            process.start()
            sender.close()
            pipes.append(receiver)
            processes.append(process)
        return sum(float(pipe.recv()) for pipe in pipes)
    except EOFError as error:
        raise BaseModelError(
            f"a process that measured matrix products on {device} died", hint="free some memory, then try again"
        ) from error
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _run(sender: Connection, together: Barrier, shapes: Shapes, dtype: str, device: str, seconds: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the others
    with suppress(BrokenBarrierError):  # another one died, as the parent sees
        sender.send(_rate(shapes, dtype, device, seconds, lambda: together.wait(START_SECONDS)))


def _rate(shapes: Shapes, dtype: str, device: str, seconds: float, wait: Callable[[], Any]) -> float:
    import torch

    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        total = sum(outputs * inputs * count for outputs, inputs, count in shapes)
        tokens = CPU_TOKENS if device == "cpu" else ACCELERATOR_TOKENS
        with torch.inference_mode():
            prepared = [_prepare(*shape, tokens, dtype, device) for shape in shapes]
            wait()
            spent = sum(
                count * outputs / len(weights[0]) * _seconds(x, weights, seconds * outputs * inputs * count / total)
                for (outputs, inputs, count), (x, weights) in zip(shapes, prepared, strict=True)
            )
    finally:
        torch.set_num_threads(threads)
    return 2 * tokens * total / spent / 1e9


def _prepare(
    outputs: int, inputs: int, count: int, tokens: int, dtype: str, device: str
) -> tuple[Tensor, list[Tensor]]:
    """Return tokens ``[tokens, in]`` and the matrices ``[out, in]`` that they are multiplied by in turn."""
    import torch

    kind = getattr(torch, dtype)
    # Random, since hardware is faster and cooler on numbers that repeat.
    first = torch.randn(min(outputs, MOST_ROWS), inputs, dtype=kind, device=device)
    copies = max(1, min(count, CYCLED_BYTES // first.nbytes))
    return torch.randn(tokens, inputs, dtype=kind, device=device), [first] + [first.clone() for _ in range(copies - 1)]


def _seconds(x: Tensor, weights: Sequence[Tensor], seconds: float) -> float:
    """Return the seconds of one product, a mean over at least ``seconds``."""
    import torch

    in_turn = cycle(weights)
    # Into one result: fresh memory for each would be a good part of the time.
    result = x.new_empty(len(x), len(weights[0]))
    at_once = 1 if x.device.type == "cpu" else 32  # an accelerator is asked for the next while it still computes
    for number in range(2):  # the first time pays for setting up
        started, products = time.perf_counter(), 0
        while products == 0 or (number and time.perf_counter() - started < seconds):
            for weight in islice(in_turn, at_once):
                torch.mm(x, weight.t(), out=result)
            if x.device.type != "cpu":
                getattr(torch, x.device.type).synchronize()
            products += at_once
    return (time.perf_counter() - started) / products
