from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from registry.base_model import LoadedModel, linear_shapes
from registry.errors import IntegrityError
from registry.merging.common import mean_adapter, remembered, spread
from registry.merging.products import Vector, as_numbers, matrix
from registry.store.layout import AdapterLayout

BODY = bytes(range(200))


def random_vectors(layout: AdapterLayout, count: int, seed: int = 0) -> list[Vector]:
    drawn = np.random.default_rng(seed).normal(0, 0.1, (count, layout.elements))
    return list(drawn.astype(np.float32))


def dense(layout: AdapterLayout, vector: Vector) -> np.ndarray:
    """B A of every module, one after the other."""
    numbers = vector.astype(np.float64)
    products = (matrix(numbers, b) @ matrix(numbers, a) for a, b in layout.modules.values())  # type: ignore[arg-type]
    return np.concatenate([product.ravel() for product in products])


def mean_of(layout: AdapterLayout, vectors: list[Vector]) -> tuple[np.ndarray, float]:
    found = mean_adapter(layout, [vector.tobytes() for vector in vectors])
    return dense(layout, as_numbers(layout, found.body)), found.kept


def test_adapters_with_one_a_have_an_exact_mean(layout: AdapterLayout) -> None:
    vectors = random_vectors(layout, 5)
    for vector in vectors[1:]:
        for a, _ in layout.modules.values():
            matrix(vector, a)[:] = matrix(vectors[0], a)
    found, kept = mean_of(layout, vectors)
    exact = np.mean([dense(layout, vector) for vector in vectors], axis=0)
    np.testing.assert_allclose(found, exact, atol=1e-6 * np.abs(exact).max())
    assert kept == pytest.approx(1.0, abs=1e-12)


def test_the_mean_of_one_adapter_is_that_adapter(layout: AdapterLayout) -> None:
    (vector,) = random_vectors(layout, 1)
    found, kept = mean_of(layout, [vector])
    exact = dense(layout, vector)
    np.testing.assert_allclose(found, exact, atol=1e-6 * np.abs(exact).max())
    assert kept == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("count", [2, 3, 40])
def test_the_mean_is_the_best_of_its_rank(layout: AdapterLayout, count: int) -> None:
    """Against the singular value decomposition of every module's whole mean; 40 of rank 2 are more than its 32."""
    vectors = random_vectors(layout, count)
    found, kept = mean_of(layout, vectors)
    parts, squares = [], []
    for a, b in layout.modules.values():
        whole = np.mean([matrix(v, b).astype(float) @ matrix(v, a).astype(float) for v in vectors], axis=0)
        left, values, right = np.linalg.svd(whole, full_matrices=False)
        parts.append(((left[:, : layout.rank] * values[: layout.rank]) @ right[: layout.rank]).ravel())
        squares.append((np.sum(values[: layout.rank] ** 2), np.sum(values**2)))
    best = np.concatenate(parts)
    np.testing.assert_allclose(found, best, atol=1e-6 * np.abs(best).max())
    assert kept == pytest.approx(np.sum(squares, axis=0)[0] / np.sum(squares, axis=0)[1])
    assert kept < 1


def test_both_factors_have_the_same_share_and_fixed_signs(layout: AdapterLayout) -> None:
    bodies = [vector.tobytes() for vector in random_vectors(layout, 4)]
    body = mean_adapter(layout, bodies).body
    assert body == mean_adapter(layout, bodies).body
    vector = as_numbers(layout, body)
    for a, b in layout.modules.values():
        own_a, own_b = matrix(vector, a), matrix(vector, b)
        np.testing.assert_allclose(np.linalg.norm(own_a, axis=1), np.linalg.norm(own_b, axis=0), rtol=1e-5)
        assert (own_b.max(axis=0) == np.abs(own_b).max(axis=0)).all()


def test_bfloat16_is_rounded_to_the_nearest(tiny_model: LoadedModel) -> None:
    import torch

    shapes = linear_shapes(tiny_model.model, ("up_proj", "down_proj"))
    half, full = (AdapterLayout.of(shapes, 3, dtype) for dtype in ("bfloat16", "float32"))
    stored = [torch.from_numpy(vector).bfloat16() for vector in random_vectors(full, 3)]
    rounded = mean_adapter(half, [one.view(torch.uint8).numpy().tobytes() for one in stored])
    exact = mean_adapter(full, [one.float().numpy().tobytes() for one in stored])
    expected = torch.frombuffer(bytearray(exact.body), dtype=torch.float32).bfloat16()
    assert rounded.body == expected.view(torch.uint8).numpy().tobytes()
    assert len(rounded.body) == half.body_bytes


def test_a_rank_that_a_module_does_not_have(tiny_model: LoadedModel) -> None:
    layout = AdapterLayout.of(linear_shapes(tiny_model.model, ("gate_proj",)), 40, "float32")
    vectors = random_vectors(layout, 2)
    found, kept = mean_of(layout, vectors)
    exact = np.mean([dense(layout, vector) for vector in vectors], axis=0)
    np.testing.assert_allclose(found, exact, atol=1e-5 * np.abs(exact).max())
    assert kept == pytest.approx(1.0)


def test_what_cancels_out_leaves_nothing(layout: AdapterLayout) -> None:
    (vector,) = random_vectors(layout, 1)
    opposite = vector.copy()
    for a, _ in layout.modules.values():
        matrix(opposite, a)[:] *= -1
    found, _ = mean_of(layout, [vector, opposite])
    np.testing.assert_allclose(found, 0, atol=1e-12)
    assert mean_adapter(layout, [bytes(layout.body_bytes)]).kept == 1.0


def test_what_has_no_mean_is_refused(layout: AdapterLayout) -> None:
    with pytest.raises(ValueError, match="no adapters"):
        mean_adapter(layout, [])
    with pytest.raises(IntegrityError):
        mean_adapter(layout, [bytes(8)])


def test_the_chosen_are_spread_evenly() -> None:
    assert spread(3) == [0, 1, 2]
    assert spread(10, 4) == [0, 2, 5, 7]
    chosen = spread(1000)
    assert len(chosen) == len(set(chosen)) == 64
    assert set(np.diff(chosen).tolist()) == {15, 16}


def test_a_body_is_made_once(tmp_path: Path) -> None:
    file = tmp_path / "common" / "one"
    made: list[int] = []

    def make() -> bytes:
        made.append(1)
        return BODY

    assert [remembered(file, len(BODY), make) for _ in range(3)] == [BODY] * 3
    assert len(made) == 1
    assert list(file.parent.iterdir()) == [file]
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1], whole[:-1] + b"x", bytes(32) + BODY, BODY):
        file.write_bytes(damaged)
        assert remembered(file, len(BODY), make) == BODY
        assert file.read_bytes() == whole
    assert len(made) == 6


def test_a_file_that_cannot_be_written_costs_only_its_making(
    tmp_path: Path, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    with largest_file(10):
        assert remembered(tmp_path / "one", len(BODY), lambda: BODY) == BODY
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "taken").write_bytes(b"")
    assert remembered(tmp_path / "taken" / "one", len(BODY), lambda: BODY) == BODY
