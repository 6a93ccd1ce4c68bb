"""Asking on a GPU: exactness first, then injection, decoding, prefill and batches of random models of known shapes.

    python -m benchmarks.query_gpu [--shapes llama-3.2-1b,llama-3-8b,smollm2-135m] [--seconds 480] [--profile]

Needs no weights and no catalog: adapters are random, of rank 2 on gate, up and down of every block. Peers are
transformers' own generate, and PEFT's load_adapter, add_weighted_adapter, delete_adapter and unload. A section that
fails prints why, and the rest goes on.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import invented
from benchmarks.machine import header
from registry.base_model import LoadedModel, linear_shapes
from registry.generation.runners.cuda import CudaRunner
from registry.store.layout import AdapterLayout

MLP = ("gate_proj", "up_proj", "down_proj")
ALL = (*MLP, "q_proj", "k_proj", "v_proj", "o_proj")
RANK, SCALE, HITS = 2, 16.0, 3
FACTORS = (0.8, 0.5, -0.3)
TOKENS = 32
EXACT = (
    ("smollm2-135m", "float32", MLP),
    ("smollm2-135m", "float32", ALL),
    ("smollm2-135m", "bfloat16", ALL),
    ("llama-3.2-1b", "bfloat16", MLP),
)
PRODUCTS = ("qkv", "output", "gate_up", "down")
VARIANTS = ((4, 1024, 3, 4), (8, 1024, 3, 4), (4, 1024, 1, 4), (8, 1024, 1, 4), (2, 2048, 1, 4), (16, 512, 3, 4))
SMALL = (("tiny", "float32", ALL), ("tiny", "bfloat16", MLP))
SHORT, LONG = 30, 430
TIMED = 50
STARTED = time.perf_counter()
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""A run on a CPU only shows that nothing is broken."""


def say(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)


@contextmanager
def section(name: str) -> Iterator[None]:
    """Print why the block fails, if it does, and go on."""
    begun = time.perf_counter()
    say(f"\n## {name}")
    try:
        yield
    except Exception:
        traceback.print_exc()
        say("FAILED")
    wait()
    say(f"({time.perf_counter() - begun:.0f} s)")


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def clean() -> None:
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()


def ready(seconds: float) -> bool:
    return time.perf_counter() - STARTED < seconds


def layout_of(loaded: LoadedModel, targets: Sequence[str] = MLP, dtype: str = "bfloat16") -> AdapterLayout:
    return AdapterLayout.of(linear_shapes(loaded.model, targets), RANK, dtype)  # type: ignore[arg-type]


def bodies_of(layout: AdapterLayout, count: int, size: float) -> list[bytes]:
    made = []
    for seed in range(count):
        numbers = np.random.default_rng(seed).standard_normal(layout.elements, dtype=np.float32) * np.float32(size)
        bits = numbers if layout.dtype == "float32" else (numbers.view(np.uint32) >> 16).astype(np.uint16)
        made.append(bits.tobytes())
    return made


def write_adapters(layout: AdapterLayout, bodies: Sequence[bytes], folder: Path) -> list[Path]:
    """Write PEFT folders."""
    targets = sorted({path.rpartition(".")[2] for path in layout.modules})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": layout.rank,
        "lora_alpha": SCALE * layout.rank,
        "lora_dropout": 0.0,
        "target_modules": targets,
        "bias": "none",
        "inference_mode": True,
    }
    paths = []
    for number, body in enumerate(bodies):
        path = folder / f"adapter-{number}"
        path.mkdir()
        (path / "adapter_model.safetensors").write_bytes(layout.serialise(body))
        (path / "adapter_config.json").write_text(json.dumps(config))
        paths.append(path)
    return paths


def prompts_of(count: int, length: int) -> list[list[int]]:
    draw = np.random.default_rng(length)
    return [draw.integers(10, 4000, length).tolist() for _ in range(count)]


def next_tokens(logits: torch.Tensor) -> list[int]:
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    return tokens


