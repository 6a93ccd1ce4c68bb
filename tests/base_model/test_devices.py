from __future__ import annotations

import pytest
import torch

from registry.base_model import choose_device, choose_dtype, fast_float32_is_exact, library_versions
from registry.base_model.devices import matmul_rate
from registry.errors import UsageError


def test_auto_is_the_best_device_that_is_there() -> None:
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device() == expected
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["tpu", "cpu:0", "cuda:99", "cuda:x", "mps:1", ""])
def test_an_unknown_or_absent_device_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        choose_device(name)


def test_the_dtype_is_chosen_once_by_measuring() -> None:
    assert choose_dtype("bfloat16", "cpu") == "bfloat16"
    chosen = choose_dtype("auto", "cpu")
    assert chosen in ("float32", "bfloat16")
    assert choose_dtype("auto", "cpu") == chosen
    with pytest.raises(UsageError, match="float16"):
        choose_dtype("float16", "cpu")


def test_the_rate_of_a_matrix_product_is_measured() -> None:
    assert matmul_rate("float32") > 0.1


def test_fast_float32_is_taken_only_where_it_is_exact() -> None:
    before = torch.get_float32_matmul_precision()
    claimed = fast_float32_is_exact()
    assert torch.get_float32_matmul_precision() == before
    left, right = torch.randn(64, 700), torch.randn(700, 64)
    try:
        torch.set_float32_matmul_precision("medium")
        fast = left @ right
    finally:
        torch.set_float32_matmul_precision(before)
    exact = left.double() @ right.double()
    error = float((fast - exact).norm() / exact.norm())
    assert error < 1e-6 if claimed else error > 1e-6


def test_versions_name_what_computes() -> None:
    versions = library_versions()
    assert versions["torch"] == torch.__version__
    assert {"python", "transformers", "tokenizers", "safetensors", "peft"} <= versions.keys()
