import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from registry.base_model import LoadedModel, load, locate
from registry.errors import IntegrityError, StorageError, UsageError
from registry.merging.export import export_adapter
from registry.merging.offline import METHODS, MergeSettings, Method, merge_into_base, merge_offline
from registry.recipe import Recipe
from registry.store.layout import AdapterLayout
from tests.generation.sums import online

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
MakeAdapters = Callable[..., dict[str, bytes]]
IDS = torch.tensor([[5, 17, 203, 88, 41, 300]])
WEIGHTS = [1.0, 0.6, 0.3]


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(input_ids=IDS).logits


@pytest.fixture(autouse=True)
def unchanged(tiny_model: LoadedModel) -> Iterator[None]:
    """No merge may leave a trace in the loaded model."""
    before, modules = logits(tiny_model.model), dict(tiny_model.model.named_modules())
    yield
    after = dict(tiny_model.model.named_modules())
    assert after.keys() == modules.keys()
    assert all(after[name] is module for name, module in modules.items())
    assert not hasattr(tiny_model.model, "peft_config")
    assert torch.equal(logits(tiny_model.model), before)


def loaded_back(tiny_model: LoadedModel, folder: Path) -> Tensor:
    model = PeftModel.from_pretrained(tiny_model.model, str(folder))
    try:
        return logits(model)
    finally:
        model.unload()


def merged_online(
    tiny_model: LoadedModel, recipe: Recipe, layout: AdapterLayout, adapters: dict[str, bytes], weights: list[float]
) -> Tensor:
    """The logits of the adapters merged online."""
    return online(tiny_model, layout, [layout.body(data) for data in adapters.values()], weights, recipe.scale, IDS)


def pefts_own(
    tiny_model: LoadedModel, recipe: Recipe, adapters: dict[str, bytes], settings: MergeSettings, folder: Path
) -> Tensor:
    """The logits of PEFT's merge in memory, of adapters that were exported one by one."""
    names = list("abc")
    for name, data in zip(names, adapters.values(), strict=True):
        export_adapter(data, folder / name, recipe=recipe, base_model=tiny_model.base_model)
    model = PeftModel.from_pretrained(tiny_model.model, str(folder / "a"), adapter_name="a")
    try:
        for name in names[1:]:
            model.load_adapter(str(folder / name), adapter_name=name)
        torch.manual_seed(settings.seed)
        model.base_model.add_weighted_adapter(
            names, WEIGHTS, "m", combination_type=settings.method, density=settings.density, svd_rank=settings.svd_rank
        )
        model.set_adapter("m")
        return logits(model)
    finally:
        model.unload()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_loads_back_as_it_was_in_memory(
    tiny_model: LoadedModel,
    recipe: Recipe,
    layout: AdapterLayout,
    make_adapters: MakeAdapters,
    tmp_path: Path,
    method: Method,
) -> None:
    adapters = make_adapters(3)
    prunes = method.startswith(("ties", "dare", "magnitude"))
    settings = MergeSettings(method, 0.6 if prunes else None, 4 if method.endswith("svd") else None, seed=7)
    out = tmp_path / "out"
    merged = merge_offline(tiny_model, recipe, layout, adapters, WEIGHTS, out, settings)
    actual = loaded_back(tiny_model, out)
    expected = pefts_own(tiny_model, recipe, adapters, settings, tmp_path / "singles")
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
    assert (actual - logits(tiny_model.model)).abs().max() > 0.01
    assert merged.layout.rank == (6 if method == "cat" else 4 if method.endswith("svd") else 2)
    card = (out / "README.md").read_text()
    assert all(digest in card for digest in adapters)
    assert f"| method | {method} |" in card


def test_cat_equals_the_merge_while_asking(
    tiny_model: LoadedModel, recipe: Recipe, layout: AdapterLayout, make_adapters: MakeAdapters, tmp_path: Path
) -> None:
    adapters = make_adapters(3)
    merge_offline(tiny_model, recipe, layout, adapters, WEIGHTS, tmp_path / "out")
    asked = merged_online(tiny_model, recipe, layout, adapters, WEIGHTS)
    torch.testing.assert_close(loaded_back(tiny_model, tmp_path / "out"), asked, atol=1e-4, rtol=0)


def test_many_adapters_have_names_that_peft_does_not_drop(
    tiny_model: LoadedModel, recipe: Recipe, layout: AdapterLayout, make_adapters: MakeAdapters, tmp_path: Path
) -> None:
    adapters = make_adapters(12)
    merged = merge_offline(tiny_model, recipe, layout, adapters, [0.2] * 12, tmp_path / "out")
    assert merged.layout.rank == 24
    asked = merged_online(tiny_model, recipe, layout, adapters, [0.2] * 12)
    torch.testing.assert_close(loaded_back(tiny_model, tmp_path / "out"), asked, atol=1e-4, rtol=0)


