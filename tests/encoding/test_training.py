"""What training leaves behind: a lower loss, an unchanged model, and errors that name the document."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from registry.base_model import LoadedModel
from registry.digests import sha256_hex
from registry.encoding.examples import build_examples, plan_steps
from registry.encoding.kernels import Memory, kernels_for
from registry.encoding.loss import CHUNK_BYTES, head_loss
from registry.encoding.train import encode_group
from registry.errors import EncodingError
from registry.recipe import Recipe
from registry.records import EncodingInput
from tests.encoding.conftest import layout_of, make_input


def test_training_lowers_the_loss_and_leaves_the_model_as_it_was(
    tiny_model: LoadedModel, recipe: Recipe, inputs: list[EncodingInput]
) -> None:
    before = {name: value.clone() for name, value in tiny_model.model.state_dict().items()}
    modules = {name: type(module) for name, module in tiny_model.model.named_modules()}
    attention = tiny_model.model.config._attn_implementation
    adapters = encode_group(tiny_model, replace(recipe, epochs=8), layout_of(tiny_model, recipe), inputs)
    assert tiny_model.model.config._attn_implementation == attention
    for given, adapter in zip(inputs, adapters, strict=True):
        assert adapter.training.last_loss < adapter.training.first_loss
        assert adapter.document_digest == given.document.digest
        assert adapter.digest == sha256_hex(adapter.data)
        assert adapter.training.group_size == len(inputs)
    after = tiny_model.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert modules == {name: type(module) for name, module in tiny_model.model.named_modules()}


def test_a_document_without_augmentation_is_taught_its_own_text(tiny_model: LoadedModel, recipe: Recipe) -> None:
    bare = make_input("Well", "nobody drinks from the well", pairs=0, rewrites=0)
    (example,) = build_examples(tiny_model.tokenizer, replace(recipe, examples=("qa", "rewrite")), bare)
    text = tiny_model.tokenizer.decode(example.ids, skip_special_tokens=True)
    assert "nobody drinks from the well" in text
    assert example.loss_start == 1


def test_loss_on_answers_starts_behind_the_prompt(tiny_model: LoadedModel, recipe: Recipe) -> None:
    given = make_input("Mill", "the mill grinds blue barley", pairs=1, rewrites=0)
    (example,) = build_examples(tiny_model.tokenizer, replace(recipe, examples=("qa",)), given)
    taught = tiny_model.tokenizer.decode(example.ids[example.loss_start :], skip_special_tokens=True)
    assert taught.strip() == given.augmentation.pairs[0].answer


def test_the_paper_layout_has_five_examples_for_three_pairs_and_a_rewrite(tiny_model: LoadedModel) -> None:
    recipe = Recipe(examples=("paper",), layout="paper", loss="all", pairs=3, rewrites=1)
    given = make_input("Mill", "the mill grinds blue barley for the bakers", pairs=3, rewrites=1)
    examples = build_examples(tiny_model.tokenizer, recipe, given)
    texts = [tiny_model.tokenizer.decode(example.ids) for example in examples]
    assert len(texts) == 5
    assert ["Passage 1:" in text for text in texts] == [True, True, True, True, False]
    assert all("The answer is" in text for text in texts)


def test_steps_go_through_every_example_once_an_epoch() -> None:
    recipe = Recipe(epochs=3, examples_per_step=4)
    steps = plan_steps(recipe, "a" * 64, 10)
    assert [len(step) for step in steps] == [4, 4, 2] * 3
    for epoch in range(3):
        assert sorted(index for step in steps[3 * epoch : 3 * epoch + 3] for index in step) == list(range(10))
    assert steps[:3] != steps[3:6]
    assert steps == plan_steps(recipe, "a" * 64, 10)
    assert steps != plan_steps(recipe, "b" * 64, 10)


def test_an_example_too_long_is_cut_before_what_it_teaches(tiny_model: LoadedModel, recipe: Recipe) -> None:
    given = make_input("Mill", "the mill grinds blue barley for the bakers of Tarn " * 20, pairs=1, rewrites=0)
    short = replace(recipe, examples=("qa-passage",), max_tokens=24)
    (example,) = build_examples(tiny_model.tokenizer, short, given)
    assert len(example.ids) == 24
    taught = tiny_model.tokenizer.decode(example.ids[example.loss_start :], skip_special_tokens=True)
    assert taught.strip() == given.augmentation.pairs[0].answer


def test_diverging_training_is_refused_by_name(tiny_model: LoadedModel, recipe: Recipe) -> None:
    given = make_input("Mill", "the mill grinds blue barley", pairs=2)
    with pytest.raises(EncodingError, match="Mill") as raised:
        encode_group(tiny_model, replace(recipe, learning_rate=1e38), layout_of(tiny_model, recipe), [given])
    assert raised.value.hint is not None
    assert "learning_rate" in raised.value.hint


@pytest.mark.parametrize("cap", [None, 5.0])
def test_head_loss_and_its_gradient_equal_autograd(cap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(600, 16, dtype=torch.float64), torch.randn(50, 16, dtype=torch.float64)
    targets, weights = torch.randint(50, (600,)), torch.rand(600, dtype=torch.float64)
    plain = hidden.clone().requires_grad_()
    logits = plain @ head.T
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    (losses * weights).sum().backward()
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 50 * 4 * 256)
    found, slope = head_loss(
        hidden.float(), head.float(), targets, weights.float(), cap, kernels_for("cpu"), Memory("cpu")
    )
    torch.testing.assert_close(found.double(), losses.detach(), rtol=1e-5, atol=1e-5)
    assert plain.grad is not None
    torch.testing.assert_close(slope.double(), plain.grad, rtol=1e-3, atol=1e-4)
