import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, PeftConfig, PeftModel

from registry.base_model import LoadedModel, linear_shapes
from registry.errors import IntegrityError, StorageError, UsageError
from registry.merging.export import export_adapter
from registry.recipe import Recipe
from registry.records import BaseModel
from registry.store.layout import AdapterLayout

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
MakeAdapters = Callable[..., dict[str, bytes]]
COMMIT = "12fd25f77366fa6b3b4b768ec3050bf629380bac"


def hub_model(reference: str = "quarrel/point-1b", revision: str | None = COMMIT) -> BaseModel:
    return BaseModel("f" * 64, reference, revision, "LlamaForCausalLM", 1)


@pytest.fixture
def adapter(make_adapters: MakeAdapters) -> bytes:
    return next(iter(make_adapters(1).values()))


def test_the_folder_is_a_standard_peft_folder(adapter: bytes, recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "new" / "adapter"
    export_adapter(adapter, out, recipe=recipe, base_model=hub_model(), about={"title": "The Mill | of\x1b[2J\nEnse"})
    assert {file.name for file in out.iterdir()} == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert list(out.parent.iterdir()) == [out]
    assert (out / "adapter_model.safetensors").read_bytes() == adapter
    config = PeftConfig.from_pretrained(str(out))
    assert isinstance(config, LoraConfig)
    assert (config.r, config.lora_alpha, config.lora_dropout, config.bias) == (2, 32, 0.0, "none")
    assert config.target_modules == {"gate_proj", "up_proj", "down_proj"}
    assert config.base_model_name_or_path == "quarrel/point-1b"
    assert config.revision == COMMIT
    assert (config.task_type, config.inference_mode) == ("CAUSAL_LM", True)
    _, front, body = (out / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "base_model": "quarrel/point-1b",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["base_model:adapter:quarrel/point-1b", "lora", "pragreg"],
    }
    assert "| title | The Mill / of [2J Ense |" in body
    assert recipe.digest in body


def test_the_same_adapter_gives_the_same_files(adapter: bytes, recipe: Recipe, tmp_path: Path) -> None:
    for name in "ab":
        export_adapter(adapter, tmp_path / name, recipe=recipe, base_model=hub_model())
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    names = json.loads((tmp_path / "a" / "adapter_config.json").read_text())["target_modules"]
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("base_model", "name", "revision"),
    [
        (hub_model("smollm2-135m"), "HuggingFaceTB/SmolLM2-135M-Instruct", COMMIT),
        (hub_model("smollm2-135m", "sha256:" + "a" * 64), "HuggingFaceTB/SmolLM2-135M-Instruct", None),
        (hub_model("/models/quarrel", None), "/models/quarrel", None),
    ],
)
def test_the_base_model_is_named_as_others_find_it(
    adapter: bytes, recipe: Recipe, tmp_path: Path, base_model: BaseModel, name: str, revision: str | None
) -> None:
    export_adapter(adapter, tmp_path / "out", recipe=recipe, base_model=base_model)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (name, revision)
    front = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---\n", 2)[1])
    assert front.get("base_model") == (None if name.startswith("/") else name)


@pytest.mark.parametrize("first_layer", [0, 1])
def test_peft_loads_every_tensor(
    tiny_model: LoadedModel, make_adapters: MakeAdapters, recipe: Recipe, tmp_path: Path, first_layer: int
) -> None:
    recipe = replace(recipe, first_layer=first_layer)
    layout = AdapterLayout.of(linear_shapes(tiny_model.model, recipe.targets, first_layer), recipe.rank, "float32")
    (data,) = make_adapters(1, layout).values()
    export_adapter(data, tmp_path / "out", recipe=recipe, base_model=tiny_model.base_model)
    model = PeftModel.from_pretrained(tiny_model.model, str(tmp_path / "out"))
    try:
        loaded = {name: value for name, value in model.state_dict().items() if ".lora_" in name}
    finally:
        model.unload()
    vector = torch.frombuffer(bytearray(layout.body(data)), dtype=torch.float32)
    assert len(loaded) == len(layout.tensors)
    for spec in layout.tensors:
        expected = vector[spec.offset_elements : spec.offset_elements + spec.elements].view(spec.shape)
        assert torch.equal(loaded[spec.name.replace(".weight", ".default.weight")], expected)


def test_an_existing_folder_is_left_alone(adapter: bytes, recipe: Recipe, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    for taken in (full, full / "notes.txt"):
        with pytest.raises(UsageError, match="not an empty folder") as caught:
            export_adapter(adapter, taken, recipe=recipe, base_model=hub_model())
        assert "--out" in (caught.value.hint or "")
    assert [file.name for file in full.iterdir()] == ["notes.txt"]
    empty = tmp_path / "empty"
    empty.mkdir()
    export_adapter(adapter, empty, recipe=recipe, base_model=hub_model())
    assert (empty / "README.md").exists()


def test_a_failure_leaves_nothing(adapter: bytes, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError):
        export_adapter(adapter[:-1], tmp_path / "out", recipe=recipe, base_model=hub_model())
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        export_adapter(adapter, tmp_path / "file" / "out", recipe=recipe, base_model=hub_model())
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