def answers(runner: CudaRunner, rows: Sequence[int], prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    tokens = next_tokens(runner.prefill(rows, prompts))
    found = [[token] for token in tokens]
    for _ in range(count - 1):
        tokens = next_tokens(runner.decode(rows, tokens))
        for own, token in zip(found, tokens, strict=True):
            own.append(token)
    return found


def timed(work: Callable[[], Any], repeat: int, warm: int = 2) -> float:
    """Return the median milliseconds, the device's work included."""
    times = []
    for number in range(warm + repeat):
        wait()
        begun = time.perf_counter()
        work()
        wait()
        if number >= warm:
            times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1000


def exactness(shape: str, dtype: str, targets: Sequence[str], folder: Path) -> None:
    """Compare logits and tokens with transformers and PEFT, row by row, all rows in one batch here."""
    from peft import PeftModel

    loaded = invented.random_model(shape, dtype, DEVICE)
    # Larger weights than a fresh model's, so that tokens depend on all of it.
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(1.6)
    layout = layout_of(loaded, targets, "float32")
    bodies = bodies_of(layout, 6, 0.03)
    runner = CudaRunner(loaded, layout, SCALE, rows=8, context=1024, entries=8, most_terms=4)
    bare = CudaRunner(loaded, None, 1.0, rows=8, context=1024, entries=8, most_terms=4)
    for entry, body in enumerate(bodies):
        runner.put(entry, body)
    sums = [(0, 1, 2), (), (3, 4, 5), (2, 0, 4), (5,), (), (1, 3), (4, 2, 1)]
    lengths = [30, 7, 300, 17, 1, 90, 270, 64]
    prompts = [prompts_of(1, length)[0] for length in lengths]
    rows = list(range(8))
    for row, own in zip(rows, sums, strict=True):
        runner.inject(row, own, FACTORS[: len(own)])
    kept, found = [runner.prefill(rows, prompts).clone()], []
    for step in range(TOKENS):
        found.append(next_tokens(kept[-1]))
        if step + 1 < TOKENS:
            kept.append(runner.decode(rows, found[-1]).clone())
    tokens = [[step[row] for step in found] for row in rows]
    again = answers(runner, rows, prompts, TOKENS)
    same_again = sum(a == b for a, b in zip(again, tokens, strict=True))
    alone = sum(answers(runner, [row], [prompts[row]], TOKENS)[0] == tokens[row] for row in rows)
    for row in (1, 5):  # rows without adapters
        texts = [prompts[row]]
        runner.inject(7, (), ())
        if not torch.equal(runner.prefill([7], texts), bare.prefill([7], texts)):
            say("NOT EQUAL: a row without adapters is not the bare model (prefill)")
        if not torch.equal(runner.decode([7], [5]), bare.decode([7], [5])):
            say("NOT EQUAL: a row without adapters is not the bare model (decode)")
    paths = write_adapters(layout, bodies, folder)
    model: Any = PeftModel.from_pretrained(loaded.model, paths[0], adapter_name="a0")
    for number, path in enumerate(paths[1:], 1):
        model.load_adapter(path, adapter_name=f"a{number}")
    worst, agreed, total = 0.0, 0, 0
    for row, own in zip(rows, sums, strict=True):
        ids = torch.tensor([prompts[row] + tokens[row][:-1]], device=DEVICE)
        with torch.no_grad():
            if own:
                model.add_weighted_adapter(
                    [f"a{entry}" for entry in own], list(FACTORS[: len(own)]), f"row{row}", combination_type="cat"
                )
                model.set_adapter(f"row{row}")
                logits = model(input_ids=ids, use_cache=False).logits[0, -TOKENS:].float()
            else:
                with model.disable_adapter():
                    logits = model(input_ids=ids, use_cache=False).logits[0, -TOKENS:].float()
        own_logits = torch.stack([step[row] for step in kept])
        error = float((own_logits - logits).norm() / logits.norm())
        worst = max(worst, error)
        agreed += int((own_logits.argmax(-1) == logits.argmax(-1)).sum())
        total += TOKENS
        del logits
    model.unload()
    say(
        f"{shape} {dtype}, {len(targets)} targets: logits differ by {worst:.2g} of their norm at most; greedy tokens "
        f"agree in {agreed} of {total}; the same answers from recorded passes {same_again} of 8, alone {alone} of 8"
    )


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

    def products(self) -> None:
        """Bytes a second of the matrix products, through the model's own blocks so that no cache helps."""
        from registry.base_model.blocks import blocks_of

        model = blocks_of(self.loaded.model)
        kinds = {name: [getattr(block, name).weight for block in model.blocks] for name in PRODUCTS}
        for name, weights in (*kinds.items(), ("head", [model.head])):
            line = []
            for rows in (1, 8, 32, 448):
                x = torch.randn(rows, weights[0].shape[1], dtype=torch.bfloat16, device=DEVICE)
                outs = torch.empty(rows, weights[0].shape[0], dtype=torch.bfloat16, device=DEVICE)

                def work(weights: Any = weights, x: Any = x, outs: Any = outs) -> None:
                    for weight in weights:
                        torch.mm(x, weight.t(), out=outs)

                took = recorded_ms(work) / len(weights)
                line.append(f"{rows}: {took * 1000:.1f} us, {weights[0].numel() * 2 / took / 1e9:.2f} TB/s")
            say(f"{name} {tuple(weights[0].shape)}: cuBLAS " + "; ".join(line))
            self.own_products(weights)

    def own_products(self, weights: list[torch.Tensor]) -> None:
        from registry.generation.runners.cuda import kernels

        outputs, inputs = weights[0].shape
        x = torch.randn(1, inputs, dtype=torch.bfloat16, device=DEVICE)
        outs = torch.empty(1, outputs, dtype=torch.bfloat16, device=DEVICE)
        line = []
        for rows, along, stages, warps in VARIANTS:

            def work(rows: int = rows, along: int = along, stages: int = stages, warps: int = warps) -> None:
                for weight in weights:
                    kernels.product[(-(-outputs // rows),)](
                        x, weight, x, outs, outputs, inputs, rows, along, stages, False, num_warps=warps
                    )

            took = recorded_ms(work) / len(weights)
            line.append(
                f"{rows}x{along}/{stages}/{warps}: {took * 1000:.1f} us {outputs * inputs * 2 / took / 1e9:.2f}"
            )
        say("    own (rows x along/stages/warps: us, TB/s): " + "; ".join(line))

    def profile(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        for name, runner in (("bare", self.bare), ("slot", self.slots)):
            tokens = next_tokens(runner.prefill([0], prompts_of(1, SHORT)))
            for _ in range(3):
                runner.decode([0], tokens)
            with profile(activities=[ProfilerActivity.CUDA]) as found:
                for _ in range(10):
                    runner.decode([0], tokens)
                wait()
            say(f"kernels of 10 tokens, {name}:")
            events = sorted(found.key_averages(), key=lambda event: -event.self_device_time_total)
            for event in events[:14]:
                each, count = event.self_device_time_total / max(1, event.count), event.count // 10
                token = event.self_device_time_total / 10
                say(f"  {token:8.1f} us a token, {count:4d} x {each:6.2f} us  {event.key[:80]}")
            total = sum(event.self_device_time_total for event in events) / 10
            say(f"  {total:8.1f} us a token in kernels")


def recorded_ms(work: Callable[[], None]) -> float:
    """Return the milliseconds of work that is recorded as a graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        work()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin()
        work()
        graph.capture_end()
    wait()
    return timed(graph.replay, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shapes", default="llama-3.2-1b,llama-3-8b,smollm2-135m")
    parser.add_argument("--seconds", type=float, default=480.0, help="begin no section after so long")
    parser.add_argument("--profile", action="store_true", help="also the time of every kernel and product")
    parser.add_argument("--no-exactness", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.backends.cuda.matmul.allow_tf32 = False
    say(header("triton"), f"- {torch.cuda.get_device_name() if DEVICE == 'cuda' else 'no GPU'}")
    if not arguments.no_exactness:
        for shape, dtype, targets in EXACT if DEVICE == "cuda" else SMALL:
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
        parts = [timings.decoding, timings.injection, timings.prefill, timings.batch, timings.steps, timings.generate]
        parts += [timings.products, timings.profile] if arguments.profile else []
        for part in (*parts, timings.peer):
            if ready(arguments.seconds):
                with section(f"{shape}: {part.__name__}"):
                    part()
        del timings, parts, part
        clean()
    say(f"\n{time.perf_counter() - STARTED:.0f} s in all")


if __name__ == "__main__":
    main()
