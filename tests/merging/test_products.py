"""The formulas of merging against the very matrices that they are about."""

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from registry.base_model import LoadedModel, linear_shapes
from registry.errors import IntegrityError
from registry.merging.methods import parse_merge
from registry.merging.products import LEAST_REST, inner_products
from registry.recipe import Recipe
from registry.store.layout import AdapterLayout
from tests.generation.sums import online

IDS = torch.tensor([[5, 17, 203, 88, 41, 300]])
SCORES = (9.0, 7.0, 3.0)
Dense = dict[str, np.ndarray]
"""What an adapter adds to the weights of every module."""


def bodies_with_a_common_part(layout: AdapterLayout, count: int, *, share: float = 0.7) -> list[bytes]:
    """Random adapters whose B have much in common, and whose A are nearly one, as those of one start."""
    random = np.random.default_rng(3)
    common = random.normal(0, 0.1, layout.elements)
    mixed = (share * common + (1 - share) * random.normal(0, 0.1, layout.elements) for _ in range(count))
    return [as_body(layout, vector) for vector in mixed]


def as_body(layout: AdapterLayout, vector: np.ndarray) -> bytes:
    dtype = getattr(torch, layout.dtype)
    return torch.from_numpy(vector).to(dtype).view(torch.uint8).numpy().tobytes()


def dense(layout: AdapterLayout, body: bytes, scale: float) -> Dense:
    vector = torch.frombuffer(bytearray(body), dtype=getattr(torch, layout.dtype)).double().numpy()
    found: Dense = {}
    for module, (a, b) in layout.modules.items():
        own_a = vector[a.offset_elements : a.offset_elements + a.elements].reshape(a.shape)
        own_b = vector[b.offset_elements : b.offset_elements + b.elements].reshape(b.shape)
        found[module] = scale * own_b @ own_a
    return found


def flat(matrices: Dense) -> np.ndarray:
    return np.concatenate([matrix.ravel() for matrix in matrices.values()])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rank", [1, 3])
def test_inner_products(tiny_model: LoadedModel, rank: int, dtype: Any) -> None:
    layout = AdapterLayout.of(linear_shapes(tiny_model.model, ("gate_proj", "down_proj", "q_proj")), rank, dtype)
    bodies = bodies_with_a_common_part(layout, 4)
    vectors = np.stack([flat(dense(layout, body, 8.0)) for body in bodies])
    found = inner_products(layout, [bodies[0], *map(memoryview, bodies[1:])], 8.0)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, vectors @ vectors.T, rtol=1e-5)
    assert inner_products(layout, [], 8.0).shape == (0, 0)


def test_other_lengths_are_refused(layout: AdapterLayout) -> None:
    with pytest.raises(IntegrityError, match="where"):
        inner_products(layout, [bytes(layout.body_bytes), bytes(12)], 1.0)


def expected(text: str, documents: Sequence[np.ndarray], common: np.ndarray) -> np.ndarray:
    """What a method merges, computed on whole matrices one after the other as the formulas say."""
    weighting, *modifiers = (part.partition(":")[0] for part in text.split("+"))
    bound = float(text.partition("cap:")[2] or 1.0)
    weights = parse_merge(weighting, 3).weights(SCORES)
    parts = [document - common if "common" in modifiers else document for document in documents]
    if "orthogonal" in modifiers:
        directions: list[np.ndarray] = []
        for number, part in enumerate(parts):
            for direction in directions:
                part = part - direction * (direction @ part)
            directions.append(part / np.linalg.norm(part))
            parts[number] = part
    merged = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    merged = merged + common if "common" in modifiers else merged
    longest = max(float(np.linalg.norm(document)) for document in documents)
    if "cap" in modifiers and np.linalg.norm(merged) > bound * longest:
        merged *= bound * longest / np.linalg.norm(merged)
    return merged


METHODS = [
    "+".join((weighting, *chosen))
    for weighting, modifiers in (
        ("uniform", ("common", "orthogonal", "cap:1.1")),
        ("softmax", ("common", "orthogonal")),
        ("first", ("orthogonal", "cap:0.5")),
    )
    for count in range(len(modifiers) + 1)
    for chosen in itertools.combinations(modifiers, count)
]


@pytest.mark.parametrize("text", METHODS)
def test_the_model_computes_what_the_formulas_say(
    tiny_model: LoadedModel, recipe: Recipe, layout: AdapterLayout, text: str
) -> None:
    *bodies, common = bodies_with_a_common_part(layout, 4)
    merge = parse_merge(text, 3)
    terms = [*bodies, *([common] if merge.needs_common else [])]
    products = inner_products(layout, terms, recipe.scale) if merge.needs_products else None
    found = merge.coefficients(SCORES, products)
    factors = [*found.hits, *([found.common] if merge.needs_common else [])]
    vectors = [flat(dense(layout, body, recipe.scale)) for body in bodies]
    wanted = expected(text, vectors, flat(dense(layout, common, recipe.scale)))

    merged = sum(factor * flat(dense(layout, term, recipe.scale)) for factor, term in zip(factors, terms, strict=True))
    np.testing.assert_allclose(merged, wanted, atol=1e-5 * np.abs(wanted).max())
    bare = logits(tiny_model.model)
    ours = online(tiny_model, layout, terms, factors, recipe.scale, IDS)
    whole = logits(with_added(tiny_model.model, layout, wanted))
    torch.testing.assert_close(ours, whole, atol=1e-4, rtol=0)
    assert (whole - bare).abs().max() > 1e-2


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(input_ids=IDS).logits


