"""The mirror keeps shards by digest, and never what is not what it should be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from registry.errors import HubError, IntegrityError, StorageError
from registry.hub.manifest.mirror import Fetch, Mirror
from registry.hub.manifest.shards import write_shard
from registry.published import ShardEntry
from tests.hub.manifests import members

ROWS = members(40)
DATA, ENTRY = write_shard(ROWS)
OTHER_DATA, OTHER = write_shard(ROWS[:10])


def sends(data: bytes, calls: list[ShardEntry] | None = None) -> Fetch:
    def fetch(entry: ShardEntry, path: Path) -> None:
        assert not path.exists()
        path.write_bytes(data)
        if calls is not None:
            calls.append(entry)

    return fetch


def cut(entry: ShardEntry, path: Path) -> None:
    path.write_bytes(DATA[:100])
    raise HubError("the connection was cut")


def test_a_shard_is_fetched_once(tmp_path: Path) -> None:
    mirror, calls = Mirror(tmp_path / "mirror"), list[ShardEntry]()
    assert mirror.shard(ENTRY, 0, 0, sends(DATA, calls)) == ROWS
    assert Mirror(tmp_path / "mirror").shard(ENTRY, 0, 0, cut) == ROWS
    assert not mirror.bring(ENTRY, cut)
    assert calls == [ENTRY]


def test_what_was_written_here_is_not_fetched(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path)
    mirror.keep(ENTRY, DATA)
    assert mirror.shard(ENTRY, 0, 0, cut) == ROWS
    with pytest.raises(IntegrityError, match="another digest"):
        mirror.keep(OTHER, DATA)


def test_other_bytes_are_refused_and_not_kept(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path)
    with pytest.raises(IntegrityError, match="arrived with bytes of another digest"):
        mirror.shard(ENTRY, 0, 0, sends(DATA[:-1] + b"X"))
    assert list(tmp_path.iterdir()) == []
    assert mirror.shard(ENTRY, 0, 0, sends(DATA)) == ROWS


def test_a_malformed_shard_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="of another shard"):
        Mirror(tmp_path).shard(ENTRY, 1, 1, sends(DATA))
    assert list(tmp_path.iterdir()) == []


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="was cut"):
        Mirror(tmp_path).bring(ENTRY, cut)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_fetched_again(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path)
    mirror.keep(ENTRY, DATA)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(DATA[:-1] + b"X")
    assert mirror.bring(ENTRY, sends(DATA))
    assert kept.read_bytes() == DATA


def test_only_shards_that_are_named_stay(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "mirror")
    assert mirror.prune([ENTRY]) == 0
    mirror.keep(ENTRY, DATA)
    mirror.keep(OTHER, OTHER_DATA)
    assert mirror.prune([ENTRY, None]) == 1
    assert mirror.shard(ENTRY, 0, 0, cut) == ROWS
    with pytest.raises(HubError):
        mirror.bring(OTHER, cut)


def test_threads_may_fetch_the_same_shard(tmp_path: Path) -> None:
    together = Barrier(4)

    def fetch(entry: ShardEntry, path: Path) -> None:
        together.wait(timeout=10)
        path.write_bytes(DATA)

    mirror = Mirror(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: mirror.bring(ENTRY, fetch), range(4)))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [DATA]


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "mirror").write_text("a file")
    with pytest.raises(StorageError, match="cannot be written"):
        Mirror(tmp_path / "mirror").keep(ENTRY, DATA)
