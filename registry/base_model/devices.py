"""Where and in which numbers to compute."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from functools import cache

from registry.errors import UsageError

DTYPES = ("float32", "bfloat16")
TRIAL_SHAPE = (256, 576, 1536)
"""Tokens, in and out of the trial product: a feed-forward matrix of the default model."""
TRIAL_SECONDS = 0.05
FLOAT32_ERROR = 1e-6
"""Relative error that a product in float32 may have; in bfloat16 it is above 1e-3."""
BFLOAT16_GAIN = 1.2
"""How many times faster bfloat16 has to be on a CPU to be chosen over the exacter float32."""


def choose_device(name: str = "auto") -> str:
    """Return the device to use: "cpu", "cuda", "cuda:N" or "mps"; "auto" takes the first of CUDA, MPS and CPU.

    Raises:
        UsageError: the device is unknown or not available here.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = name.partition(":")
    known_gpu = not index or (index.isdigit() and int(index) < torch.cuda.device_count())
    available = {
        "cpu": not index,
        "cuda": torch.cuda.is_available() and known_gpu,
        "mps": torch.backends.mps.is_available() and not index,
    }
    if kind not in available:
        raise UsageError(f"there is no device {name!r}", hint="use auto, cpu, cuda, cuda:0 or mps")
    if not available[kind]:
        raise UsageError(f"the device {name!r} is not available here", hint="use --device auto")
    return name


def choose_devices(names: str = "auto") -> tuple[str, ...]:
    """Return the devices that ``names`` lists with commas between ("cuda:0,cuda:1"); "all" is every CUDA device.

    A device may be listed more than once. Where there is no CUDA device, "all" is what "auto" is.

    Raises:
        UsageError: one is unknown or not available here.
    """
    import torch

    if names == "all":
        count = torch.cuda.device_count()
        return tuple(f"cuda:{number}" for number in range(count)) if count else (choose_device("auto"),)
    return tuple(choose_device(name.strip()) for name in names.split(","))


def choose_dtype(name: str = "auto", device: str = "cpu") -> str:
    """Return "float32" or "bfloat16"; "auto" is what a short trial of the device's matrix product favours.

    A CPU takes bfloat16 only where it measured clearly faster: without hardware for it, it is many times slower. CUDA
    takes it where the GPU computes in it. The trial is made once in a process.

    Raises:
        UsageError: the dtype is unknown.
    """
    if name in DTYPES:
        return name
    if name != "auto":
        raise UsageError(f"there is no dtype {name!r}", hint="use auto, float32 or bfloat16")
    return _measured_dtype(device)


@cache
def fast_float32_is_exact() -> bool:
    """Whether PyTorch's "medium" precision still multiplies float32 exactly on this processor.

    It lets products go through oneDNN, which on AMD's processors is twice as fast as the default. Where there are AMX
    units, and on some others, it computes in bfloat16 instead. Decided by the result, so alike on machines of a kind.
    """
    import torch

    before = torch.get_float32_matmul_precision()
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(TRIAL_SHAPE[0], TRIAL_SHAPE[1], generator=generator) for _ in range(2))
    try:
        torch.set_float32_matmul_precision("medium")
        product = torch.nn.functional.linear(left, right)
    finally:
        torch.set_float32_matmul_precision(before)
    exact = left.double() @ right.double().T
    return float((product - exact).norm() / exact.norm()) < FLOAT32_ERROR


def library_versions() -> dict[str, str]:
    """Return the versions of what decides an adapter's numbers: Python and the libraries that compute."""
    names = ("torch", "transformers", "tokenizers", "safetensors", "peft")
    versions = {name: version for name in names if (version := _version(name)) is not None}
    return {"python": platform.python_version(), **versions}


def matmul_rate(dtype: str, device: str = "cpu") -> float:
    """Return the measured rate of a matrix product of the default model's shape, in GFLOP/s."""
    import torch

    rows, inner, columns = TRIAL_SHAPE
    left = torch.ones(rows, inner, dtype=getattr(torch, dtype), device=device)
    right = torch.ones(columns, inner, dtype=getattr(torch, dtype), device=device)
    best = float("inf")
    # At least two rounds: the first pays for setting up.
    rounds, started = 0, time.perf_counter()
    with torch.inference_mode():
        while rounds < 2 or time.perf_counter() - started < TRIAL_SECONDS:
            before = time.perf_counter()
            torch.nn.functional.linear(left, right)[0, 0].item()
            best = min(best, time.perf_counter() - before)
            rounds += 1
    return 2 * rows * inner * columns / best / 1e9


@cache
def _measured_dtype(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device == "mps":
        return "float32"
    faster = matmul_rate("bfloat16", device) > BFLOAT16_GAIN * matmul_rate("float32", device)
    return "bfloat16" if faster else "float32"


@cache
def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
