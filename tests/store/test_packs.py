"""One suite for every kind of place that packs can lie in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import safetensors

from registry.digests import sha256_hex
from registry.errors import IntegrityError, StorageError, UsageError
from registry.records import AdapterLocation, Pack
from registry.store import PackStore

Make = Callable[..., list[tuple[str, bytes]]]


def path_of(url: str, pack: Pack) -> str:
    return f"{url}/{pack.digest[:2]}/{pack.digest}.safetensors"


def bytes_of(url: str, pack: Pack) -> bytes:
    with fsspec.open(path_of(url, pack), "rb") as file:
        content: bytes = file.read()
    return content


def overwrite(url: str, pack: Pack, content: bytes) -> None:
    with fsspec.open(path_of(url, pack), "wb") as file:
        file.write(content)


def flip(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def test_a_pack_is_a_safetensors_file_named_by_its_digest(
    store: PackStore, packs_url: str, make_adapters: Make, tmp_path: Path
) -> None:
    adapters = make_adapters(5)
    pack = store.write(adapters)
    content = bytes_of(packs_url, pack)
    assert (pack.digest, pack.size_bytes) == (sha256_hex(content), len(content))
    assert [place.adapter_digest for place in pack.adapters] == [digest for digest, _ in adapters]
    for place, (_, data) in zip(pack.adapters, adapters, strict=True):
        assert content[place.offset : place.offset + place.size_bytes] == data
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(content)
    with safetensors.safe_open(copy, framework="np") as file:
        assert {name: file.get_tensor(name).tobytes() for name in file.keys()} == dict(adapters)  # noqa: SIM118


def test_adapters_are_read_by_digest_and_from_a_new_process(
    store: PackStore, packs_url: str, make_adapters: Make
) -> None:
    adapters = make_adapters(3)
    pack = store.write(iter(adapters))
    for packs in (store, store, PackStore(packs_url)):
        assert [bytes(packs.read(place)) for place in pack.adapters] == [data for _, data in adapters]
        assert all(packs.read(place).readonly for place in pack.adapters)
        assert packs.inspect(pack.digest) == packs.verify(pack.digest) == pack
        assert packs.check(pack.digest).is_sound


def test_the_same_adapters_make_the_same_pack(store: PackStore, make_adapters: Make) -> None:
    adapters = make_adapters(3)
    first = store.write(adapters)
    assert store.write([*adapters, adapters[0]]) == first
    assert store.write(reversed(adapters)) != first
    assert len(list(store.list())) == 2


def test_packs_are_listed_with_size_and_time(store: PackStore, make_adapters: Make) -> None:
    assert list(store.list()) == []
    packs = sorted((store.write(make_adapters(2, seed=seed)) for seed in range(4)), key=lambda pack: pack.digest)
    stored = list(store.list())
    assert [(entry.digest, entry.size_bytes) for entry in stored] == [(pack.digest, pack.size_bytes) for pack in packs]
    assert all(entry.modified_at is not None and entry.modified_at > 1_600_000_000 for entry in stored)


def test_only_matching_bytes_are_written(store: PackStore, make_adapters: Make) -> None:
    (digest, _), (_, other) = make_adapters(2)
    with pytest.raises(IntegrityError, match=digest[:12]):
        store.write([(digest, other)])
    with pytest.raises(ValueError, match="at least one adapter"):
        store.write([])
    assert list(store.list()) == []


def test_combining_copies_adapters_in_order(store: PackStore, make_adapters: Make) -> None:
    first, second = (store.write(make_adapters(3, seed=seed)) for seed in (1, 2))
    places = [second.adapters[2], first.adapters[0], second.adapters[0], first.adapters[0]]
    combined = store.combine(places)
    assert [place.adapter_digest for place in combined.adapters] == [p.adapter_digest for p in places[:3]]
    assert [bytes(store.read(p)) for p in combined.adapters] == [bytes(store.read(p)) for p in places[:3]]
    assert store.verify(combined.digest) == combined
    assert store.verify(first.digest) == first


def test_deleted_packs_are_gone(store: PackStore, make_adapters: Make) -> None:
    pack = store.write(make_adapters(2))
    view = store.read(pack.adapters[0])
    before = bytes(view)
    assert store.exists(pack.digest)
    assert store.delete(pack.digest)
    assert not store.delete(pack.digest)
    assert not store.exists(pack.digest)
    assert view == before
    for look in (store.inspect, store.verify):
        with pytest.raises(IntegrityError, match=pack.digest[:12]) as caught:
            look(pack.digest)
        assert "pragreg build" in (caught.value.hint or "")
    with pytest.raises(IntegrityError, match="is not in"):
        store.read(pack.adapters[0])
    assert not store.check(pack.digest).is_sound


def test_a_flipped_bit_is_found_at_first_reading(packs_url: str, make_adapters: Make) -> None:
    writer = PackStore(packs_url)
    pack = writer.write(make_adapters(3))
    sound = bytes_of(packs_url, pack)
    place = pack.adapters[1]
    overwrite(packs_url, pack, flip(sound, place.offset + 500))
    store = PackStore(packs_url)
    with pytest.raises(IntegrityError, match=f"{place.adapter_digest[:12]} in the pack {pack.digest[:12]}"):
        store.read(place)
    assert bytes(store.read(pack.adapters[0])) == dict(make_adapters(3))[pack.adapters[0].adapter_digest]
    check = store.check(pack.digest)
    assert check.damaged == (place.adapter_digest,)
    assert "1 of 3 adapters" in (check.problem or "")
    with pytest.raises(IntegrityError, match=place.adapter_digest[:12]):
        store.verify(pack.digest)
    with pytest.raises(IntegrityError, match=place.adapter_digest[:12]):
        store.combine(pack.adapters)
    assert [entry.digest for entry in store.list()] == [pack.digest]

    store.delete(pack.digest)
    store.write(make_adapters(3))  # the same pack again: what was damaged is sound now
    assert sha256_hex(store.read(place)) == place.adapter_digest
    assert store.verify(pack.digest) == pack


def test_damage_after_the_first_reading_is_found_by_verify(
    store: PackStore, packs_url: str, make_adapters: Make
) -> None:
    pack = store.write(make_adapters(2))
    store.read(pack.adapters[0])
    overwrite(packs_url, pack, flip(bytes_of(packs_url, pack), pack.adapters[0].offset))
    assert store.check(pack.digest).damaged == (pack.adapters[0].adapter_digest,)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_a_cut_off_pack_is_found(store: PackStore, packs_url: str, make_adapters: Make, kept: int) -> None:
    pack = store.write(make_adapters(3))
    last = pack.adapters[-1]
    store.read(last)
    overwrite(packs_url, pack, bytes_of(packs_url, pack)[:kept])
    with pytest.raises(IntegrityError, match=f"{last.adapter_digest[:12]} in the pack {pack.digest[:12]} is cut off"):
        store.read(last)
    with pytest.raises(IntegrityError, match=pack.digest[:12]):
        store.verify(pack.digest)


def test_a_damaged_header_is_found(store: PackStore, packs_url: str, make_adapters: Make) -> None:
    pack = store.write(make_adapters(2))
    sound = bytes_of(packs_url, pack)
    overwrite(packs_url, pack, flip(sound, sound.index(b"pack-1")))
    assert "in its header" in (store.check(pack.digest).problem or "")
    overwrite(packs_url, pack, flip(sound, 20))
    assert not store.check(pack.digest).is_sound
    overwrite(packs_url, pack, b"\xff" * 64)
    with pytest.raises(IntegrityError, match="claims a header"):
        store.inspect(pack.digest)
    overwrite(packs_url, pack, sound.replace(b'"U8"', b'"F4"'))
    with pytest.raises(IntegrityError, match="of dtype"):
        store.inspect(pack.digest)


def test_a_location_outside_the_pack_is_refused(store: PackStore, make_adapters: Make) -> None:
    pack = store.write(make_adapters(2))
    place: AdapterLocation = pack.adapters[0]
    for offset in (place.offset + 1, pack.size_bytes, pack.size_bytes * 2):
        with pytest.raises(IntegrityError, match=place.adapter_digest[:12]):
            store.read(replace(place, offset=offset))


def test_unknown_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nonsense"):
        PackStore("nonsense://bucket/packs")
    (tmp_path / "file").write_text("in the way")
    store = PackStore(str(tmp_path / "file" / "packs"))
    with pytest.raises(StorageError, match="cannot be written"):
        store.write([(sha256_hex(b"x"), b"x")])


def test_file_urls_are_folders(tmp_path: Path, make_adapters: Make) -> None:
    pack = PackStore(f"file://{tmp_path}/packs").write(make_adapters(1))
    assert PackStore(str(tmp_path / "packs")).verify(pack.digest) == pack


def test_quarantine_takes_a_file_out_of_the_packs_and_overwrites_nothing(
    store: PackStore, packs_url: str, make_adapters: Make
) -> None:
    adapters = make_adapters(3)
    pack = store.write(adapters)
    assert store.path_of(pack.digest) == path_of(packs_url, pack)
    content = bytes_of(packs_url, pack)
    overwrite(packs_url, pack, flip(content, len(content) - 1))
    first = store.quarantine(pack.digest)
    assert first == f"{packs_url}/quarantine/{pack.digest}.safetensors"
    assert (list(store.list()), store.exists(pack.digest)) == ([], False)
    with pytest.raises(IntegrityError, match="is not in"):
        store.read(pack.adapters[0])
    assert store.write(adapters) == pack
    second = store.quarantine(pack.digest)
    assert second == f"{packs_url}/quarantine/{pack.digest}-2.safetensors"
    for path, expected in ((first, flip(content, len(content) - 1)), (second, content)):
        with fsspec.open(path, "rb") as file:
            assert file.read() == expected
    assert [(held.digest, held.size_bytes) for held in store.quarantined()] == [(pack.digest, pack.size_bytes)] * 2
    with pytest.raises(IntegrityError, match="is not in"):
        store.quarantine(pack.digest)


def test_an_empty_store_has_no_partial_and_no_quarantined_files(store: PackStore) -> None:
    assert (list(store.partials()), list(store.quarantined())) == ([], [])


def test_a_file_is_taken_in_over_a_damaged_one_and_is_gone_where_it_was(
    store: PackStore, packs_url: str, make_adapters: Make, tmp_path: Path
) -> None:
    pack = store.write(make_adapters(3))
    content = bytes_of(packs_url, pack)
    arrived = tmp_path / "arrived"
    arrived.write_bytes(content)
    overwrite(packs_url, pack, content[:-5])
    store.take(pack.digest, arrived)
    assert not arrived.exists()
    assert store.verify(pack.digest) == pack
    with pytest.raises(FileNotFoundError):
        store.take(pack.digest, arrived)
    assert store.verify(pack.digest) == pack
