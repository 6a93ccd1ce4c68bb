"""Faults to plant into a built registry, one for every kind and way; each is a function of the registry's home.

They change files and rows as failing disks, killed processes and careless people do, past every check of the catalog.
"""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, text

from registry.catalog.adapters import add_pack, pack_digests
from registry.catalog.augmentations import add_augmentations
from registry.catalog.engine import open_catalog
from registry.catalog.members import members
from registry.catalog.names import sqlite_path
from registry.catalog.references import list_versions
from registry.catalog.upkeep.pack_table import pack_tables
from registry.catalog.versions import version_digest
from registry.digests import sha256_hex
from registry.index import VersionIndex
from registry.records import AdapterLocation, Augmentation, Document, EncodedAdapter, Pack, Training, Version
from registry.settings import Home
from registry.store import AdapterLayout, PackStore, read_layout

CORPUS = "handbook"
LOST_PROCESS = 2**22 + 1
"""A process number that Linux never gives."""

Plant = Callable[[Home], None]


@dataclass(frozen=True)
class Fault:
    """A way to plant a kind of fault.

    ``deep`` ones are found only by reading every byte. ``databases`` are those on which it is a fault of its own: what
    lies in files is the same whichever database there is.
    """

    name: str
    kind: str
    plant: Plant
    deep: bool = False
    databases: tuple[str, ...] = ("sqlite",)


@contextmanager
def raw(home: Home) -> Iterator[Connection]:
    """Give a connection that may break every foreign key; committed at the end."""
    engine = create_engine(home.catalog_url.replace("postgresql://", "postgresql+psycopg://"))
    off = "PRAGMA foreign_keys=OFF" if engine.dialect.name == "sqlite" else "SET session_replication_role = replica"
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(off)
            yield connection
            connection.commit()
    finally:
        engine.dispose()


def alter(home: Home, statement: str, **values: Any) -> int:
    """Run one statement past all foreign keys, and return how many rows it changed."""
    with raw(home) as connection:
        return connection.execute(text(statement), values).rowcount


def ask(home: Home, statement: str, **values: Any) -> list[Any]:
    """Return the rows of a query."""
    with raw(home) as connection:
        return [tuple(row) for row in connection.execute(text(statement), values)]


def packs_of(home: Home) -> list[Pack]:
    """Return the packs that hold adapters of documents, as the catalog has them, the fullest first."""
    with open_catalog(home.catalog_url) as catalog, catalog.read() as session:
        tables = pack_tables(session, sorted(pack_digests(session)))
    task = {digest for (digest,) in ask(home, "SELECT digest FROM task_adapters")}
    packs = [
        Pack(table.digest, table.size_bytes, tuple(entry.location for entry in table.entries))
        for table in tables
        if not {entry.location.adapter_digest for entry in table.entries} & task
    ]
    return sorted(packs, key=lambda pack: -len(pack.adapters))


def pack_path(home: Home, digest: str) -> Path:
    """Return where a pack lies."""
    return Path(PackStore(home.packs_url).path_of(digest))


def flip(path: Path, position: int, bit: int = 0x10) -> None:
    """Flip one bit of a file."""
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ bit]))


def versions_of(home: Home) -> list[Version]:
    """Return the versions of the corpus, oldest first."""
    with open_catalog(home.catalog_url) as catalog, catalog.read() as session:
        return list_versions(session, CORPUS)


def index_file(home: Home, suffix: str) -> Path:
    """Return a file of the newest version's index."""
    return next(home.index_folder(versions_of(home)[-1]).glob(f"*{suffix}"))


def replace_adapter(home: Home, digest: str, data: bytes) -> str:
    """Let the registry hold other bytes in place of an adapter, as if it had been made so; return its new digest.

    Packs, rows, versions' digests and indexes are all brought along, so that nothing else is amiss.
    """
    new = sha256_hex(data)
    store = PackStore(home.packs_url)
    before = {version.number: version for version in versions_of(home)}
    alter(
        home,
        "UPDATE adapters SET digest = :new, size_bytes = :size WHERE digest = :old",
        new=new,
        size=len(data),
        old=digest,
    )
    for pack in packs_of_adapter(home, new):
        contents = [(place.adapter_digest, store.read(_renamed(place, new, digest))) for place in pack.adapters]
        changed = store.write((new, data) if name == new else (name, bytes(part)) for name, part in contents)
        set_pack(home, pack.digest, changed)
        store.delete(pack.digest)
    store.close()
    settle_versions(home, before)
    return new


