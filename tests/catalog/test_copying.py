"""A whole catalog moves from one database to another and back, and is the same there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, Table, create_engine, select, text, update

from registry.catalog import schema
from registry.catalog.aliases import set_alias
from registry.catalog.dialect import parse_url
from registry.catalog.engine import open_catalog
from registry.catalog.models import Base, DocumentRow
from registry.catalog.references import resolve
from registry.catalog.transfer import copying
from registry.catalog.transfer.bulk import PlainRow
from registry.catalog.transfer.copying import CatalogCopy, copy_catalog
from registry.errors import BusyError, HomeError, InputError, IntegrityError, StorageError
from registry.progress import Silent
from tests.catalog.everything import ODD, counts, fill
from tests.catalog.workshop import Workshop, placed


def rows(url: str) -> dict[str, list[object]]:
    """Return all rows of a catalog as SQLAlchemy's types read them, in an order of their own."""
    with open_catalog(url) as catalog, catalog.read() as session:
        return {
            table.name: sorted((tuple(row) for row in session.execute(select(table))), key=repr)
            for table in Base.metadata.sorted_tables
        }


def digests(copy: CatalogCopy) -> dict[str, tuple[int, str]]:
    return {table.table: (table.rows, table.digest) for table in copy.tables}


def engine_of(url: str) -> Engine:
    return create_engine(parse_url(url))


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    path = tmp_path / "from.sqlite"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def filled_url(any_url: str) -> str:
    with open_catalog(any_url) as catalog:
        fill(catalog)
        assert [name for name, count in counts(catalog).items() if count == 0] == [], "a table that is never copied"
    return any_url


@pytest.mark.postgres
def test_there_and_back_every_table_is_the_same(tmp_path: Path, sqlite_url: str, empty_postgres_url: str) -> None:
    with open_catalog(sqlite_url) as catalog:
        fill(catalog)
        assert [name for name, count in counts(catalog).items() if count == 0] == [], "a table that is never copied"
    back_url = f"sqlite:///{tmp_path}/back again.sqlite"
    there = copy_catalog(sqlite_url, empty_postgres_url, Silent())
    back = copy_catalog(empty_postgres_url, back_url, Silent())
    assert digests(there) == digests(back)
    assert rows(sqlite_url) == rows(empty_postgres_url) == rows(back_url)
    assert schema.check(empty_postgres_url) == schema.check(back_url) == []
    assert {table.table: table.rows for table in back.tables} == {
        name: len(found) for name, found in rows(sqlite_url).items()
    }


def test_builds_go_on_in_the_copy(filled_url: str, tmp_path: Path) -> None:
    """New rows are numbered behind those that were copied, whichever way it went."""
    target = f"sqlite:///{tmp_path / 'copy.sqlite'}"
    copy_catalog(filled_url, target, Silent())
    go_on(target)


@pytest.mark.postgres
def test_builds_go_on_in_a_copy_on_postgresql(sqlite_url: str, empty_postgres_url: str) -> None:
    with open_catalog(sqlite_url) as catalog:
        fill(catalog)
    copy_catalog(sqlite_url, empty_postgres_url, Silent())
    go_on(empty_postgres_url)


def go_on(url: str) -> None:
    before = rows(url)
    with open_catalog(url) as catalog:
        version, created = Workshop(catalog).build([placed(number) for number in range(20, 25)])
        assert (version.number, created) == (3, True)
        with catalog.write() as session:
            set_alias(session, resolve(session, "handbook@v3"), "production", who="ada")
    after = rows(url)
    for name in ("documents", "adapters", "builds", "packs", "augmentations", "alias_moves"):
        assert len(after[name]) > len(before[name])


def test_an_empty_catalog_can_be_copied(any_url: str, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path / 'copy.sqlite'}"
    copied = copy_catalog(any_url, target, Silent())
    assert {table.rows for table in copied.tables} == {0}
    with open_catalog(target) as catalog:
        assert Workshop(catalog).build([placed(1)])[0].number == 1


def test_a_target_with_rows_is_refused_and_left_alone(filled_url: str, tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path / 'other.sqlite'}"
    schema.upgrade(other)
    with open_catalog(other) as catalog:
        Workshop(catalog)
    for source, target in ((filled_url, other), (other, filled_url), (filled_url, filled_url)):
        before = rows(target)
        with pytest.raises(HomeError, match=r"is not empty: there are rows in .*base_models") as caught:
            copy_catalog(source, target, Silent())
        assert "empty" in str(caught.value.hint)
        assert rows(target) == before


def test_a_source_that_is_no_catalog_of_this_schema(any_url: str, tmp_path: Path) -> None:
    target = tmp_path / "copy.sqlite"
    with pytest.raises(HomeError, match="no catalog"):
        copy_catalog(f"sqlite:///{tmp_path / 'none.sqlite'}", f"sqlite:///{target}", Silent())
    schema.downgrade(any_url, "-1")
    with pytest.raises(HomeError, match="this pragreg needs"):
        copy_catalog(any_url, f"sqlite:///{target}", Silent())
    assert not target.exists(), "nothing is made before the source is known to be good"
    with pytest.raises(HomeError, match="this pragreg needs"):
        copy_catalog(any_url, any_url, Silent())


def test_a_running_build_is_refused_unless_its_process_is_gone(filled_url: str, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path / 'copy.sqlite'}"
    with pytest.raises(BusyError, match=r"corpus 'mill' is being built: build \d+ by ada on mill") as caught:
        copy_catalog(filled_url, target, Silent(), is_alive=lambda *_: True)
    assert "--take-over" in str(caught.value.hint)
    assert set(map(len, rows(target).values())) == {0}
    copy_catalog(filled_url, target, Silent(), is_alive=lambda *_: False)
    assert rows(target) == rows(filled_url)


