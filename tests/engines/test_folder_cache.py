"""The cache of merged folders: its bounds, what it keeps, and who may share it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from registry.digests import sha256_hex
from registry.engines.folder_cache import FolderCache
from registry.errors import StorageError

HOLDER = """
import sys, time
from pathlib import Path
from registry.engines.folder_cache import FolderCache
cache = FolderCache(Path(sys.argv[1]), most_bytes=10_000, most_folders=100)
for digest in sys.argv[2:]:
    cache.take(digest, lambda folder: (folder / "adapter").write_bytes(bytes(1_000)))
print("taken", flush=True)
time.sleep(60)
"""
PASSER = HOLDER.replace("time.sleep(60)", "")
CROWD = """
import random, sys
from pathlib import Path
from registry.engines.folder_cache import FolderCache
from registry.digests import sha256_hex
from registry.errors import StorageError
draw = random.Random(int(sys.argv[2]))
refused = 0
for turn in range(8):
    # A process of its own each turn would take seconds: a new cache and the end of the old user do the same.
    cache = FolderCache(Path(sys.argv[1]), most_bytes=8_000, most_folders=100)
    for _ in range(12):
        digest = sha256_hex(bytes([draw.randrange(30)]))
        try:
            path = cache.take(digest, lambda folder: (folder / "adapter").write_text(digest * 10))
        except StorageError:
            refused += 1
            continue
        assert (path / "adapter").read_text() == digest * 10, path
    import os
    os.close(cache._user.descriptor)