def packs_of_adapter(home: Home, digest: str) -> list[Pack]:
    return [pack for pack in packs_of(home) if digest in {place.adapter_digest for place in pack.adapters}]


def set_pack(home: Home, old: str, pack: Pack) -> None:
    """Let the table of packs say of the pack ``old`` what is true of ``pack``."""
    ((number,),) = ask(home, "SELECT id FROM packs WHERE digest = :old", old=old)
    with raw(home) as connection:
        values = {"number": number, "digest": pack.digest, "size": pack.size_bytes}
        connection.execute(text("UPDATE packs SET digest = :digest, size_bytes = :size WHERE id = :number"), values)
        connection.execute(text("DELETE FROM adapter_locations WHERE pack_id = :number"), values)
        for place in pack.adapters:
            connection.execute(
                text(
                    'INSERT INTO adapter_locations (adapter_id, pack_id, "offset", size_bytes) '
                    "SELECT id, :number, :begin, :size FROM adapters WHERE digest = :adapter"
                ),
                {"number": number, "begin": place.offset, "size": place.size_bytes, "adapter": place.adapter_digest},
            )


def settle_versions(home: Home, before: dict[int, Version]) -> None:
    """Bring digests, sizes and index folders of all versions up to date with their members."""
    for version in versions_of(home):
        with open_catalog(home.catalog_url) as catalog, catalog.read() as session:
            pairs = [(document.digest, adapter) for document, adapter in members(session, version)]
        sizes = dict(ask(home, "SELECT digest, size_bytes FROM adapters"))
        alter(
            home,
            "UPDATE versions SET digest = :digest, size_bytes = :size WHERE number = :number AND corpus_id = "
            "(SELECT id FROM corpora WHERE name = :corpus)",
            digest=version_digest(version.recipe_digest, pairs),
            size=sum(sizes[adapter] for _, adapter in pairs),
            number=version.number,
            corpus=CORPUS,
        )
    for version in versions_of(home):
        folder = home.index_folder(before[version.number])
        if folder.exists() and folder != home.index_folder(version):
            folder.rename(home.index_folder(version))


def _renamed(place: AdapterLocation, new: str, old: str) -> AdapterLocation:
    return replace(place, adapter_digest=old) if place.adapter_digest == new else place


def an_adapter(home: Home) -> tuple[str, bytes]:
    """Return digest and bytes of an adapter that the newest version has."""
    newest = versions_of(home)[-1]
    with open_catalog(home.catalog_url) as catalog, catalog.read() as session:
        digest = next(adapter for _, adapter in members(session, newest))
    store = PackStore(home.packs_url)
    for pack in packs_of_adapter(home, digest):
        place = next(place for place in pack.adapters if place.adapter_digest == digest)
        return digest, bytes(store.read(place))
    raise AssertionError("it lies in no pack")


# The catalog.


def damage_catalog(home: Home) -> None:
    path = sqlite_path(home.catalog_url)
    assert path
    with sqlite3.connect(path) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'ix_query_hits_adapter_id'"
        (page,) = connection.execute(query).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    with Path(path).open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 64)


def dangle(home: Home) -> None:
    assert alter(home, "UPDATE adapter_inputs SET adapter_id = 99999999") > 0


def alter_text(home: Home) -> None:
    assert alter(home, f"UPDATE documents SET text = 'T' || substr(text, 2, 9999) || '.' WHERE id = {_document(home)}")


def alter_title(home: Home) -> None:
    assert alter(home, f"UPDATE documents SET title = 'Another' WHERE id = {_document(home)}")


def alter_augmentation(home: Home) -> None:
    ((number, payload),) = ask(home, "SELECT id, payload FROM augmentations ORDER BY id LIMIT 1")
    content = json.loads(payload) if isinstance(payload, str) else payload
    content["qa"][0]["answer"] = "nothing at all"
    alter(home, "UPDATE augmentations SET payload = :payload WHERE id = :id", payload=json.dumps(content), id=number)