@pytest.mark.postgres
def test_what_postgresql_cannot_keep_is_named(sqlite_url: str, empty_postgres_url: str) -> None:
    with open_catalog(sqlite_url) as catalog:
        fill(catalog)
        with catalog.write() as session:
            number = session.scalars(select(DocumentRow.id).where(DocumentRow.digest == ODD.digest)).one()
            session.execute(update(DocumentRow).where(DocumentRow.id == number).values(text="half\x00a line"))
    with pytest.raises(InputError, match=f"table documents .* row of id {number} holds a NUL"):
        copy_catalog(sqlite_url, empty_postgres_url, Silent())
    assert set(map(len, rows(empty_postgres_url).values())) == {0}


@pytest.mark.postgres
def test_what_sqlite_cannot_keep_is_named(postgres_url: str, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path / 'copy.sqlite'}"
    with open_catalog(postgres_url) as catalog:
        fill(catalog)
        with catalog.write() as session:
            session.execute(text("UPDATE query_hits SET score = 'NaN' WHERE rank = 2"))
    with pytest.raises(InputError, match=r"table query_hits .* row of query_id 1, rank 2 holds a number that is none"):
        copy_catalog(postgres_url, target, Silent())
    assert set(map(len, rows(target).values())) == {0}


@pytest.mark.parametrize("killed", ["source", "target"])
@pytest.mark.postgres
def test_a_server_that_goes_away(
    postgres_url: str, sqlite_url: str, killed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = (postgres_url, sqlite_url) if killed == "source" else (sqlite_url, postgres_url)
    with open_catalog(source) as catalog:
        fill(catalog)
    write = copying.write_rows

    def interrupted(connection: Connection, table: Table, given: Iterator[PlainRow]) -> None:
        if table.name == "memberships":
            engine = engine_of(postgres_url)
            with engine.connect() as killer:
                others = "application_name = 'pragreg' AND datname = current_database()"
                killer.exec_driver_sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
            engine.dispose()
        write(connection, table, given)

    monkeypatch.setattr(copying, "write_rows", interrupted)
    with pytest.raises(StorageError, match=r"went away|is lost|cannot be reached"):
        copy_catalog(source, target, Silent())
    assert set(map(len, rows(target).values())) == {0}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("UPDATE adapter_inputs SET recipe_id = 77", r"table adapter_inputs cannot be copied"),
        ("UPDATE queries SET prompt_tokens = 'many'", r"table queries cannot be copied"),
    ],
)
@pytest.mark.postgres
def test_a_damaged_source(sqlite_url: str, empty_postgres_url: str, damage: str, message: str) -> None:
    with open_catalog(sqlite_url) as catalog:
        fill(catalog)
    engine = engine_of(sqlite_url)  # without this program's foreign keys
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA ignore_check_constraints=ON")
        connection.exec_driver_sql(damage)
    engine.dispose()
    with pytest.raises(IntegrityError, match=message) as caught:
        copy_catalog(sqlite_url, empty_postgres_url, Silent())
    assert "verify" in str(caught.value.hint)
    assert set(map(len, rows(empty_postgres_url).values())) == {0}


def test_rows_that_change_on_the_way_are_found(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = f"sqlite:///{tmp_path / 'copy.sqlite'}"
    with open_catalog(sqlite_url) as catalog:
        fill(catalog)
    write = copying.write_rows

    def forgetful(connection: object, table: Table, given: object) -> None:
        changed = list(given)  # type: ignore[call-overload]
        if table.name == "sources":
            changed[0] = (changed[0][0], changed[0][1] + " ", changed[0][2])
        write(connection, table, changed)  # type: ignore[arg-type]

    monkeypatch.setattr(copying, "write_rows", forgetful)
    with pytest.raises(IntegrityError, match="table sources did not arrive as it was: 2 rows were sent and 2 came"):
        copy_catalog(sqlite_url, target, Silent())
    assert set(map(len, rows(target).values())) == {0}


def test_one_state_is_copied_while_others_write(
    filled_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = f"sqlite:///{tmp_path / 'copy.sqlite'}"
    before = rows(filled_url)
    read = copying.read_rows

    def interrupted(connection: Connection, table: Table) -> Iterator[list[PlainRow]]:
        yield from read(connection, table)
        if table.name == "base_models" and str(connection.engine.url) == str(parse_url(filled_url)):
            with open_catalog(filled_url) as catalog:
                Workshop(catalog).build([placed(30)], corpus="late")

    monkeypatch.setattr(copying, "read_rows", interrupted)
    copy_catalog(filled_url, target, Silent())
    assert rows(target) == before != rows(filled_url)


def test_memory_does_not_grow_with_the_tables(any_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_catalog(any_url) as catalog, catalog.write() as session:
        moment = "2026-01-01T00:00:00"
        made = [{"uri": f"coast-{number}"} for number in range(2_500)]
        session.execute(text(f"INSERT INTO sources (uri, created_at) VALUES (:uri, '{moment}')"), made)
    largest: list[int] = []
    encode = copying.encode_rows

    def counting(chunk: list[PlainRow]) -> bytes:
        largest.append(len(chunk))
        return encode(chunk)

    monkeypatch.setattr(copying, "encode_rows", counting)
    copy_catalog(any_url, f"sqlite:///{tmp_path / 'copy.sqlite'}", Silent())
    assert largest == [1_000, 1_000, 500] * 2
