from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.digests import sha256_hex
from registry.errors import IntegrityError, StorageError
from registry.hub.arrivals import PackArrival, check_adapter, check_pack, places_in
from registry.published import FileRef, Member
from registry.records import AdapterLocation, Pack
from registry.store.headers import build_header
from registry.store.layout import AdapterLayout

LAYOUT = AdapterLayout.of(
    {"model.layers.1.mlp.up_proj": (48, 24), "model.layers.1.mlp.down_proj": (24, 48)}, 2, "float32"
)
HALF = AdapterLayout.of(LAYOUT.shapes, 2, "bfloat16")
METADATA = {"pragreg": "pack-1"}


def adapter(seed: int, layout: AdapterLayout = LAYOUT, **changed: float) -> bytes:
    """An adapter of random numbers; ``first`` and ``last`` put a number in its first and last place."""
    numbers = np.random.default_rng(seed).standard_normal(layout.elements, dtype=np.float32)
    if layout.dtype == "bfloat16":
        return layout.serialise((numbers.view("<u4") >> 16).astype("<u2").data)
    for where, value in changed.items():
        numbers[0 if where == "first" else -1] = value
    return layout.serialise(numbers.data)


def pack_of(adapters: Sequence[bytes], *, metadata: Mapping[str, str] = METADATA) -> tuple[bytes, Pack]:
    named = [(sha256_hex(data), data) for data in adapters]
    header = build_header(metadata, ((digest, "U8", (len(data),)) for digest, data in named))
    data = header + b"".join(adapters)
    places, offset = [], len(header)
    for digest, one in named:
        places.append(AdapterLocation(digest, sha256_hex(data), offset, len(one)))
        offset += len(one)
    return data, Pack(sha256_hex(data), len(data), tuple(places))


def check(data: bytes, pack: Pack, *, layout: AdapterLayout = LAYOUT, chunk: int = 4096) -> Pack:
    chunks = (memoryview(data)[start : start + chunk] for start in range(0, len(data), chunk))
    return check_pack(chunks, FileRef(pack.digest, pack.size_bytes), pack.adapters, lambda _: layout)


def renamed(data: bytes, pack: Pack) -> Pack:
    """The same places in a file of other bytes, as a sender would say who changed the bytes."""
    return Pack(sha256_hex(data), len(data), pack.adapters)


