"""Kinds of hostile repositories: adapters and packs that are whole and rightly named, and do what they must not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from registry.store.layout import AdapterLayout, read_layout
from tests.hub.hostile import Forgery, header_of, kind, pack_of, rebody, reheader, with_header

NAME = "base_model.model.model.layers.0.mlp.up_proj"


def _set(which: str, value: float) -> Any:
    def change(vector: Any, layout: AdapterLayout) -> None:
        spec = next(spec for spec in layout.tensors if spec.which == which)
        vector[spec.offset_elements] = value

    return rebody(change)


def _without_effect(vector: Any, layout: AdapterLayout) -> None:
    for spec in layout.tensors:
        if spec.which == "B":
            vector[spec.offset_elements : spec.offset_elements + spec.elements] = 0


def _as(rank: int, dtype: str) -> Any:
    def change(data: bytes) -> bytes:
        layout = AdapterLayout.of(read_layout(data).shapes, rank, dtype)  # type: ignore[arg-type]
        return layout.serialise(np.ones(layout.body_bytes // 4, dtype="<f4").data)

    return change


@kind("'base_model.model.model.layers.0.mlp.down_proj.lora_A.weight' holds a number that is not finite", update=True)
def not_a_number(forgery: Forgery) -> None:
    forgery.change_adapter(_set("A", float("nan")))
    forgery.seal()


@kind("'base_model.model.model.layers.0.mlp.down_proj.lora_B.weight' holds a number that is not finite")
def infinity(forgery: Forgery) -> None:
    forgery.change_adapter(_set("B", float("-inf")))
    forgery.seal()


@kind("the adapter has no effect: every B is zero")
def adapter_without_effect(forgery: Forgery) -> None:
    forgery.change_adapter(rebody(_without_effect))
    forgery.seal()


@kind("its recipe makes")
def adapter_of_another_rank(forgery: Forgery) -> None:
    forgery.change_adapter(_as(2, "float32"))
    forgery.seal()


@kind("its recipe makes")
def adapter_of_another_dtype(forgery: Forgery) -> None:
    forgery.change_adapter(_as(1, "bfloat16"))
    forgery.seal()


@kind("its recipe makes")
def adapter_of_other_shapes(forgery: Forgery) -> None:
    def change(data: bytes) -> bytes:
        layout = AdapterLayout.of({"model.layers.0.mlp.up_proj": (4096, 4096)}, 1, "float32")
        return layout.serialise(np.ones(layout.elements, dtype="<f4").data)

    forgery.change_adapter(change)
    forgery.seal()


@kind("its modules or shapes are not those of its recipe on the base model")
def adapter_of_other_modules_and_the_same_size(forgery: Forgery) -> None:
    forgery.change_adapter(reheader(lambda text: text.replace("layers.2.", "layers.9.")))
    forgery.seal()


@kind("holds 'base_model.model.lm_head.weight', which is no LoRA weight", update=True)
def key_that_overwrites_the_head(forgery: Forgery) -> None:
    forgery.change_adapter(
        reheader(lambda text: text.replace(f"{NAME}.lora_B.weight", "base_model.model.lm_head.weight"))
    )
    forgery.seal()


@kind("up.base_layer.weight', which is no LoRA weight")
def key_that_overwrites_a_base_layer(forgery: Forgery) -> None:
    forgery.change_adapter(reheader(lambda text: text.replace("mlp.up_proj.lora_B", "mlp.up.base_layer", 1)))
    forgery.seal()


@kind("which is no LoRA weight")
def key_that_is_a_path(forgery: Forgery) -> None:
    forgery.change_adapter(reheader(lambda text: text.replace(NAME, "../../../../etc/passwd", 1)))
    forgery.seal()


@kind("occurs twice")
def duplicate_key_in_an_adapter(forgery: Forgery) -> None:
    forgery.change_adapter(reheader(lambda text: text.replace(f"{NAME}.lora_B", f"{NAME}.lora_A", 1)))
    forgery.seal()


@kind("of dtype 'F64'")
def double_precision(forgery: Forgery) -> None:
    forgery.change_adapter(reheader(lambda text: text.replace("F32", "F64", 1)))
    forgery.seal()


@kind("a gap or an overlap before the tensor")
def overlapping_tensors(forgery: Forgery) -> None:
    def change(text: str) -> str:
        entries = json.loads(text)
        a, b = (f"{NAME}.lora_{which}.weight" for which in "AB")
        size = entries[a]["data_offsets"][1] - entries[a]["data_offsets"][0]
        begin = entries[b]["data_offsets"][0] - 4
        assert size <= entries[b]["data_offsets"][1] - begin
        entries[b] |= {"data_offsets": [begin, entries[b]["data_offsets"][1] - 4]}
        return json.dumps(entries, separators=(",", ":"))

    forgery.change_adapter(reheader(change))
    forgery.seal()


@kind("is not as safetensors writes it: other order, spacing or metadata")
def metadata_in_an_adapter(forgery: Forgery) -> None:
    forgery.change_adapter(reheader(lambda text: text.replace('"pt"', '"tf"', 1)))
    forgery.seal()


@kind("its recipe makes")
def five_megabytes_of_metadata_in_an_adapter(forgery: Forgery) -> None:
    def change(data: bytes) -> bytes:
        text, body = header_of(data)
        return with_header(text.replace('"pt"', '"' + "y" * 5_000_000 + '"', 1), body)

    forgery.change_adapter(change)
    forgery.seal()


@kind("the adapter claims a header of")
def adapter_that_claims_a_vast_header(forgery: Forgery) -> None:
    forgery.change_adapter(lambda data: (2**60).to_bytes(8, "little") + data[8:])
    forgery.seal()


@kind("arrived with bytes of another digest", update=True)
def adapter_of_another_digest_than_the_manifest_says(forgery: Forgery) -> None:
    forgery.change_adapter(rebody(lambda vector, _: vector.__imul__(2)), keep_digest=True)
    forgery.seal()


def _repacked(forgery: Forgery, change: Any) -> None:
    """Put another header before the newest pack's adapters; sizes are told rightly, digests too."""
    digest = forgery.newest()["pack"].hex()
    text, body = header_of(pack_of(forgery.packs[digest]))
    forgery.write_pack(digest, with_header(change(text), body))


