"""The cache of adapters: bounded, checked, shared, and never more than a convenience."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from registry.digests import sha256_hex
from registry.hub.cache import PARTIAL, AdapterCache

SIZE_BYTES = 1_000


def adapters(count: int, seed: int = 0) -> list[tuple[str, bytes]]:
    draw = random.Random(seed)
    made = [draw.randbytes(SIZE_BYTES) for _ in range(count)]
    return [(sha256_hex(data), data) for data in made]


def held(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_what_is_put_is_there_for_others_too(tmp_path: Path) -> None:
    ((digest, data),) = adapters(1)
    cache = AdapterCache(tmp_path / "cache", 10 * SIZE_BYTES)
    assert cache.get(digest) is None
    cache.put(digest, data)
    found = AdapterCache(tmp_path / "cache", 10 * SIZE_BYTES).get(digest)
    assert found is not None
    assert bytes(found) == data


def test_what_was_used_least_recently_goes(tmp_path: Path) -> None:
    made = adapters(5)
    cache = AdapterCache(tmp_path, 4 * SIZE_BYTES)
    for age, (digest, data) in enumerate(made[:4]):
        cache.put(digest, data)
        os.utime(tmp_path / digest[:2] / digest, (1_000 + age, 1_000 + age))
    assert cache.get(made[0][0]) is not None  # used just now
    cache.put(*made[4])
    kept = held(tmp_path)
    assert {made[0][0], made[4][0]} <= kept
    assert made[1][0] not in kept
    assert len(kept) * SIZE_BYTES <= 4 * SIZE_BYTES


def test_it_stays_within_its_limit_beside_another_process(tmp_path: Path) -> None:
    one, other = AdapterCache(tmp_path, 10 * SIZE_BYTES), AdapterCache(tmp_path, 10 * SIZE_BYTES)
    for number, (digest, data) in enumerate(adapters(60)):
        (one if number % 2 else other).put(digest, data)
    # Each sees what the other added when it is full itself: the bound holds for each, and so twice in all.
    assert len(held(tmp_path)) <= 20
    one.put(*adapters(1, seed=1)[0])
    for digest, data in adapters(10, seed=2):
        one.put(digest, data)
    assert len(held(tmp_path)) <= 10


def test_a_damaged_file_is_removed_and_what_is_too_large_is_not_kept(tmp_path: Path) -> None:
    ((digest, data),) = adapters(1)
    AdapterCache(tmp_path, 10 * SIZE_BYTES).put(digest, data)
    path = tmp_path / digest[:2] / digest
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert AdapterCache(tmp_path, 10 * SIZE_BYTES).get(digest) is None
    assert not path.exists()
    AdapterCache(tmp_path, SIZE_BYTES - 1).put(digest, data)
    assert not path.exists()


def test_a_folder_that_cannot_be_written_only_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in its place")
    ((digest, data),) = adapters(1)
    cache = AdapterCache(tmp_path / "cache", 10 * SIZE_BYTES)
    cache.put(digest, data)
    assert cache.get(digest) is None


def test_what_killed_processes_left_is_swept(tmp_path: Path) -> None:
    (first, data), (second, more) = adapters(2)
    left = tmp_path / first[:2] / f"{first}.1-1{PARTIAL}"
    left.parent.mkdir()
    left.write_bytes(data)
    os.utime(left, (1, 1))
    AdapterCache(tmp_path, 10 * SIZE_BYTES).put(second, more)
    assert held(tmp_path) == {second}


def test_many_threads_may_use_it(tmp_path: Path) -> None:
    made = adapters(50)
    cache = AdapterCache(tmp_path, 20 * SIZE_BYTES)

    def use(number: int) -> bool:
        digest, data = made[number % 50]
        cache.put(digest, data)
        found = cache.get(digest)
        return found is None or bytes(found) == data

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(400)))
    assert len(held(tmp_path)) <= 20
