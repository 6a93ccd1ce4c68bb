"""Asking on a GPU: exactness first, then injection, decoding, prefill and batches of random models of known shapes.

    python -m benchmarks.query_gpu [--shapes llama-3.2-1b,llama-3-8b,smollm2-135m] [--parts decoding,batch,...]
        [--exact 0,1,2,3] [--seconds 480]

Needs no weights and no catalog: adapters are random, of rank 2 on gate, up and down of every block. Peers are
transformers' own generate, and PEFT's load_adapter, add_weighted_adapter, delete_adapter and unload. A section that
fails prints why, and the rest goes on.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import invented, query_gpu_kernels
from benchmarks.machine import header
from benchmarks.query_gpu_exactness import EXACT, SMALL, exactness
from benchmarks.query_gpu_tools import (
    DEVICE,
    FACTORS,
    HITS,
    LONG,
    MLP,
    RANK,
    SCALE,
    SHORT,
    STARTED,
    TOKENS,
    answers,
    bodies_of,
    clean,
    layout_of,
    next_tokens,
    prompts_of,
    ready,
    say,
    section,
    timed,
    wait,
    write_adapters,
)
from registry.generation.runners.cuda import CudaRunner

TIMED = 50
PARTS = ("decoding", "injection", "prefill", "batch", "steps", "generate", "peer")


class Timings:
    """All timings of one shape; each method is a section."""

    def __init__(self, shape: str) -> None:
        self.shape = shape
        self.loaded = invented.random_model(shape, "bfloat16", DEVICE)
        self.layout = layout_of(self.loaded)
        self.bodies = bodies_of(self.layout, 8 * HITS, 0.01)
        sizes = {"rows": 16, "context": 2048, "entries": 8 * HITS, "most_terms": HITS + 1}
        self.bare = CudaRunner(self.loaded, None, 1.0, **sizes)
        kernels = "library" if DEVICE == "cuda" else "plain"
        self.library = CudaRunner(self.loaded, None, 1.0, operations=kernels, **sizes)
        self.slots = CudaRunner(self.loaded, self.layout, SCALE, **sizes)
        for entry, body in enumerate(self.bodies):
            self.slots.put(entry, body)
        for row in range(8):
            self.slots.inject(row, range(row * HITS, (row + 1) * HITS), FACTORS)
        self.token_ms = 0.0
        parameters = sum(parameter.numel() for parameter in self.loaded.model.parameters())
        say(
            f"{parameters / 1e9:.3f} billion parameters, an adapter has {self.layout.body_bytes / 1e6:.2f} MB; "
            f"{torch.cuda.memory_allocated() / 2**30:.1f} GiB allocated"
        )

    def decoding(self) -> None:
        for length in (SHORT, LONG):
            prompt = prompts_of(1, length)
            runners = {"bare": self.bare, "slot": self.slots, "cuBLAS": self.library}
            times: dict[str, list[float]] = {name: [] for name in runners}
            queued: dict[str, list[float]] = {name: [] for name in runners}
            for number in range(7):
                for name, runner in runners.items():
                    tokens = next_tokens(runner.prefill([0], prompt))
                    for _ in range(3):
                        tokens = next_tokens(runner.decode([0], tokens))
                    wait()
                    begun = time.perf_counter()
                    for _ in range(TIMED):
                        tokens = next_tokens(runner.decode([0], tokens))
                    middle = time.perf_counter()
                    for _ in range(TIMED):
                        runner.decode([0], tokens)
                    wait()
                    if number:
                        times[name].append((middle - begun) / TIMED * 1000)
                        queued[name].append((time.perf_counter() - middle) / TIMED * 1000)
            for name, found in (("a token, read each time", times), ("a token, not read", queued)):
                bare, slot = statistics.median(found["bare"]), statistics.median(found["slot"])
                spread = ", ".join(f"{min(own):.3f} to {max(own):.3f}" for own in found.values())
                other = statistics.median(found["cuBLAS"])
                say(
                    f"{name}, after {length}: bare {bare:.3f} ms, slot {slot:.3f} ms, bare with cuBLAS {other:.3f} ms "
                    f"({spread}), speed of slot {bare / slot:.3f}"
                )
            if length == SHORT:
                self.token_ms = statistics.median(times["bare"])

    def steps(self) -> None:
        for count in (2, 4, 8, 16):
            found = []
            for runner in (self.bare, self.slots):
                rows, prompts = list(range(count)), prompts_of(count, SHORT)
                tokens = next_tokens(runner.prefill(rows, prompts))

                def step(runner: CudaRunner = runner, rows: list[int] = rows, tokens: list[int] = tokens) -> None:
                    next_tokens(runner.decode(rows, tokens))

                found.append(timed(step, 50))
            say(f"a step of {count} rows: bare {found[0]:.3f} ms, slots {found[1]:.3f} ms, {found[0] / found[1]:.3f}")

    def prefill(self) -> None:
        for count, length in ((1, SHORT), (1, LONG), (8, SHORT)):
            prompts = prompts_of(count, length)
            times: dict[str, list[float]] = {"bare": [], "slot": []}
            for _ in range(5):
                for name, runner in (("bare", self.bare), ("slot", self.slots)):

                    def work(runner: CudaRunner = runner, prompts: list[list[int]] = prompts) -> None:
                        next_tokens(runner.prefill(range(len(prompts)), prompts))

                    times[name].append(timed(work, 10))
            bare, slot = statistics.median(times["bare"]), statistics.median(times["slot"])
            say(f"prefill of {count} x {length}: bare {bare:.3f} ms, slot {slot:.3f} ms, speed {bare / slot:.3f}")

    def injection(self) -> None:
        def measured(work: Callable[[], None], repeat: int) -> tuple[float, float]:
            """Return microseconds until the call returns, and until the device is done."""
            returned, done = [], []
            for _ in range(repeat):
                wait()
                begun = time.perf_counter()
                work()
                returned.append(time.perf_counter() - begun)
                wait()
                done.append(time.perf_counter() - begun)
            return statistics.median(returned) * 1e6, statistics.median(done) * 1e6

        def cached() -> None:
            self.slots.inject(0, (0, 1, 2), FACTORS)

        def from_memory() -> None:
            for entry in range(HITS):
                self.slots.put(entry, self.bodies[entry])
            self.slots.inject(0, (0, 1, 2), FACTORS)

        idle = measured(lambda: None, 200)[1]
        token = self.token_ms * 1000 or float("nan")
        for name, work in (("on the device", cached), ("in main memory", from_memory)):
            returned, done = measured(work, 200)
            say(
                f"load, merge and inject {HITS} adapters that are {name}: {returned:.1f} us until it returns, "
                f"{done:.1f} us until the device is done (idle: {idle:.1f}), {done / token:.2%} of a decode token"
            )

    def peer(self) -> None:
        from peft import PeftModel

        times = []
        with tempfile.TemporaryDirectory() as folder:
            paths = write_adapters(self.layout, self.bodies[:HITS], Path(folder))
            for _ in range(4):
                wait()
                begun = time.perf_counter()
                model: Any = PeftModel.from_pretrained(self.loaded.model, paths[0], adapter_name="a0")
                for number, path in enumerate(paths[1:], 1):
                    model.load_adapter(path, adapter_name=f"a{number}")
                names = [f"a{number}" for number in range(HITS)]
                model.add_weighted_adapter(names, list(FACTORS), "merged", combination_type="cat")
                model.set_adapter("merged")
                wait()
                middle = time.perf_counter()
                model.delete_adapter("merged")
                model.unload()
                del model
                gc.collect()
                times.append((middle - begun, time.perf_counter() - middle))
        loading = statistics.median(first for first, _ in times[1:]) * 1000
        leaving = statistics.median(second for _, second in times[1:]) * 1000
        say(f"PEFT: load {HITS} and merge {loading:.0f} ms, delete and unload {leaving:.0f} ms")

    def batch(self) -> None:
        for length in (SHORT, LONG):
            prompts = prompts_of(8, length)

            def one_by_one(prompts: list[list[int]] = prompts) -> None:
                for row in range(8):
                    self.slots.inject(row, range(row * HITS, (row + 1) * HITS), FACTORS)
                    answers(self.slots, [row], [prompts[row]], TOKENS)

            def together(prompts: list[list[int]] = prompts) -> None:
                for row in range(8):
                    self.slots.inject(row, range(row * HITS, (row + 1) * HITS), FACTORS)
                answers(self.slots, range(8), prompts, TOKENS)

            single, joint = timed(one_by_one, 5), timed(together, 5)
            say(
                f"8 questions of {length} tokens with 8 sets of {HITS} adapters, {TOKENS} tokens each: one after "
                f"another {8000 / single:.1f} answers/s, in one batch {8000 / joint:.1f}, ratio {single / joint:.2f}"
            )

    def generate(self) -> None:
        ids = torch.tensor(prompts_of(1, SHORT), device=DEVICE)

        def theirs() -> None:
            self.loaded.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=TOKENS,
                min_new_tokens=TOKENS,
                pad_token_id=0,
            )

        other = timed(theirs, 3, 1)
        own = timed(lambda: answers(self.bare, [0], ids.tolist(), TOKENS), 5)
        say(
            f"an answer of {TOKENS} tokens, bare: transformers' generate {other:.1f} ms, here {own:.1f} ms, "
            f"{other / own:.1f} times as fast"
        )

    def variants(self) -> None:
        query_gpu_kernels.variants(self.loaded, self.layout, self.bodies)

    def products(self) -> None:
        query_gpu_kernels.products(self.loaded)

    def profile(self) -> None:
        for name, runner in (("bare", self.bare), ("slot", self.slots)):
            query_gpu_kernels.profile(name, runner)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shapes", default="llama-3.2-1b,llama-3-8b,smollm2-135m")
    parser.add_argument("--seconds", type=float, default=480.0, help="begin no section after so long")
    parser.add_argument("--parts", default=",".join(PARTS), help="also variants, products and profile")
    parser.add_argument("--exact", default="0,1,2,3", help="numbers of the exactness comparisons, or nothing")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.backends.cuda.matmul.allow_tf32 = False
    say(header("triton"), f"- {torch.cuda.get_device_name() if DEVICE == 'cuda' else 'no GPU'}")
    for number in filter(None, arguments.exact.split(",")):
        shape, dtype, targets = EXACT[int(number)] if DEVICE == "cuda" else SMALL[int(number)]
        if ready(arguments.seconds):
            with section(f"exactness {shape} {dtype}"), tempfile.TemporaryDirectory() as folder:
                exactness(shape, dtype, targets, Path(folder))
            clean()
    for shape in arguments.shapes.split(","):
        timings: Timings | None = None
        if ready(arguments.seconds):
            with section(f"{shape}, bfloat16, rank {RANK} x {HITS}, {', '.join(MLP)} of every block"):
                timings = Timings(shape)
        if timings is None:
            continue
        for part in arguments.parts.split(","):
            if ready(arguments.seconds):
                with section(f"{shape}: {part}"):
                    getattr(timings, part)()
        del timings
        clean()
    say(f"\n{time.perf_counter() - STARTED:.0f} s in all")


if __name__ == "__main__":
    main()