@kind("bytes; its adapters make", update=True)
def five_megabytes_of_metadata_in_a_pack(forgery: Forgery) -> None:
    _repacked(forgery, lambda text: text.replace('"pack-1"', '"pack-1","x":"' + "y" * 5_000_000 + '"'))


@kind("bytes; its adapters make")
def header_bomb_of_empty_tensors(forgery: Forgery) -> None:
    empty = ",".join(f'"{number:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for number in range(100_000))
    _repacked(forgery, lambda text: text.replace("{", "{" + empty + ",", 1))


@kind("claims a header of 58000000 bytes; at most")
def pack_that_claims_a_header_of_58_megabytes(forgery: Forgery) -> None:
    _rewritten(forgery, lambda data: (58_000_000).to_bytes(8, "little") + data[8:])


@kind(f"claims a header of {2**60} bytes; at most")
def pack_that_claims_a_vast_header(forgery: Forgery) -> None:
    _rewritten(forgery, lambda data: (2**60).to_bytes(8, "little") + data[8:])


@kind("it has other metadata")
def other_metadata_in_a_pack(forgery: Forgery) -> None:
    _rewritten(forgery, lambda data: data.replace(b'"pack-1"', b'"pack-2"', 1))


@kind("it is written in another way")
def spaces_in_the_header_of_a_pack(forgery: Forgery) -> None:
    _rewritten(forgery, _respaced)


@kind("occurs twice")
def duplicate_key_in_a_pack(forgery: Forgery) -> None:
    def change(data: bytes) -> bytes:
        first, second = list(json.loads(header_of(data)[0]))[1:3]
        return data.replace(second.encode(), first.encode(), 1)

    _rewritten(forgery, change)


@kind("only one of the two has '../../")
def path_in_place_of_a_digest_in_a_pack(forgery: Forgery) -> None:
    def change(data: bytes) -> bytes:
        name = list(json.loads(header_of(data)[0]))[1]
        return data.replace(name.encode(), b"../../" + name[6:].encode(), 1)

    _rewritten(forgery, change)


def _respaced(data: bytes) -> bytes:
    """Shorten the metadata's... nothing: move the padding to the front of the object."""
    text, body = header_of(data)
    length = len(data) - len(body) - 8
    spaces = length - len(text.encode())
    return with_header("{" + " " * spaces + text[1:], body, length=length) if spaces else data[:8] + data[8:]


def _rewritten(forgery: Forgery, change: Any) -> None:
    """Change the newest pack's bytes and keep their number; its digest is told rightly."""
    digest = forgery.newest()["pack"].hex()
    data = pack_of(forgery.packs[digest])
    other = change(data)
    assert len(other) == len(data)
    assert other != data
    forgery.write_pack(digest, other)
