from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest

from registry.errors import IntegrityError
from registry.store import AdapterLayout, check_body, read_layout

SHAPES = {
    f"model.layers.{layer}.mlp.{name}": shape
    for layer in range(12)
    for name, shape in {"gate_proj": (10, 6), "up_proj": (10, 6), "down_proj": (6, 10)}.items()
}


def body_of(layout: AdapterLayout) -> bytes:
    values = np.random.default_rng(0).standard_normal(layout.elements).astype("<f4")
    if layout.dtype == "float32":
        return values.tobytes()
    return (values.view("<u4") >> 16).astype("<u2").tobytes()


def file_of(fields: dict[str, Any] | str, body: bytes = b"") -> bytes:
    text = (fields if isinstance(fields, str) else json.dumps(fields, separators=(",", ":"))).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def fields_of(data: bytes) -> dict[str, Any]:
    length = struct.unpack("<Q", data[:8])[0]
    fields: dict[str, Any] = json.loads(data[8 : 8 + length])
    return fields


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rank", [1, 3])
def test_bytes_are_those_of_safetensors(dtype: Any, rank: int) -> None:
    import safetensors.torch
    import torch

    layout = AdapterLayout.of(SHAPES, rank, dtype)
    body = body_of(layout)
    flat = torch.frombuffer(bytearray(body), dtype=getattr(torch, dtype))
    tensors = {
        spec.name: flat[spec.offset_elements : spec.offset_elements + spec.elements].reshape(spec.shape).clone()
        for spec in reversed(layout.tensors)
    }
    data = layout.serialise(body)
    assert data == safetensors.torch.save(tensors, metadata={"format": "pt"})
    assert len(data) == layout.size_bytes
    loaded = safetensors.torch.load(data)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_layers_above_nine_are_ordered_by_name() -> None:
    names = [spec.name for spec in AdapterLayout.of(SHAPES, 2, "float32").tensors]
    assert names == sorted(names)
    assert names.index("base_model.model.model.layers.10.mlp.up_proj.lora_A.weight") < names.index(
        "base_model.model.model.layers.2.mlp.up_proj.lora_A.weight"
    )


def test_offsets_are_in_elements_and_cover_the_body() -> None:
    layout = AdapterLayout.of(SHAPES, 2, "bfloat16")
    position = 0
    for spec in layout.tensors:
        assert spec.offset_elements == position
        position += spec.elements
    assert position == layout.elements == layout.body_bytes // 2
    a, b = layout.modules["model.layers.11.mlp.down_proj"]
    assert (a.shape, b.shape) == ((2, 10), (6, 2))
    assert layout.shapes == SHAPES


def test_the_same_arguments_give_the_same_object() -> None:
    again = AdapterLayout.of(dict(reversed(SHAPES.items())), 2, "float32")
    assert AdapterLayout.of(SHAPES, 2, "float32") is again
    assert AdapterLayout.of(SHAPES, 3, "float32") != again


def test_body_is_a_view_behind_the_recipes_header() -> None:
    layout = AdapterLayout.of(SHAPES, 2, "float32")
    body = body_of(layout)
    data = layout.serialise(memoryview(np.frombuffer(body, dtype="<f4")))
    assert layout.body(data) == body
    assert layout.body(bytearray(data)).obj is not None
    with pytest.raises(IntegrityError, match="header is not its recipe's"):
        AdapterLayout.of(SHAPES, 3, "float32").body(data)
    with pytest.raises(IntegrityError, match="bytes"):
        layout.body(data[:-1])
    with pytest.raises(ValueError, match="body of this layout"):
        layout.serialise(body[:-4])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_unknown_adapters_are_read_back(dtype: Any) -> None:
    layout = AdapterLayout.of(SHAPES, 4, dtype)
    assert read_layout(layout.serialise(body_of(layout))) is layout
    assert read_layout(memoryview(layout.serialise(body_of(layout)))) is layout


