"""What only a folder can show: crashes, full disks, memory maps."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from registry.digests import sha256_hex
from registry.errors import StorageError
from registry.records import AdapterLocation
from registry.store import PackStore

Make = Callable[..., list[tuple[str, bytes]]]

WRITE_FOR_EVER = """
import sys
from registry.digests import sha256_hex
from registry.store import PackStore
store = PackStore(sys.argv[1])
for number in range(1_000_000):
    contents = [bytes([copy]) + number.to_bytes(4, "big") + bytes(16_000_000) for copy in range(4)]
    pack = store.write((sha256_hex(content), content) for content in contents)
    print(pack.digest, flush=True)
"""


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_killed_writer_leaves_no_visible_pack(tmp_path: Path) -> None:
    root = tmp_path / "packs"
    store = PackStore(str(root))
    for _ in range(10):
        writer = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(root)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        announced = writer.stdout.readline().split()
        while not list(root.glob("*.partial")):
            time.sleep(0.001)
        writer.send_signal(signal.SIGKILL)
        announced += writer.stdout.read().split()
        writer.stdout.close()
        assert writer.wait() == -signal.SIGKILL
        visible = {entry.digest for entry in store.list()}
        assert set(announced) <= visible
        assert all(store.check(digest).is_sound for digest in visible)
        partials = list(root.glob("*.partial"))
        assert [name for name, _, _ in store.partials()] == [path.name for path in partials]
        assert store.clean_partials(older_than_seconds=60) == 0
        assert store.clean_partials(older_than_seconds=0) == len(partials)
        assert list(root.glob("*.partial")) == []
        for digest in visible:
            store.delete(digest)
        if partials:
            return
    pytest.fail("no kill ever hit a writer while it wrote")


def test_a_living_writer_keeps_its_partial_file(tmp_path: Path, make_adapters: Make) -> None:
    root = tmp_path / "packs"
    cleaner = PackStore(str(root))
    seen: list[tuple[int, int]] = []

    class Watched(PackStore):
        def _checked(self, location: AdapterLocation) -> memoryview:
            assert len(list(root.glob("*.partial"))) == 1
            seen.append((len(list(cleaner.partials())), cleaner.clean_partials(older_than_seconds=0)))
            return super()._checked(location)

    store = Watched(str(root))
    pack = store.write(make_adapters(3))
    combined = store.combine(pack.adapters[:2])
    assert seen == [(0, 0)] * 2
    assert store.verify(combined.digest) == combined


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_reported_and_leaves_nothing(small_disk: Path, make_adapters: Make) -> None:
    store = PackStore(str(small_disk / "packs"))
    sound = store.write(make_adapters(2))
    with pytest.raises(StorageError, match="No space left") as caught:
        store.write(make_adapters(3, size_bytes=30_000))
    assert "free some space" in (caught.value.hint or "")
    assert [path.stem for path in files_below(small_disk)] == [sound.digest]
    assert store.verify(sound.digest) == sound
    store.close()  # a mapped file would keep the disk busy


def test_a_file_size_limit_is_reported_and_leaves_nothing(
    tmp_path: Path, make_adapters: Make, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    store = PackStore(str(tmp_path / "packs"))
    with pytest.raises(StorageError, match="File too large"), largest_file(10_000):
        store.write(make_adapters(20))
    assert files_below(tmp_path) == []
    assert store.verify(store.write(make_adapters(20)).digest)


@pytest.fixture
def forbidden(tmp_path: Path) -> Iterator[Path]:
    """Give a folder that this process may not enter."""
    folder = tmp_path / "forbidden"
    folder.mkdir(mode=0o000)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    folder.chmod(0o700)


def test_a_forbidden_folder_is_reported(forbidden: Path, make_adapters: Make) -> None:
    store = PackStore(str(forbidden / "packs"))
    with pytest.raises(StorageError, match="Permission denied") as caught:
        store.write(make_adapters(1))
    assert "who may write" in (caught.value.hint or "")
    with pytest.raises(StorageError, match="Permission denied"):
        store.exists("ab" * 32)


def test_a_failing_source_leaves_nothing(tmp_path: Path, make_adapters: Make) -> None:
    store = PackStore(str(tmp_path / "packs"))
    pack = store.write(make_adapters(3))
    content = bytearray((tmp_path / "packs" / pack.digest[:2] / f"{pack.digest}.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "packs" / pack.digest[:2] / f"{pack.digest}.safetensors").write_bytes(content)
    with pytest.raises(Exception, match="other bytes than its digest"):
        store.combine(pack.adapters)
    assert len(files_below(tmp_path)) == 1


def test_few_packs_stay_mapped_and_views_outlive_them(tmp_path: Path, make_adapters: Make) -> None:
    store = PackStore(str(tmp_path / "packs"), open_packs=3)
    packs = [store.write(make_adapters(1, seed=seed)) for seed in range(10)]
    views = [store.read(pack.adapters[0]) for pack in packs]
    assert all(sha256_hex(view) == pack.adapters[0].adapter_digest for view, pack in zip(views, packs, strict=True))
    del views
    mapped = Path("/proc/self/maps").read_text()
    assert sum(pack.digest in mapped for pack in packs) == 3
    store.close()
    assert not any(pack.digest in Path("/proc/self/maps").read_text() for pack in packs)


def test_threads_share_a_store(tmp_path: Path, make_adapters: Make) -> None:
    store = PackStore(str(tmp_path / "packs"), open_packs=2)
    packs = [store.write(make_adapters(4, seed=seed)) for seed in range(6)]
    wrong: list[str] = []

    def read_all(seed: int) -> None:
        places = [place for pack in packs for place in pack.adapters] * 10
        random.Random(seed).shuffle(places)
        wrong.extend(p.adapter_digest for p in places if sha256_hex(store.read(p)) != p.adapter_digest)

    threads = [threading.Thread(target=read_all, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_importing_the_store_is_cheap() -> None:
    code = "import sys, registry.store; print(sorted({'torch', 'numpy', 'fsspec', 'sqlalchemy'} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_file_of_another_file_system_is_taken_in_by_a_copy(tmp_path: Path, make_adapters: Make) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no other file system")
    pack = PackStore(str(tmp_path / "one")).write(make_adapters(3))
    source = elsewhere / f"{os.getpid()}-{pack.digest}"
    source.write_bytes((tmp_path / "one" / pack.digest[:2] / f"{pack.digest}.safetensors").read_bytes())
    try:
        store = PackStore(str(tmp_path / "two"))
        store.take(pack.digest, source)
        assert not source.exists()
    finally:
        source.unlink(missing_ok=True)
    assert store.verify(pack.digest) == pack
    assert list(store.partials()) == []


def test_taking_a_file_into_a_full_disk_leaves_it_where_it_is(
    tmp_path: Path, make_adapters: Make, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no other file system")
    pack = PackStore(str(tmp_path / "one")).write(make_adapters(3))
    source = elsewhere / f"{os.getpid()}-{pack.digest}"
    source.write_bytes((tmp_path / "one" / pack.digest[:2] / f"{pack.digest}.safetensors").read_bytes())
    store = PackStore(str(tmp_path / "two"))
    try:
        with largest_file(1_000), pytest.raises(StorageError):
            store.take(pack.digest, source)
        assert source.exists()
    finally:
        source.unlink(missing_ok=True)
    assert not store.exists(pack.digest)