def test_the_seed_decides_what_dare_drops(
    tiny_model: LoadedModel, recipe: Recipe, layout: AdapterLayout, make_adapters: MakeAdapters, tmp_path: Path
) -> None:
    state = torch.get_rng_state()
    datas = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        settings = MergeSettings("dare_linear", seed=seed)
        merged = merge_offline(tiny_model, recipe, layout, make_adapters(3), WEIGHTS, tmp_path / name, settings)
        datas.append(merged.data)
    assert datas[0] == datas[1] != datas[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_single_adapter_is_itself(
    tiny_model: LoadedModel, recipe: Recipe, layout: AdapterLayout, make_adapters: MakeAdapters, tmp_path: Path
) -> None:
    adapters = make_adapters(1)
    merge_offline(tiny_model, recipe, layout, adapters, [1.0], tmp_path / "out")
    asked = merged_online(tiny_model, recipe, layout, adapters, [1.0])
    torch.testing.assert_close(loaded_back(tiny_model, tmp_path / "out"), asked, atol=1e-4, rtol=0)


def test_half_precision_adapters_on_a_half_precision_base(
    tiny_model_path: Path, recipe: Recipe, layout: AdapterLayout, make_adapters: MakeAdapters, tmp_path: Path
) -> None:
    loaded = load(locate(str(tiny_model_path), models_path=tmp_path), device="cpu", dtype="bfloat16")
    halves = AdapterLayout.of(layout.shapes, layout.rank, "bfloat16")
    adapters = {}
    for digest, data in make_adapters(2).items():
        values = torch.frombuffer(bytearray(layout.body(data)), dtype=torch.float32).bfloat16()
        adapters[digest] = halves.serialise(values.view(torch.uint8).numpy().tobytes())
    merged = merge_offline(loaded, recipe, halves, adapters, [1.0, 1.0], tmp_path / "out")
    assert merged.layout.dtype == "float32"
    merge_into_base(loaded, recipe, halves, adapters, [1.0, 1.0], tmp_path / "full")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "full").dtype == torch.bfloat16


@pytest.mark.parametrize("method", ["cat", "ties"])
def test_the_fully_merged_model_needs_no_peft(
    tiny_model: LoadedModel,
    recipe: Recipe,
    layout: AdapterLayout,
    make_adapters: MakeAdapters,
    tmp_path: Path,
    method: Method,
) -> None:
    adapters, settings = make_adapters(3), MergeSettings(method)
    merge_into_base(tiny_model, recipe, layout, adapters, WEIGHTS, tmp_path / "full", settings)
    merge_offline(tiny_model, recipe, layout, adapters, WEIGHTS, tmp_path / "lora", settings)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "full")
    assert model.dtype == torch.float32
    torch.testing.assert_close(logits(model), loaded_back(tiny_model, tmp_path / "lora"), atol=1e-4, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "full")
    assert tokenizer.chat_template == tiny_model.tokenizer.chat_template
    names = {file.name for file in (tmp_path / "full").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    config = json.loads((tmp_path / "full" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "median"}, "no merge method 'median'"),
        ({"method": "cat", "density": 0.5}, "cat prunes nothing"),
        ({"method": "ties", "density": 0.0}, "not over 0"),
        ({"method": "dare_ties", "density": 1.5}, "not over 0"),
        ({"method": "ties", "svd_rank": 4}, "cannot be asked of method ties"),
        ({"method": "svd", "svd_rank": 0}, "rank 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MergeSettings(**settings)


def test_merges_that_cannot_be_are_refused(
    tiny_model: LoadedModel, recipe: Recipe, layout: AdapterLayout, make_adapters: MakeAdapters, tmp_path: Path
) -> None:
    adapters = make_adapters(2)
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="2 adapters cannot be merged with 1 weights"):
        merge_offline(tiny_model, recipe, layout, adapters, [1.0], out)
    with pytest.raises(UsageError, match="0 adapters"):
        merge_offline(tiny_model, recipe, layout, {}, [], out)
    with pytest.raises(UsageError, match="no effect"):
        merge_offline(tiny_model, recipe, layout, adapters, [0.0, 0.0], out, MergeSettings("linear"))
    with pytest.raises(UsageError, match="too small to change"):
        merge_into_base(tiny_model, recipe, layout, adapters, [1e-30, 1e-30], out)
    other = AdapterLayout.of(layout.shapes, 3, "float32")
    with pytest.raises(IntegrityError, match="header"):
        merge_offline(tiny_model, recipe, layout, make_adapters(2, other), [1.0, 1.0], out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [merge_offline, merge_into_base])
def test_a_full_disk_is_reported_and_nothing_left(
    tiny_model: LoadedModel,
    recipe: Recipe,
    layout: AdapterLayout,
    make_adapters: MakeAdapters,
    largest_file: Callable[[int], AbstractContextManager[None]],
    tmp_path: Path,
    write: Callable[..., object],
) -> None:
    with pytest.raises(StorageError, match="out cannot be written"), largest_file(8000):
        write(tiny_model, recipe, layout, make_adapters(2), [1.0, 1.0], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
