"""Packs that are written, moved and deleted at the same time: what the catalog names is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from threading import Event, Thread

import pytest
from sqlalchemy.orm import Session

from registry.catalog.adapters import add_pack, forget_covered, forget_packs, pack_digests
from registry.catalog.augmentations import add_augmentations
from registry.catalog.builds import stage
from registry.catalog.dialect import lock_packs
from registry.catalog.engine import Catalog, open_catalog
from registry.digests import sha256_hex
from registry.errors import IntegrityError, StorageError
from registry.pipeline.opened import MOST_WRITES, Registry
from registry.records import AdapterLocation, EncodedAdapter, Pack
from registry.settings import Home
from registry.store.packs import PackStore
from registry.upkeep.gc.collect import delete_unnamed
from tests.catalog.workshop import Workshop, augmentation_of, document, encoded_adapter, placed


def adapters_in(catalog: Catalog, count: int) -> list[EncodedAdapter]:
    """Return adapters of bytes that a store takes, whose documents and recipe are in the catalog."""
    workshop = Workshop(catalog)
    augmentations = [augmentation_of(document(number)) for number in range(count)]
    with catalog.write() as session:
        stage(session, workshop.begin(session), [placed(number) for number in range(count)])
        add_augmentations(session, augmentations)
    encoded = (encoded_adapter(item, workshop.recipe) for item in augmentations)
    bodies = [f"adapter {number} of the coast".encode() for number in range(count)]
    return [replace(one, data=data, digest=sha256_hex(data)) for one, data in zip(encoded, bodies, strict=True)]


def store(registry: Registry, adapters: list[EncodedAdapter], before_record: Callable[[Pack], None]) -> Pack:
    def record(session: Session, pack: Pack) -> None:
        add_pack(session, pack, adapters, None)

    def write() -> Pack:
        pack = registry.packs.write((item.digest, item.data) for item in adapters)
        before_record(pack)
        return pack

    return registry.store(write, record)


def test_a_pack_that_is_deleted_before_its_rows_are_written_is_written_again(any_catalog: Catalog, home: Home) -> None:
    registry = Registry(home, any_catalog, PackStore(home.packs_url))
    adapters = adapters_in(any_catalog, 2)
    left = [1]

    def delete(pack: Pack) -> None:
        if left:
            left.pop()
            assert delete_unnamed(any_catalog, registry.packs, [pack.digest]) == [pack.digest]

    pack = store(registry, adapters, delete)
    assert bytes(registry.adapters([adapters[0].digest])[adapters[0].digest]) == adapters[0].data
    assert delete_unnamed(any_catalog, registry.packs, [pack.digest]) == []
    with any_catalog.write() as session:
        forget_packs(session, [pack.digest])
    left[:] = [1] * MOST_WRITES
    with pytest.raises(StorageError, match="each time that it was written"):
        store(registry, adapters, delete)
    with any_catalog.read() as session:
        assert pack_digests(session) == set()


def test_an_adapter_that_is_moved_again_and_again_is_read(
    any_catalog: Catalog, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(home, any_catalog, PackStore(home.packs_url))
    first, *others = adapters_in(any_catalog, 4)
    moves = [[first, *others[:count]] for count in (1, 2, 3)]
    here = [store(registry, [first], lambda _: None)]
    read = registry.packs.read

    def move_and_read(location: AdapterLocation) -> memoryview:
        if moves:
            here.append(store(registry, moves.pop(0), lambda _: None))
            with any_catalog.write() as session:
                forgotten = forget_covered(session, [here[-2].digest])
            delete_unnamed(any_catalog, registry.packs, forgotten)
        return read(location)

    monkeypatch.setattr(registry.packs, "read", move_and_read)
    assert bytes(registry.adapters([first.digest])[first.digest]) == first.data
    assert not moves
    registry.packs.delete(here[-1].digest)  # behind the catalog's back
    with pytest.raises(IntegrityError, match="is not in"):
        registry.adapters([first.digest])


def test_no_row_names_a_file_that_is_gone(any_catalog: Catalog, home: Home) -> None:
    """Two that write the same packs, and one that forgets and deletes them as fast as it can."""
    adapters = adapters_in(any_catalog, 3)
    over = Event()
    failed: list[BaseException] = []

    def run(work: Callable[[Registry], None]) -> Thread:
        def until_over() -> None:
            try:
                with open_catalog(any_catalog.url) as catalog:
                    work(Registry(home, catalog, PackStore(home.packs_url)))
            except BaseException as error:
                failed.append(error)
                over.set()

        thread = Thread(target=until_over)
        thread.start()
        return thread

    def write(registry: Registry) -> None:
        for number in range(20):
            store(registry, adapters[number % 3 :], lambda _: None)

    def delete(registry: Registry) -> None:
        while not over.wait(0.005):
            files = [pack.digest for pack in registry.packs.list()]
            with registry.catalog.write() as session:
                forget_packs(session, files[:2])
            delete_unnamed(registry.catalog, registry.packs, files)
            with registry.catalog.write() as session:
                lock_packs(session)
                assert all(map(registry.packs.exists, pack_digests(session)))

    writers, deleter = [run(write), run(write)], run(delete)
    for thread in writers:
        thread.join()
    over.set()
    deleter.join()
    assert not failed, failed