def garble_augmentation(home: Home) -> None:
    alter(
        home,
        "UPDATE augmentations SET payload = CAST(x'7b22ff' AS TEXT) WHERE id = (SELECT min(id) FROM augmentations)",
    )


def garble_text(home: Home) -> None:
    alter(home, f"UPDATE documents SET text = CAST(x'41ff42' AS TEXT) WHERE id = {_document(home)}")


def alter_recipe(home: Home) -> None:
    ((number, settings),) = ask(home, "SELECT id, settings FROM recipes")
    content = json.loads(settings) if isinstance(settings, str) else settings
    alter(
        home,
        "UPDATE recipes SET settings = :settings WHERE id = :id",
        settings=json.dumps(content | {"alpha": content["alpha"] * 2}),
        id=number,
    )


def miscount_version(home: Home) -> None:
    assert alter(home, "UPDATE versions SET documents = documents + 1 WHERE number = 1") == 1


def missize_version(home: Home) -> None:
    assert alter(home, "UPDATE versions SET size_bytes = size_bytes - 1 WHERE number = 1") == 1


def exchange_members(home: Home) -> None:
    """Give two documents of the newest version each the other's adapter."""
    rows = ask(home, "SELECT document_id, adapter_id FROM memberships WHERE to_version IS NULL ORDER BY document_id")
    (one, first), (other, second) = rows[:2]
    for document, adapter in ((one, second), (other, first)):
        alter(
            home,
            "UPDATE memberships SET adapter_id = :adapter WHERE document_id = :document AND to_version IS NULL",
            adapter=adapter,
            document=document,
        )


def overlap(home: Home) -> None:
    assert alter(
        home,
        "INSERT INTO memberships (corpus_id, document_id, from_version, adapter_id) "
        "SELECT corpus_id, document_id, 2, adapter_id FROM memberships "
        "WHERE from_version = 1 AND to_version IS NULL ORDER BY document_id LIMIT 1",
    )


def unname(home: Home) -> None:
    assert alter(home, "DELETE FROM aliases WHERE name = 'latest'") == 1


def abandon_build(home: Home) -> None:
    alter(
        home,
        "INSERT INTO builds (corpus_id, recipe_id, message, who, host, pid, status, started_at, sources, documents, "
        "places, skipped, reused, trained, without_augmentation, size_bytes) SELECT corpus_id, recipe_id, '', 'ada', "
        ":host, :pid, 'running', started_at, 0, 0, 0, 0, 0, 0, 0, 0 FROM builds ORDER BY id LIMIT 1",
        host=socket.gethostname(),
        pid=LOST_PROCESS,
    )


def leave_staging(home: Home) -> None:
    assert alter(
        home,
        "INSERT INTO build_adapters (build_id, document_id, adapter_id) "
        "SELECT (SELECT min(id) FROM builds), document_id, adapter_id FROM memberships WHERE from_version = 1",
    )


# Packs and adapters.


def delete_pack(home: Home) -> None:
    pack_path(home, packs_of(home)[0].digest).unlink()


def truncate_pack(home: Home) -> None:
    pack = packs_of(home)[0]
    path = pack_path(home, pack.digest)
    with path.open("r+b") as file:
        file.truncate(pack.adapters[-1].offset + 100)


def truncate_header(home: Home) -> None:
    with pack_path(home, packs_of(home)[0].digest).open("r+b") as file:
        file.truncate(50)


def empty_pack(home: Home) -> None:
    with pack_path(home, packs_of(home)[0].digest).open("r+b") as file:
        file.truncate(0)


def lengthen_pack(home: Home) -> None:
    with pack_path(home, packs_of(home)[0].digest).open("ab") as file:
        file.write(b"\0" * 8)


def flip_header(home: Home) -> None:
    """Flip a bit in the first adapter's name."""
    path = pack_path(home, packs_of(home)[0].digest)
    flip(path, path.read_bytes().index(packs_of(home)[0].adapters[0].adapter_digest.encode()) + 3, bit=0x01)


def flip_length(home: Home) -> None:
    flip(pack_path(home, packs_of(home)[0].digest), 6, bit=0x40)