print(refused)
"""


def name(number: int) -> str:
    return sha256_hex(str(number).encode())


def fill(folder: Path) -> None:
    (folder / "adapter").write_bytes(bytes(1_000))


def never(folder: Path) -> None:
    raise AssertionError("it is there already")


def passed(folder: Path, *numbers: int) -> None:
    """Have a process of its own take folders, and end."""
    subprocess.run([sys.executable, "-c", PASSER, folder, *map(name, numbers)], check=True, stdout=subprocess.PIPE)


def kept(folder: Path) -> set[str]:
    return {path.name for path in (folder / "kept").iterdir()}


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path, most_bytes=10_000, most_folders=10)
    path = cache.take(name(1), fill)
    assert [file.name for file in path.iterdir()] == ["adapter"]
    assert cache.take(name(1), never) == path
    assert FolderCache(tmp_path, most_bytes=10_000, most_folders=10).take(name(1), never) == path
    assert path.stat().st_mode & 0o055 == 0o055  # vLLM's workers may be another user's
    assert not list((tmp_path / "making").iterdir())


@pytest.mark.parametrize(("most_bytes", "most_folders"), [(3_500, 100), (100_000, 3)])
def test_the_least_recently_used_goes_first(tmp_path: Path, most_bytes: int, most_folders: int) -> None:
    passed(tmp_path, 1, 2, 3)
    for number in (1, 2, 3):
        os.utime(tmp_path / "kept" / name(number), (number, number))
    passed(tmp_path, 1)  # a use, by a process that is gone
    cache = FolderCache(tmp_path, most_bytes=most_bytes, most_folders=most_folders)
    cache.take(name(4), fill)
    assert kept(tmp_path) == {name(1), name(3), name(4)}


def test_what_a_living_process_was_given_stays(tmp_path: Path) -> None:
    passed(tmp_path, 1)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path, name(2), name(3)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "taken\n"
        for number in (1, 2, 3):
            os.utime(tmp_path / "kept" / name(number), (4 - number, 4 - number))  # 3 is the oldest
        cache = FolderCache(tmp_path, most_bytes=3_000, most_folders=100)
        cache.take(name(4), fill)
        assert kept(tmp_path) == {name(2), name(3), name(4)}
        with pytest.raises(StorageError, match="no room for a merged adapter of 1,000 bytes") as caught:
            cache.take(name(5), fill)
        assert "PRAGREG_VLLM_CACHE_BYTES" in (caught.value.hint or "")
        assert kept(tmp_path) == {name(2), name(3), name(4)}
        assert not list((tmp_path / "making").iterdir())
        assert cache.take(name(3), never).is_dir()  # what is there is still given
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    cache.take(name(5), fill)
    assert kept(tmp_path) == {name(3), name(4), name(5)}  # 3 was taken here too
    assert len(list((tmp_path / "users").iterdir())) == 1  # what the dead left is gone


def test_a_folder_larger_than_the_cache_is_refused(tmp_path: Path) -> None:
    passed(tmp_path, 1)
    cache = FolderCache(tmp_path, most_bytes=999, most_folders=100)
    with pytest.raises(StorageError, match="no room"):
        cache.take(name(2), fill)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path, most_bytes=10_000, most_folders=10)

    def fails(folder: Path) -> None:
        fill(folder)
        raise KeyError("interrupted")

    with pytest.raises(KeyError):
        cache.take(name(1), fails)
    assert not kept(tmp_path)
    assert not list((tmp_path / "making").iterdir())
    assert cache.take(name(1), fill).is_dir()


def test_what_a_killed_process_was_writing_is_swept(tmp_path: Path) -> None:
    code = HOLDER.replace("lambda folder: ", "lambda folder: print('writing', flush=True) or time.sleep(60) or ")
    writer = subprocess.Popen([sys.executable, "-c", code, tmp_path, name(1)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline().startswith("writing")
    cache = FolderCache(tmp_path, most_bytes=10_000, most_folders=10)
    cache.take(name(2), fill)
    assert len(list((tmp_path / "making").iterdir())) == 1  # it lives, and may yet finish
    writer.kill()
    writer.wait()
    writer.stdout.close()
    cache.take(name(3), fill)
    assert not list((tmp_path / "making").iterdir())
    assert kept(tmp_path) == {name(2), name(3)}


def test_a_full_disk_is_an_error_of_ours(
    tmp_path: Path, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    cache = FolderCache(tmp_path, most_bytes=10_000, most_folders=10)
    with largest_file(500), pytest.raises(StorageError, match="cannot be used"):
        cache.take(name(1), fill)
    assert cache.take(name(1), fill).is_dir()


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be used"):
        FolderCache(tmp_path / "file" / "cache", most_bytes=1, most_folders=1)


@pytest.mark.parametrize("digest", ["", "..", "../../x", "a" * 63, "A" * 64, "a" * 64 + "\n", "a" * 64 + "/.."])
def test_only_digests_name_folders(tmp_path: Path, digest: str) -> None:
    cache = FolderCache(tmp_path / "cache", most_bytes=10_000, most_folders=10)
    with pytest.raises(ValueError, match="no digest"):
        cache.take(digest, fill)


def test_threads_that_want_the_same_get_the_same(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path, most_bytes=1_000_000, most_folders=100)
    together = threading.Barrier(8, timeout=20)
    draw = random.Random(0)
    wanted = [name(draw.randrange(4)) for _ in range(8)]

    def take(digest: str) -> Path:
        together.wait()
        return cache.take(digest, lambda folder: (time.sleep(0.01), fill(folder))[0])

    with ThreadPoolExecutor(8) as threads:
        paths = list(threads.map(take, wanted))
    assert [path.name for path in paths] == wanted
    assert kept(tmp_path) == set(wanted)
    assert not list((tmp_path / "making").iterdir())


def test_processes_keep_the_bounds_and_find_whole_folders(tmp_path: Path) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-c", CROWD, tmp_path, str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    while any(process.poll() is None for process in running):
        sizes = [file.stat().st_size for file in tmp_path.glob("kept/*/adapter") if file.exists()]
        assert sum(sizes) <= 8_000
        time.sleep(0.02)
    ended = [process.communicate() for process in running]
    assert [error for _, error in ended] == ["", "", ""]
    assert 0 < len(kept(tmp_path)) <= 8_000 // 640