def with_header(header: bytes, body: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + body


@pytest.mark.parametrize("layout", [LAYOUT, HALF])
@pytest.mark.parametrize("chunk", [1, 7, 8, 997, 4096, 10**9])
def test_a_sound_pack_is_accepted_in_chunks_of_any_size(chunk: int, layout: AdapterLayout, tmp_path: Path) -> None:
    data, pack = pack_of([adapter(seed, layout) for seed in range(5)])
    assert check(data, pack, layout=layout, chunk=chunk) == pack
    file = tmp_path / "pack"
    file.write_bytes(data)
    assert check_pack(file, FileRef(pack.digest, pack.size_bytes), pack.adapters, lambda _: layout) == pack


def test_adapters_of_several_recipes_may_lie_in_one_pack() -> None:
    adapters = [adapter(1), adapter(2, HALF), adapter(3)]
    data, pack = pack_of(adapters)
    layouts = dict(zip(map(sha256_hex, adapters), [LAYOUT, HALF, LAYOUT], strict=True))
    assert check_pack([memoryview(data)], FileRef(pack.digest, len(data)), pack.adapters, layouts.__getitem__) == pack
    with pytest.raises(IntegrityError, match="those of its recipe have"):
        check(data, pack)


def test_places_are_what_members_say_each_once() -> None:
    data, pack = pack_of([adapter(1), adapter(2)])
    ref, records = FileRef(pack.digest, pack.size_bytes), FileRef("c" * 64, 1)
    second, first = reversed(pack.adapters)

    def member(place: AdapterLocation | None, document: str, where: FileRef | None = ref, start: int = 1) -> Member:
        if place is None:
            return Member(document, "d" * 64, start, None, document, False, (), 5, None, None, records)
        size, offset = place.size_bytes, place.offset
        return Member(document, place.adapter_digest, start, None, document, False, (), size, where, offset, records)

    members = [
        member(second, "1" * 64),
        member(first, "2" * 64),
        member(first, "2" * 64, start=3),
        member(None, "3" * 64),
        member(first, "4" * 64, FileRef("e" * 64, 9)),
    ]
    assert places_in(ref, members) == list(pack.adapters)
    assert check(data, Pack(pack.digest, pack.size_bytes, tuple(places_in(ref, members)))) == pack


def test_bytes_that_changed_are_refused_wherever_they_are() -> None:
    data, pack = pack_of([adapter(1), adapter(2)])
    for at in range(0, len(data), 211):
        changed = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
        with pytest.raises(IntegrityError):
            check(changed, pack)
    at = pack.adapters[1].offset + 1000
    changed = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
    with pytest.raises(
        IntegrityError, match=f"the adapter {pack.adapters[1].adapter_digest[:12]} arrived with bytes of"
    ):
        check(changed, renamed(changed, pack))


def test_every_beginning_of_a_pack_and_more_than_a_pack_are_refused() -> None:
    data, pack = pack_of([adapter(1), adapter(2)])
    for size in range(0, len(data), 97):
        with pytest.raises(IntegrityError, match="is cut off"):
            check(data[:size], pack)
    with pytest.raises(IntegrityError, match=f"goes on behind its {len(data)} bytes"):
        check(data + b"\0", pack)
    with pytest.raises(IntegrityError, match=f"gives the pack .* {len(data) + 1} bytes; its adapters make {len(data)}"):
        check(data + b"\0", renamed(data + b"\0", pack))


def test_an_endless_pack_is_not_waited_for() -> None:
    data, pack = pack_of([adapter(1)])
    asked = 0

    def endless() -> Any:
        nonlocal asked
        yield memoryview(data)
        while True:
            asked += 1
            yield memoryview(bytes(1000))

    with pytest.raises(IntegrityError, match="goes on behind"):
        check_pack(endless(), FileRef(pack.digest, pack.size_bytes), pack.adapters, lambda _: LAYOUT)
    assert asked == 1


def test_the_name_of_the_file_is_checked_too() -> None:
    data, pack = pack_of([adapter(1)])
    with pytest.raises(IntegrityError, match="the pack aaaaaaaaaaaa arrived with bytes of another digest"):
        check(data, Pack("a" * 64, len(data), pack.adapters))


def test_a_swapped_pack_is_refused() -> None:
    _, pack = pack_of([adapter(1), adapter(2)])
    other, _ = pack_of([adapter(3), adapter(4)])
    with pytest.raises(IntegrityError, match="has not the header of the adapters that the manifest names: only one"):
        check(other, pack)


def header_json(data: bytes) -> str:
    return data[8 : 8 + int.from_bytes(data[:8], "little")].decode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text, name: text.replace("{", '{"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},', 1), "only one"),
        (lambda text, name: text.replace(f'"{name}"', f'"../../{name[:58]}"'), r"only one of the two has '\.\./\.\./"),
        (lambda text, name: text.replace("pack-1", "pack-2"), "it has other metadata"),
        (lambda text, name: text.replace('"pack-1"', '"pack-1","x":"y"'), "it has other metadata"),
        (
            lambda text, name: text.replace('"pragreg"', '"pragreg":"pack-0","pragreg"'),
            "the key 'pragreg' occurs twice",
        ),
        (lambda text, name: text + " " * 8, "it is written in another way"),
        (lambda text, name: text.replace(",", ", "), "it is written in another way"),
        (lambda text, name: text.rstrip()[:-1] + "," + text.lstrip("{"), "occurs twice"),
        (lambda text, name: "[" * 5000, "malformed header"),
        (lambda text, name: text.replace('"U8"', '"F64"', 1), "of dtype 'F64'"),
        (lambda text, name: "", "malformed header"),
    ],
)
def test_other_headers_are_refused(change: Callable[[str, str], str], message: str) -> None:
    data, pack = pack_of([adapter(1), adapter(2)])
    text = header_json(data)
    changed = change(text, pack.adapters[0].adapter_digest)
    with pytest.raises(IntegrityError, match=message):
        check(with_header(changed.encode(), data[8 + len(text) :]), pack)


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (2**60, f"claims a header of {2**60} bytes; at most"),
        (58_000_000, "claims a header of 58000000 bytes; at most"),
        (20_000_000, r"it has 20000008 bytes, and theirs \d+"),
    ],
)
def test_large_headers_are_refused_before_they_are_read(length: int, message: str) -> None:
    _, pack = pack_of([adapter(1)])
    start = length.to_bytes(8, "little") + b'{"'
    tracemalloc.start()
    with pytest.raises(IntegrityError, match=message):
        check(start, pack)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1_000_000


