"""Merged folders: the exact sum, whoever loads them, and nothing that an engine does not take."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel
from safetensors.torch import load_file
from transformers import PreTrainedModel

from registry.base_model import target_shapes
from registry.errors import NotFoundError, UsageError
from registry.merging.concatenated import concatenate, with_all_blocks
from registry.merging.export import lora_config
from registry.merging.methods import Coefficients
from registry.pipeline.common_part import common_part
from registry.pipeline.merged_folders import (
    VLLM_RANKS,
    FolderPlan,
    engine_rank,
    find_retrieval,
    merged_adapter,
    plan_of_adapter,
    plan_of_retrieval,
    write_files,
)
from registry.pipeline.opened import Registry
from registry.pipeline.query import Asking, open_asker
from registry.pipeline.retrievals import retrieval_of
from registry.pipeline.vllm_export import export_for_vllm
from registry.progress import Silent
from registry.settings import Home
from registry.store.layout import AdapterLayout, read_layout
from tests.engines.conftest import RANK, deltas, exact_logits, logits, relative
from tests.engines.vllm_protocol import load_folder

ROOT = Path(__file__).parents[2]
Fresh = Callable[[], PreTrainedModel]
Documents = list[tuple[str, str]]


def plan(registry: Registry, first: Documents, count: int, merge: str = "uniform") -> FolderPlan:
    named = ",".join(document[:12] for document, _ in first[:count])
    return plan_of_retrieval(registry, find_retrieval(registry, f"default@v1:{named}", merge))


def written(registry: Registry, plan: FolderPlan, folder: Path) -> Path:
    folder.mkdir(parents=True)
    write_files(folder, *merged_adapter(registry, plan), plan)
    return folder


@pytest.mark.parametrize(
    ("merge", "factors"),
    [
        ("uniform", (1, 1, 1)),
        ("near", (1 / 3, 1 / 3, 1 / 3)),
        ("0.7,0,-0.3", (0.7, 0, -0.3)),
        ("first", (0.8, 0.1, 0.1)),
    ],
)
@pytest.mark.parametrize("reader", ["peft", "transformers"])
def test_the_folder_gives_the_logits_of_the_exact_sum(
    registry: Registry,
    first: Documents,
    fresh_model: Fresh,
    tmp_path: Path,
    merge: str,
    factors: tuple[float, ...],
    reader: str,
) -> None:
    made = plan(registry, first, 3, merge)
    folder = written(registry, made, tmp_path / "merged")
    terms = [(adapter, factor) for (_, adapter), factor in zip(first, factors, strict=False)]
    expected = exact_logits(fresh_model(), deltas(registry, terms, made.recipe.scale))
    model = fresh_model()
    bare = logits(model)
    if reader == "peft":
        model = PeftModel.from_pretrained(model, str(folder))
    else:
        model.load_adapter(str(folder))
    assert relative(logits(model), expected) < 1e-4
    assert relative(bare, expected) > 1e-2


@pytest.mark.parametrize("merge", ["0.5,0.2+common", "uniform+common+orthogonal", "none+common", "uniform+cap:0.5"])
def test_common_parts_and_modifiers_are_merged_as_a_query_merges_them(
    registry: Registry, first: Documents, fresh_model: Fresh, tmp_path: Path, merge: str
) -> None:
    made = plan(registry, first, 2, merge)
    assert made.version is not None
    (data,) = registry.adapters([first[0][1]]).values()
    layout = read_layout(data)
    common = layout.serialise(common_part(registry, made.version, made.recipe, layout))
    added = deltas(registry, made.adapters, made.recipe.scale)
    vector = torch.frombuffer(bytearray(layout.body(common)), dtype=torch.float32).double()
    for module, specs in layout.modules.items():
        a, b = (vector[s.offset_elements : s.offset_elements + s.elements].view(s.shape) for s in specs)
        added[module] = added.get(module, torch.zeros(())) + made.common * made.recipe.scale * (b @ a)
    assert bool(made.common) == ("common" in merge)
    assert len(made.adapters) == (0 if merge.startswith("none") else 2)
    model = PeftModel.from_pretrained(fresh_model(), str(written(registry, made, tmp_path / "merged")))
    assert relative(logits(model), exact_logits(fresh_model(), added)) < 1e-4


def test_padding_changes_nothing(registry: Registry, first: Documents, fresh_model: Fresh, tmp_path: Path) -> None:
    made = plan(registry, first, 3)
    assert (made.rank, made.alpha / made.rank) == (8, made.recipe.scale)
    tight = replace(made, rank=3 * RANK)
    tensors = {}
    seen = []
    for each in (made, tight, replace(made, rank=64)):
        folder = written(registry, each, tmp_path / str(each.rank))
        tensors[each.rank] = load_file(folder / "adapter_model.safetensors")
        seen.append(logits(PeftModel.from_pretrained(fresh_model(), str(folder))))
    torch.testing.assert_close(seen[0], seen[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(seen[2], seen[1], atol=1e-6, rtol=0)
    for name, whole in tensors[8].items():
        one = whole if "lora_A" in name else whole.T
        tight_one = tensors[6][name] if "lora_A" in name else tensors[6][name].T
        assert torch.equal(one[:6], tight_one)
        assert not one[6:].any()


def test_with_factors_of_one_every_number_is_an_adapters_own(registry: Registry, first: Documents) -> None:
    layout, data = merged_adapter(registry, plan(registry, first, 2))
    vector = torch.frombuffer(bytearray(layout.body(data)), dtype=torch.float32)
    for number, (_, adapter) in enumerate(first[:2]):
        own = registry.adapters([adapter])[adapter]
        own_layout = read_layout(own)
        own_vector = torch.frombuffer(bytearray(own_layout.body(own)), dtype=torch.float32)
        for module, (a, b) in layout.modules.items():
            rows = slice(number * RANK, (number + 1) * RANK)
            own_a, own_b = own_layout.modules[module]
            for big, small, axis in ((a, own_a, 0), (b, own_b, 1)):
                whole = vector[big.offset_elements : big.offset_elements + big.elements].view(big.shape)
                part = own_vector[small.offset_elements : small.offset_elements + small.elements].view(small.shape)
                assert torch.equal(whole[rows] if axis == 0 else whole[:, rows], part)


@pytest.mark.parametrize(("factors", "dtype"), [((1.0, -0.5), "bfloat16"), ((1.0, 0.3), "float32")])
def test_bfloat16_stays_where_nothing_is_rounded(factors: tuple[float, float], dtype: str) -> None:
    layout = AdapterLayout.of({"m": (3, 5)}, 2, "bfloat16")
    bodies = [torch.randn(layout.elements, generator=torch.manual_seed(seed)).bfloat16() for seed in (0, 1)]
    raw = [bytes(body.view(torch.uint8).numpy()) for body in bodies]
    merged, data = concatenate(layout, list(zip(raw, factors, strict=True)), 8)
    assert merged.dtype == dtype
    vector = torch.frombuffer(bytearray(merged.body(data)), dtype=getattr(torch, dtype)).double()
    own_a, own_b = layout.modules["m"]
    a, b = (vector[s.offset_elements : s.offset_elements + s.elements].view(s.shape) for s in merged.modules["m"])
    expected = torch.zeros(3, 5, dtype=torch.float64)
    for body, factor in zip(bodies, factors, strict=True):
        wide = body.double()
        small_a = wide[own_a.offset_elements : own_a.offset_elements + own_a.elements].view(own_a.shape)
        small_b = wide[own_b.offset_elements : own_b.offset_elements + own_b.elements].view(own_b.shape)
        expected += factor * small_b @ small_a
    torch.testing.assert_close(b @ a, expected, rtol=1e-6, atol=1e-7)
    if dtype == "bfloat16":
        assert torch.equal(b @ a, expected)


def test_vllm_loads_the_sum(registry: Registry, first: Documents, tmp_path: Path) -> None:
    made = plan(registry, first, 3, "near")
    loaded = load_folder(written(registry, made, tmp_path / "merged"), max_lora_rank=8)
    expected = deltas(registry, [(adapter, 1 / 3) for _, adapter in first[:3]], made.recipe.scale)
    assert loaded.keys() == expected.keys()
    for module, own in loaded.items():
        actual = own.scaling * (own.b.double() @ own.a.double())
        torch.testing.assert_close(actual, expected[module], rtol=1e-5, atol=1e-6)


def test_the_documented_lines_answer_as_a_query_does(
    engine_home: Home, registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, section = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8").partition("## transformers")
    lines = section.split("```python\n")[1].partition("```")[0]
    with open_asker(engine_home, "default@v1", device="cpu", dtype="float32") as asker:
        for number, question in enumerate(["Note 4", "What follows ro bo in Note 1?"]):
            (answer,) = asker.ask([question], Asking(k=3, merge="9,7,-8"))
            (bare,) = asker.ask([question], Asking(mode="closed-book"))
            retrieval = retrieval_of(asker.version, answer.hits, Coefficients(answer.weights, answer.common_weight))
            folder = written(registry, plan_of_retrieval(registry, retrieval), tmp_path / str(number))
            capsys.readouterr()
            exec(lines, {"folder": str(folder), "question": question})
            assert capsys.readouterr().out.strip() == answer.answer.strip()
            assert bare.answer != answer.answer


def test_the_settings_are_pefts_and_no_more_than_old_readers_know(
    registry: Registry, first: Documents, tiny_model_path: Path, tmp_path: Path
) -> None:
    made = plan(registry, first, 2)
    folder = written(registry, made, tmp_path / "merged")
    assert {file.name for file in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    read = PeftConfig.from_pretrained(str(folder))
    assert isinstance(read, LoraConfig)
    layout = read_layout((folder / "adapter_model.safetensors").read_bytes())
    assert read.to_dict() == lora_config(layout, made.alpha, made.base_model).to_dict()
    assert json.loads((folder / "adapter_config.json").read_text()) == {
        "base_model_name_or_path": str(tiny_model_path),
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": 256,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": 8,
        "revision": None,
        "target_modules": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
        "task_type": "CAUSAL_LM",
    }


@pytest.mark.parametrize("all_blocks", [False, True])
def test_blocks_below_the_first_get_none_or_zeros(
    registry: Registry, first: Documents, fresh_model: Fresh, tiny_model_path: Path, tmp_path: Path, all_blocks: bool
) -> None:
    """LoRAX passes over a module that is not in every block of an adapter, and says nothing."""
    made = plan_of_adapter(registry, first[0][1])
    every = target_shapes(tiny_model_path, ("up_proj", "q_proj"))
    upper = AdapterLayout.of({name: s for name, s in every.items() if ".layers.0." not in name}, RANK, "float32")
    body = torch.randn(upper.elements, generator=torch.manual_seed(0)) * 0.1
    layout, data = concatenate(upper, [(memoryview(body.numpy()), 1.0)], 8, all_blocks=all_blocks)
    assert layout.shapes.keys() == (every if all_blocks else upper.shapes).keys()
    folder = tmp_path / "merged"
    folder.mkdir()
    write_files(folder, layout, data, made)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config.get("layers_to_transform") == (None if all_blocks else [1, 2])
    assert config.get("layers_pattern") == (None if all_blocks else "layers")
    added = {}
    for module, specs in upper.modules.items():
        a, b = (body[s.offset_elements : s.offset_elements + s.elements].view(s.shape).double() for s in specs)
        added[module] = made.recipe.scale * (b @ a)
    model = PeftModel.from_pretrained(fresh_model(), str(folder))
    assert relative(logits(model), exact_logits(fresh_model(), added)) < 1e-4


def test_blocks_that_differ_are_not_guessed() -> None:
    uneven = {"model.layers.1.up": (4, 2), "model.layers.2.up": (6, 2)}
    assert with_all_blocks(uneven) == uneven
    assert with_all_blocks({"lm_head": (4, 2)}) == {"lm_head": (4, 2)}
    assert with_all_blocks({"h.2.up": (4, 2), "h.3.up": (4, 2)}).keys() == {f"h.{number}.up" for number in range(4)}


@pytest.mark.parametrize(
    ("rank", "taken"), [(1, 1), (2, 8), (8, 8), (9, 16), (65, 128), (300, 320), (321, 512), (512, 512)]
)
def test_ranks_are_those_that_vllm_takes(rank: int, taken: int) -> None:
    assert engine_rank(rank) == taken
    assert taken in VLLM_RANKS


def test_a_rank_beyond_every_engine_is_refused() -> None:
    with pytest.raises(UsageError, match="rank 513") as caught:
        engine_rank(513)
    assert "fewer documents" in (caught.value.hint or "")


def test_the_digest_is_that_of_everything_that_decides_the_bytes(registry: Registry, first: Documents) -> None:
    one = plan(registry, first, 2)
    assert one.digest == plan(registry, first, 2).digest
    others = [
        plan(registry, first, 3),
        plan(registry, list(reversed(first[:2])), 2),
        plan(registry, first, 2, "mean"),
        plan(registry, first, 2, "mean+common"),  # no common part: its factor is 0
        plan(registry, first, 2, "0.2,0.2+common"),
        replace(one, rank=16),
        replace(one, all_blocks=True),
        replace(one, recipe=replace(one.recipe, alpha=1.0)),
    ]
    digests = [each.digest for each in others]
    assert one.digest not in digests
    assert digests[2] == digests[3]
    assert len(set(digests)) == len(digests) - 1


def test_a_name_of_an_edited_document_is_of_one_version_only(registry: Registry) -> None:
    with registry.catalog.read() as session:
        from registry.catalog.members import member_digests

        before = dict(member_digests(session, registry.version("default@v1")))
        after = dict(member_digests(session, registry.version("default@v2")))
    (edited,) = after.keys() - before.keys()
    assert find_retrieval(registry, f"default:{edited}").documents[0].adapter == after[edited]
    with pytest.raises(NotFoundError, match="not in default@v1"):
        find_retrieval(registry, f"default@production:{edited}")


def test_an_export_says_how_to_serve_it(
    engine_home: Home, registry: Registry, first: Documents, tiny_model_path: Path, tmp_path: Path
) -> None:
    pair = ",".join(document[:9] for document, _ in first[:2])
    names = [f"default@production:{pair}", f"default:{first[4][0]}", first[5][1][:10], f"default@v1:{pair}"]
    exported = export_for_vllm(engine_home, names, tmp_path / "out", Silent(), merge="uniform")
    # The alias and the version that it names are one, and stand in the command by what stays.
    shorts = [document[:12] for document, _ in first]
    assert [folder.name for folder in exported.folders] == [
        f"default@v1:{shorts[0]},{shorts[1]}",
        f"default@v2:{shorts[4]}",
        f"adapter-{first[5][1][:12]}",
    ]
    assert exported.words[:3] == ("vllm", "serve", str(tiny_model_path))
    for folder in exported.folders:
        load_folder(folder.folder, max_lora_rank=8)
        assert (folder.folder / "README.md").is_file()
    assert [json.loads(word)["path"] for word in exported.words[-3:]] == [str(f.folder) for f in exported.folders]
    assert exported.words[3:-3] == (
        *("--enable-lora", "--max-lora-rank", "8", "--max-loras", "3", "--max-cpu-loras", "3", "--lora-modules"),
    )
    assert f"'{exported.words[-1]}'" in exported.command


def test_a_single_export_is_the_folder_itself(
    engine_home: Home, first: Documents, fresh_model: Fresh, tmp_path: Path, registry: Registry
) -> None:
    (folder,) = export_for_vllm(engine_home, [first[0][1]], tmp_path / "one", Silent()).folders
    assert folder.folder == tmp_path / "one"
    added = deltas(registry, [(first[0][1], 1.0)], plan_of_adapter(registry, first[0][1]).recipe.scale)
    model = PeftModel.from_pretrained(fresh_model(), str(folder.folder))
    assert relative(logits(model), exact_logits(fresh_model(), added)) < 1e-4
    with pytest.raises(UsageError, match="not an empty folder"):
        export_for_vllm(engine_home, [first[1][1]], tmp_path / "one", Silent())