def with_added(model: Any, layout: AdapterLayout, added: np.ndarray) -> Any:
    """A copy of the model with these entries added to its weights, module after module."""
    changed = copy.deepcopy(model)
    start = 0
    for module, (a, b) in layout.modules.items():
        shape = (b.shape[0], a.shape[1])
        own = added[start : start + shape[0] * shape[1]].reshape(shape)
        changed.get_submodule(module).weight.data += torch.from_numpy(own).float()
        start += own.size
    assert start == added.size
    return changed


@pytest.mark.parametrize("modifier", ["", "+common"])
def test_what_orthogonal_adds_is_orthogonal_to_what_was_there(layout: AdapterLayout, modifier: str) -> None:
    """By growing the list of merged documents one by one: every step is orthogonal to the steps before it."""
    *bodies, common = bodies_with_a_common_part(layout, 5)
    terms = [*bodies, *([common] if modifier else [])]
    products = inner_products(layout, terms, 1.0)
    vectors = np.stack([flat(dense(layout, term, 1.0)) for term in terms])
    sums = []
    for count in range(1, 5):
        listed = ",".join("1" if number < count else "0" for number in range(4))
        found = parse_merge(f"{listed}+orthogonal{modifier}", 4).coefficients((4.0, 3.0, 2.0, 1.0), products)
        sums.append(np.array([*found.hits, *([found.common] if modifier else [])]) @ vectors)
    start = flat(dense(layout, common, 1.0)) if modifier else np.zeros_like(sums[0])
    steps = np.diff(np.stack([start, *sums]), axis=0)
    cosines = steps @ steps.T / np.outer(*(np.linalg.norm(steps, axis=1),) * 2)
    np.testing.assert_allclose(cosines, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(steps[0], vectors[0] - start, atol=1e-6)


@pytest.mark.parametrize("modifiers", ["orthogonal", "common+orthogonal", "common+orthogonal+cap"])
@pytest.mark.parametrize("distance", [0.0, 1e-6, 1e-3, 0.05, 0.2])
def test_nearly_equal_documents_do_not_blow_up(layout: AdapterLayout, modifiers: str, distance: float) -> None:
    random = np.random.default_rng(0)
    one, other, third, common = random.normal(0, 0.1, (4, layout.elements))
    close = [one, one + distance * other, one - distance * third, third]
    terms = [as_body(layout, vector) for vector in close]
    if "common" in modifiers:
        terms.append(as_body(layout, one + distance * common))
    products = inner_products(layout, terms, 1.0)
    found = parse_merge(f"uniform+{modifiers}", 4).coefficients((4.0, 3.0, 2.0, 1.0), products)
    assert all(abs(factor) <= 2 / LEAST_REST for factor in (*found.hits, found.common))
    vectors = np.stack([flat(dense(layout, term, 1.0)) for term in terms])
    merged = np.array([*found.hits, *([found.common] if "common" in modifiers else [])]) @ vectors
    lengths = np.linalg.norm(vectors, axis=1)
    assert np.linalg.norm(merged) <= np.sqrt(np.sum((2 * lengths) ** 2))


def test_documents_that_say_the_same_count_once(layout: AdapterLayout) -> None:
    (body,) = bodies_with_a_common_part(layout, 1)
    products = inner_products(layout, [body] * 3, 1.0)
    assert parse_merge("uniform+orthogonal", 3).coefficients(SCORES, products).hits == (1.0, 0.0, 0.0)
    alone = parse_merge("uniform+common+orthogonal", 1).coefficients(SCORES[:1], products[:2, :2])
    assert (alone.hits, alone.common) == ((0.0,), 1.0)


def test_nothing_is_lost_to_documents_of_weight_zero(layout: AdapterLayout) -> None:
    products = inner_products(layout, bodies_with_a_common_part(layout, 3), 1.0)
    found = parse_merge("0,1,1+orthogonal", 3).coefficients(SCORES, products).hits
    assert (found[0], found[2]) == (0.0, 1.0)
    assert found[1] != 1.0


@pytest.mark.parametrize("cap", [0.3, 1.0, 1.7, 100.0])
def test_the_cap_bounds_the_norm_and_keeps_the_direction(layout: AdapterLayout, cap: float) -> None:
    bodies = bodies_with_a_common_part(layout, 3)
    vectors = np.stack([flat(dense(layout, body, 2.0)) for body in bodies])
    products = inner_products(layout, bodies, 2.0)
    free = np.array(parse_merge("uniform", 3).coefficients(SCORES).hits)
    capped = np.array(parse_merge(f"uniform+cap:{cap}", 3).coefficients(SCORES, products).hits)
    longest = np.linalg.norm(vectors, axis=1).max()
    wanted = min(1.0, cap * longest / np.linalg.norm(free @ vectors))
    np.testing.assert_allclose(capped, wanted * free, rtol=1e-5)
    assert np.linalg.norm(capped @ vectors) <= cap * longest * (1 + 1e-5)


def test_the_cap_is_of_the_documents_that_are_merged(layout: AdapterLayout) -> None:
    small, large = bodies_with_a_common_part(layout, 2)
    large = (np.frombuffer(large, np.float32) * 10).tobytes()
    products = inner_products(layout, [small, large], 1.0)
    assert parse_merge("2,0+cap", 2).coefficients(SCORES[:2], products).hits == pytest.approx((1.0, 0.0))


def test_an_adapter_that_does_nothing_changes_nothing(layout: AdapterLayout) -> None:
    products = inner_products(layout, [bytes(layout.body_bytes)] * 3, 1.0)
    found = parse_merge("uniform+common+orthogonal+cap", 2).coefficients(SCORES[:2], products)
    assert all(np.isfinite([*found.hits, found.common]))