def test_places_that_no_pack_can_have_are_refused_before_any_byte() -> None:
    _, pack = pack_of([adapter(1), adapter(2)])
    one, two = pack.adapters

    def refused(*places: AdapterLocation, size_bytes: int = pack.size_bytes) -> str:
        with pytest.raises(IntegrityError) as caught:
            PackArrival(FileRef(pack.digest, size_bytes), places, lambda _: LAYOUT)
        return caught.value.message

    def at(place: AdapterLocation, offset: int, size_bytes: int = one.size_bytes) -> AdapterLocation:
        return AdapterLocation(place.adapter_digest, place.pack_digest, offset, size_bytes)

    assert "would overlap another" in refused(one, at(two, two.offset - 8))
    assert "would overlap another" in refused(one, at(two, one.offset))
    assert "would leave a gap" in refused(one, at(two, two.offset + 8))
    assert "would overlap another" in refused(at(one, 0), two)
    assert "lies in it twice" in refused(one, at(one, two.offset))
    assert "holds no adapter that the manifest names" in refused()
    assert f"{one.size_bytes - 1} bytes; those of its recipe have" in refused(at(one, one.offset, one.size_bytes - 1))
    assert f"bytes; its adapters make {pack.size_bytes}" in refused(one, two, size_bytes=10**15)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            adapter(1, first=float("nan")),
            r"'base_model.model.model.layers.1.mlp.down_proj.lora_A.weight' holds a number",
        ),
        (adapter(1, last=float("inf")), r"'base_model.model.model.layers.1.mlp.up_proj.lora_B.weight' holds a number"),
        (adapter(1, last=float("-inf")), "not finite"),
        (adapter(1, AdapterLayout.of(LAYOUT.shapes, 3, "float32")), "it has rank 3 in float32, its recipe says 2"),
        (adapter(1, HALF), "it has rank 2 in bfloat16, its recipe says 2 in float32"),
        (
            adapter(1, AdapterLayout.of({"model.layers.1.mlp.up_proj": (48, 24)}, 2, "float32")),
            "modules or shapes are not those of its recipe",
        ),
        (b"", "no safetensors file"),
    ],
)
def test_adapters_that_are_not_as_their_recipe_says(data: bytes, message: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        check_adapter(data, sha256_hex(data), LAYOUT)


def test_an_adapter_without_effect_is_refused() -> None:
    numbers = np.ones(LAYOUT.elements, dtype=np.float32)
    for spec in LAYOUT.tensors:
        if spec.which == "B":
            numbers[spec.offset_elements : spec.offset_elements + spec.elements] = -0.0
    data = LAYOUT.serialise(numbers.data)
    with pytest.raises(IntegrityError, match="has no effect: every B is zero"):
        check_adapter(data, sha256_hex(data), LAYOUT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace("base_model.model.model.layers.1.mlp.up_proj.lora_A", "base_model.model.lm_head"),
            "no LoRA",
        ),
        (lambda text: text.replace("lora_A.weight", "base_layer.weight", 1), "which is no LoRA weight"),
        (
            lambda text: text.replace('"format":"pt"', '"format":"pt","x":"' + "y" * 500 + '"'),
            "other order, spacing or",
        ),
        (lambda text: text.replace("F32", "F64", 1), "of dtype 'F64'"),
        (lambda text: text.replace("{", '{"a":1,"a":1,', 1), "the key 'a' occurs twice"),
        (lambda text: text.replace("layers.1.mlp.up_proj", "layers.1/../../up_proj", 1), "which is no LoRA weight"),
    ],
)
def test_headers_of_adapters_that_would_do_something_else(change: Callable[[str], str], message: str) -> None:
    data = adapter(1)
    text = header_json(data)
    changed = change(text).encode()
    assert changed != text.encode()
    data = len(changed).to_bytes(8, "little") + changed + data[8 + len(text) :]
    with pytest.raises(IntegrityError, match=message):
        check_adapter(data, sha256_hex(data), LAYOUT)


def test_a_pack_is_refused_for_one_of_its_adapters_that_has_its_digest() -> None:
    data, pack = pack_of([adapter(1), adapter(2, first=float("nan")), adapter(3)])
    with pytest.raises(
        IntegrityError, match=f"the adapter {pack.adapters[1].adapter_digest[:12]} is refused: .* finite"
    ):
        check(data, pack)


def test_only_one_adapter_is_held_in_memory() -> None:
    layout = AdapterLayout.of({"up_proj": (50_000, 10)}, 2, "float32")
    data, pack = pack_of([adapter(seed, layout) for seed in range(20)])
    tracemalloc.start()
    check(data, pack, layout=layout, chunk=65536)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert layout.size_bytes < most < 3 * layout.size_bytes < len(data) / 6


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    _, pack = pack_of([adapter(1)])
    with pytest.raises(StorageError, match="cannot be read"):
        check_pack(tmp_path, FileRef(pack.digest, pack.size_bytes), pack.adapters, lambda _: LAYOUT)