def flip_padding(home: Home) -> None:
    """Flip a bit in a pack's metadata, which no reader of adapters looks at."""
    path = pack_path(home, packs_of(home)[0].digest)
    flip(path, path.read_bytes().index(b"pack-1") + 5, bit=0x01)


def swap_packs(home: Home) -> None:
    one, other = (pack_path(home, pack.digest) for pack in packs_of(home)[:2])
    contents = one.read_bytes()
    shutil.copyfile(other, one)
    other.write_bytes(contents)


def flip_adapter(home: Home) -> None:
    pack = packs_of(home)[0]
    place = pack.adapters[1]
    flip(pack_path(home, pack.digest), place.offset + place.size_bytes - 9)


def flip_adapter_header(home: Home) -> None:
    pack = packs_of(home)[0]
    flip(pack_path(home, pack.digest), pack.adapters[1].offset + 40)


def misname_adapter(home: Home) -> None:
    """Have a pack that has its digest, but whose adapter does not: written by a program that did not check."""
    pack = packs_of(home)[0]
    place = pack.adapters[0]
    path = pack_path(home, pack.digest)
    flip(path, place.offset + place.size_bytes - 5)
    digest = sha256_hex(path.read_bytes())
    target = pack_path(home, digest)
    target.parent.mkdir(exist_ok=True)
    path.rename(target)
    alter(home, "UPDATE packs SET digest = :new WHERE digest = :old", new=digest, old=pack.digest)


def forget_location(home: Home) -> None:
    digest = packs_of(home)[0].adapters[0].adapter_digest
    own = "(SELECT id FROM adapters WHERE digest = :digest)"
    assert alter(home, f"DELETE FROM adapter_locations WHERE adapter_id = {own}", digest=digest) == 1


def shift_location(home: Home) -> None:
    digest = packs_of(home)[0].adapters[0].adapter_digest
    own = "(SELECT id FROM adapters WHERE digest = :digest)"
    assert alter(home, f'UPDATE adapter_locations SET "offset" = "offset" + 8 WHERE adapter_id = {own}', digest=digest)


def resize_pack_row(home: Home) -> None:
    alter(home, "UPDATE packs SET size_bytes = size_bytes + 1 WHERE digest = :digest", digest=packs_of(home)[0].digest)


def forget_pack(home: Home) -> None:
    digest = packs_of(home)[0].digest
    own = "(SELECT id FROM packs WHERE digest = :digest)"
    alter(home, f"DELETE FROM adapter_locations WHERE pack_id = {own}", digest=digest)
    alter(home, "DELETE FROM packs WHERE digest = :digest", digest=digest)


def lose_adapter(home: Home) -> None:
    """Have a pack that was written without one of its adapters, and a table that says so."""
    pack = packs_of(home)[0]
    store = PackStore(home.packs_url)
    changed = store.combine(pack.adapters[1:])
    set_pack(home, pack.digest, changed)
    store.delete(pack.digest)


def put_foreign(home: Home) -> None:
    """Put an adapter of another rank where one of the recipe belongs."""
    digest, data = an_adapter(home)
    layout = read_layout(data)
    other = AdapterLayout.of(layout.shapes, layout.rank + 1, layout.dtype)
    replace_adapter(home, digest, other.serialise(_numbers(other, 1.0)))


def put_other_modules(home: Home) -> None:
    """Put an adapter of other modules in its place, of the same rank, dtype and size."""
    digest, data = an_adapter(home)
    layout = read_layout(data)
    shapes = {name.replace("gate_proj", "q_proj"): shape for name, shape in layout.shapes.items()}
    other = AdapterLayout.of(shapes, layout.rank, layout.dtype)
    replace_adapter(home, digest, other.serialise(_numbers(other, 1.0)))


def put_text(home: Home) -> None:
    """Put something that is no adapter at all in its place."""
    digest, _ = an_adapter(home)
    replace_adapter(home, digest, b"this is no adapter" * 100)


def put_nan(home: Home) -> None:
    digest, data = an_adapter(home)
    replace_adapter(home, digest, data[:-4] + struct.pack("<f", float("nan")))