def test_peft_writes_and_loads_this_layout(tmp_path: Any) -> None:
    import peft
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up_proj = torch.nn.Linear(6, 10, bias=False)
            self.down_proj = torch.nn.Linear(10, 6, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.down_proj(self.up_proj(x))
            return result

    torch.manual_seed(0)
    model = get_peft_model(Tiny(), LoraConfig(r=2, target_modules=["up_proj", "down_proj"], init_lora_weights=False))
    model.save_pretrained(str(tmp_path))
    data = (tmp_path / "adapter_model.safetensors").read_bytes()
    layout = read_layout(data)
    assert layout == AdapterLayout.of({"up_proj": (10, 6), "down_proj": (6, 10)}, 2, "float32")

    numbers = np.frombuffer(layout.body(data), dtype="<f4") * 2
    (tmp_path / "adapter_model.safetensors").write_bytes(layout.serialise(numbers.tobytes()))
    loaded = PeftModel.from_pretrained(Tiny(), str(tmp_path))
    state = peft.get_peft_model_state_dict(loaded)
    assert state.keys() == {spec.name for spec in layout.tensors}
    for spec in layout.tensors:
        expected = numbers[spec.offset_elements : spec.offset_elements + spec.elements].reshape(spec.shape)
        assert np.array_equal(state[spec.name].numpy(), expected)


ONE = AdapterLayout.of({"up_proj": (3, 4)}, 2, "float32")
A, B = (spec.name for spec in ONE.tensors)
SOUND = ONE.serialise(bytes(ONE.body_bytes))


def changed(**changes: Any) -> dict[str, Any]:
    fields = fields_of(SOUND)
    for name, value in changes.items():
        fields[{"a": A, "b": B, "metadata": "__metadata__"}.get(name, name)] = value
    return fields


def entry(shape: list[Any], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


TWICE = file_of(
    f'{{"{A}":{json.dumps(entry([2, 4], 0, 32))},"{B}":{json.dumps(entry([3, 2], 32, 56))},'
    f'"{A}":{json.dumps(entry([2, 4], 0, 32))}}}',
    bytes(56),
)
BAD = {
    "empty": (b"", "only 0 bytes"),
    "no length": (b"abc", "only 3 bytes"),
    "huge header": (struct.pack("<Q", 1 << 40) + b"{}", "claims a header"),
    "cut header": (SOUND[:100], "cut off inside its header"),
    "cut body": (SOUND[:-1], "its recipe's have"),
    "longer body": (SOUND + b"\0", "its recipe's have"),
    "not JSON": (file_of("{no"), "malformed header"),
    "not an object": (file_of("[1]"), "no JSON object"),
    "not UTF-8": (struct.pack("<Q", 8) + b"\xff" * 8, "malformed header"),
    "deep": (file_of("[" * 100_000), "malformed header"),
    "key twice": (TWICE, "occurs twice"),
    "no tensor": (file_of({}), "one rank"),
    "metadata of numbers": (file_of(changed(metadata={"format": 1}), bytes(56)), "malformed metadata"),
    "other metadata": (file_of(changed(metadata={"format": "tf"}), bytes(56)), "not as safetensors writes it"),
    "base weights": (file_of(changed(**{"lm_head.weight": entry([1], 56, 60)}), bytes(60)), "no LoRA weight"),
    "path": (
        file_of(changed(**{"base_model.model.../x.lora_A.weight": entry([2, 4], 56, 88)}), bytes(88)),
        "no LoRA weight",
    ),
    "half precision": (file_of(changed(a=entry([2, 4], 0, 16, "F16")), bytes(40)), "of dtype 'F16'"),
    "mixed dtypes": (file_of(changed(a=entry([2, 8], 0, 32, "BF16")), bytes(56)), "one rank and one dtype"),
    "bytes as dtype": (
        file_of({A: entry([2, 4], 0, 8, "U8"), B: entry([3, 2], 8, 14, "U8")}, bytes(14)),
        "one rank and one dtype",
    ),
    "two ranks": (file_of(changed(a=entry([1, 8], 0, 32)), bytes(56)), "one rank"),
    "vector": (file_of(changed(a=entry([8], 0, 32)), bytes(56)), "no matrix"),
    "empty matrix": (file_of({A: entry([0, 4], 0, 0), B: entry([3, 0], 0, 0)}), "no matrix"),
    "negative": (file_of(changed(a=entry([-2, -4], 0, 32)), bytes(56)), "malformed entry"),
    "bool": (file_of(changed(a=entry([True, 8], 0, 32)), bytes(56)), "malformed entry"),
    "many dimensions": (file_of(changed(a=entry([2**40] * 1000, 0, 32)), bytes(56)), "malformed entry"),
    "extra field": (file_of(changed(a={**entry([2, 4], 0, 32), "x": 1}), bytes(56)), "malformed entry"),
    "shape does not fit": (file_of(changed(a=entry([2, 5], 0, 32)), bytes(56)), "does not fit"),
    "gap": (file_of(changed(b=entry([3, 2], 36, 60)), bytes(60)), "gap or an overlap"),
    "overlap": (file_of(changed(b=entry([3, 2], 28, 52)), bytes(52)), "gap or an overlap"),
    "no B": (file_of({A: entry([2, 4], 0, 32)}, bytes(32)), "only one of A and B"),
    "other order": (
        file_of({"__metadata__": {"format": "pt"}, B: entry([3, 2], 0, 24), A: entry([2, 4], 24, 56)}, bytes(56)),
        "not as safetensors writes it",
    ),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD.keys())
def test_malformed_adapters_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        read_layout(data)


def test_a_hostile_header_is_refused_quickly() -> None:
    names = ",".join(f'"t{number}":{{}}' for number in range(300_000))
    with pytest.raises(IntegrityError, match="malformed entry"):
        read_layout(file_of("{" + names + "}"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bodies_are_checked(dtype: Any) -> None:
    layout = AdapterLayout.of({"up_proj": (3, 4), "down_proj": (4, 3)}, 2, dtype)
    check_body(layout, body_of(layout))
    word = "<u4" if dtype == "float32" else "<u2"
    for pattern in (0x7F800000, 0xFF800000, 0x7FC00000):
        numbers = np.frombuffer(body_of(layout), dtype=word).copy()
        spec = layout.tensors[-1]
        numbers[spec.offset_elements] = pattern >> (0 if dtype == "float32" else 16)
        with pytest.raises(IntegrityError, match=spec.name):
            check_body(layout, numbers.tobytes())
    numbers = np.frombuffer(body_of(layout), dtype=word).copy()
    for spec in layout.tensors:
        if spec.which == "B":
            sign = 0x80000000 if dtype == "float32" else 0x8000
            numbers[spec.offset_elements : spec.offset_elements + spec.elements] = sign  # minus zero is zero
    with pytest.raises(IntegrityError, match="no effect"):
        check_body(layout, numbers.tobytes())
    with pytest.raises(ValueError, match="body of this layout"):
        check_body(layout, b"")