def put_zeros(home: Home) -> None:
    digest, data = an_adapter(home)
    layout = read_layout(data)
    body = bytearray(layout.body(data))
    for spec in layout.tensors:
        if spec.which == "B":
            begin, end = (4 * (spec.offset_elements + part) for part in (0, spec.elements))
            body[begin:end] = bytes(end - begin)
    replace_adapter(home, digest, layout.serialise(body))


def lose_task_adapter(home: Home) -> None:
    ((pack, number),) = ask(
        home, "SELECT packs.digest, packs.id FROM packs JOIN task_adapters ON task_adapters.pack_id = packs.id"
    )
    alter(home, 'UPDATE task_adapters SET pack_id = NULL, "offset" = NULL')
    alter(home, "DELETE FROM packs WHERE id = :number", number=number)
    pack_path(home, pack).unlink()


def add_stranger(home: Home) -> None:
    data = b"an adapter of elsewhere"
    PackStore(home.packs_url).write([(sha256_hex(data), data)])


def leave_partial(home: Home) -> None:
    Path(home.packs_url, f"{LOST_PROCESS}-00ff00ff00ff00ff.partial").write_bytes(b"cut off")


def add_unused(home: Home) -> None:
    """Have an adapter that was trained, but that no version has."""
    _, data = an_adapter(home)
    layout = read_layout(data)
    other = layout.serialise(_numbers(layout, 0.5))
    augmentation = Augmentation(versions_first_document(home).digest, "0" * 64, "handwritten", "1", ("Again.",))
    with open_catalog(home.catalog_url) as catalog, catalog.write() as session:
        pack = PackStore(home.packs_url).write([(sha256_hex(other), other)])
        add_augmentations(session, [augmentation])
        made = EncodedAdapter(
            sha256_hex(other),
            augmentation.document_digest,
            augmentation.digest,
            versions_recipe(home),
            layout.elements,
            b"",
            Training(1, 1, 1, 1.0, 1.0, 1.0, "cpu", "float32", 1),
        )
        add_pack(session, pack, [made], None)


# Indexes.


def delete_index(home: Home) -> None:
    shutil.rmtree(home.index_folder(versions_of(home)[-1]))


def delete_description(home: Home) -> None:
    index_file(home, "version.json").unlink()


def delete_index_file(home: Home) -> None:
    index_file(home, ".store").unlink()


def truncate_index_file(home: Home) -> None:
    with index_file(home, ".term").open("r+b") as file:
        file.truncate(20)


def flip_postings(home: Home) -> None:
    flip(index_file(home, ".idx"), 12)


def flip_fieldnorms(home: Home) -> None:
    flip(index_file(home, ".fieldnorm"), 8, bit=0x01)


def flip_stored(home: Home) -> None:
    flip(index_file(home, ".store"), 30)


def garble_meta(home: Home) -> None:
    path = index_file(home, "meta.json")
    path.write_bytes(path.read_bytes().replace(b"{", b"[", 1))


def index_others(home: Home) -> None:
    """Index one other document in place of one of the version's."""
    documents = _documents(home)
    VersionIndex.build(_newest_folder(home), "en", [*documents[1:], Document.of("The Tower", "The tower is of ice.")])


def index_fewer(home: Home) -> None:
    VersionIndex.build(_newest_folder(home), "en", _documents(home)[1:])


def add_index(home: Home) -> None:
    VersionIndex.build(home.index_path / CORPUS / ("0" * 64), "en", _documents(home)[:2])


def leave_index_partial(home: Home) -> None:
    folder = home.index_path / CORPUS / ("0" * 64 + ".partial")
    folder.mkdir()
    (folder / "meta.json").write_text("{")


def versions_first_document(home: Home) -> Document:
    return _documents(home)[0]


def versions_recipe(home: Home) -> str:
    return versions_of(home)[-1].recipe_digest


def _newest_folder(home: Home) -> Path:
    return home.index_folder(versions_of(home)[-1])


def _documents(home: Home) -> list[Document]:
    with open_catalog(home.catalog_url) as catalog, catalog.read() as session:
        return [document for document, _ in members(session, versions_of(home)[-1])]


def _document(home: Home) -> int:
    digest = versions_first_document(home).digest
    return int(ask(home, "SELECT id FROM documents WHERE digest = :digest", digest=digest)[0][0])


def _numbers(layout: AdapterLayout, value: float) -> bytes:
    return struct.pack("<f", value) * layout.elements


BOTH = ("sqlite", "postgres")
FAULTS = (
    Fault("damaged page", "catalog-damaged", damage_catalog),
    Fault("dangling inputs", "dangling-row", dangle, deep=True, databases=BOTH),
    Fault("altered text", "document-altered", alter_text, deep=True, databases=BOTH),
    Fault("altered title", "document-altered", alter_title, deep=True),
    Fault("garbled text", "document-altered", garble_text, deep=True),
    Fault("altered augmentation", "augmentation-altered", alter_augmentation, deep=True, databases=BOTH),
    Fault("garbled augmentation", "augmentation-altered", garble_augmentation, deep=True),
    Fault("altered recipe", "recipe-altered", alter_recipe, databases=BOTH),
    Fault("miscounted version", "version-altered", miscount_version, databases=BOTH),
    Fault("version of another size", "version-altered", missize_version, databases=BOTH),
    Fault("exchanged members", "version-altered", exchange_members, databases=BOTH),
    Fault("overlapping ranges", "membership-overlap", overlap, databases=BOTH),
    Fault("no latest", "version-unnamed", unname, databases=BOTH),
    Fault("abandoned build", "build-abandoned", abandon_build, databases=BOTH),
    Fault("staging rows", "staging-left", leave_staging, databases=BOTH),
    Fault("deleted pack", "pack-missing", delete_pack),
    Fault("truncated pack", "pack-damaged", truncate_pack),
    Fault("truncated header", "pack-damaged", truncate_header),
    Fault("emptied pack", "pack-damaged", empty_pack),
    Fault("lengthened pack", "pack-damaged", lengthen_pack),
    Fault("flipped name", "pack-damaged", flip_header),
    Fault("flipped length", "pack-damaged", flip_length),
    Fault("flipped metadata", "pack-damaged", flip_padding),
    Fault("swapped packs", "pack-damaged", swap_packs),
    Fault("flipped weight", "adapter-damaged", flip_adapter, deep=True),
    Fault("flipped adapter header", "adapter-damaged", flip_adapter_header, deep=True),
    Fault("misnamed adapter", "adapter-damaged", misname_adapter, deep=True),
    Fault("forgotten location", "pack-table", forget_location, databases=BOTH),
    Fault("shifted location", "pack-table", shift_location),
    Fault("pack row of another size", "pack-table", resize_pack_row),
    Fault("forgotten pack", "pack-table", forget_pack, databases=BOTH),
    Fault("lost adapter", "adapter-missing", lose_adapter, databases=BOTH),
    Fault("another rank", "adapter-foreign", put_foreign, deep=True),
    Fault("other modules", "adapter-foreign", put_other_modules, deep=True),
    Fault("no adapter", "adapter-foreign", put_text, deep=True),
    Fault("NaN", "adapter-broken", put_nan, deep=True),
    Fault("zero B", "adapter-broken", put_zeros, deep=True),
    Fault("lost task adapter", "task-adapter-missing", lose_task_adapter, databases=BOTH),
    Fault("unknown pack", "pack-unknown", add_stranger),
    Fault("partial pack", "file-partial", leave_partial),
    Fault("unused adapter", "adapter-unused", add_unused, databases=BOTH),
    Fault("deleted index", "index-missing", delete_index),
    Fault("deleted description", "index-damaged", delete_description),
    Fault("deleted index file", "index-damaged", delete_index_file),
    Fault("truncated index file", "index-damaged", truncate_index_file),
    Fault("flipped postings", "index-damaged", flip_postings, deep=True),
    Fault("flipped field norms", "index-damaged", flip_fieldnorms, deep=True),
    Fault("flipped stored document", "index-damaged", flip_stored, deep=True),
    Fault("garbled meta.json", "index-damaged", garble_meta),
    Fault("index of others", "index-altered", index_others, deep=True),
    Fault("index of fewer", "index-altered", index_fewer),
    Fault("unknown index", "index-unknown", add_index),
    Fault("partial index", "index-unknown", leave_index_partial),
)
"""Every kind of fault at least once; each plants its own kind of damage and no other."""
