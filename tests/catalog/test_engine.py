from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session

from registry.catalog import dialect, schema
from registry.catalog.builds import stage, staged_counts
from registry.catalog.engine import Catalog, open_catalog
from registry.catalog.models import CorpusRow, DocumentRow, SourceRow
from registry.catalog.recipes import add_base_model
from registry.errors import BusyError, HomeError, InputError, StorageError
from registry.settings import Home
from tests.catalog.workshop import BASE_MODEL, Workshop, placed


def add_corpus(session: Session, name: str, moment: datetime | None = None) -> None:
    row = {"name": name, "language": "en", "created_at": moment or datetime.now(UTC)}
    dialect.insert_new(session, CorpusRow, [row])


def corpora(catalog: Catalog) -> list[str]:
    with catalog.read() as session:
        return list(session.scalars(select(CorpusRow.name).order_by(CorpusRow.name)))


def test_a_write_is_whole_or_nothing(any_catalog: Catalog) -> None:
    def interrupted(session: Session) -> None:
        add_corpus(session, "harbour")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), any_catalog.write() as session:
        interrupted(session)
    assert corpora(any_catalog) == []
    with any_catalog.write() as session:
        add_corpus(session, "harbour")
    assert corpora(any_catalog) == ["harbour"]


def test_a_reader_cannot_write(any_catalog: Catalog) -> None:
    with pytest.raises(StorageError, match="cannot be written"), any_catalog.read() as session:
        add_corpus(session, "harbour")
    with any_catalog.write() as session:
        add_corpus(session, "mill")
    with pytest.raises(StorageError, match="cannot be written"), any_catalog.read() as session:
        add_corpus(session, "harbour")  # now on a connection that has written
    assert corpora(any_catalog) == ["mill"]


def test_scratch_work_keeps_no_writer_waiting_and_is_undone(any_catalog: Catalog) -> None:
    count = select(func.count(CorpusRow.id))
    for _ in range(2):
        with any_catalog.scratch() as session:
            session.execute(text("CREATE TEMPORARY TABLE notes (number INTEGER)"))
            session.execute(text("INSERT INTO notes VALUES (1)"))
            before = session.scalar(count)
            with any_catalog.write() as other:
                add_corpus(other, f"harbour-{before}")
            assert session.scalar(count) == before, "it sees one state"
            assert session.scalar(text("SELECT number FROM notes")) == 1
    assert corpora(any_catalog) == ["harbour-0", "harbour-1"]
    with pytest.raises(StorageError), any_catalog.read() as session:
        session.execute(text("CREATE TEMPORARY TABLE notes (number INTEGER)"))


def test_a_reader_sees_one_state_while_others_write(any_catalog: Catalog) -> None:
    count = select(func.count(CorpusRow.id))
    with open_catalog(any_catalog.url) as other, any_catalog.read() as reader:
        assert reader.scalar(count) == 0
        with other.write() as session:
            add_corpus(session, "harbour")
        assert reader.scalar(count) == 0
    assert corpora(any_catalog) == ["harbour"]


def test_moments_come_back_aware_and_in_utc(any_catalog: Catalog) -> None:
    moment = datetime(2031, 5, 7, 23, 30, 12, 345678, tzinfo=timezone(timedelta(hours=-3)))
    with any_catalog.write() as session:
        add_corpus(session, "harbour", moment)
    with any_catalog.read() as session:
        found = session.scalars(select(CorpusRow.created_at)).one()
    assert found == moment
    assert found.tzinfo is UTC
    with pytest.raises(StatementError, match="aware"), any_catalog.write() as session:
        add_corpus(session, "mill", datetime(2031, 5, 7))


def test_two_writers_at_once_lose_nothing(workshop: Workshop) -> None:
    """Four builds stage overlapping documents in several transactions each."""
    with workshop.catalog.write() as session:
        builds = [workshop.begin(session, f"coast-{number}") for number in range(4)]
    failures: list[BaseException] = []

    def work(build_id: int) -> None:
        try:
            with open_catalog(workshop.catalog.url) as catalog:
                for start in range(0, 60, 20):
                    with catalog.write() as session:
                        stage(session, build_id, [placed(build_id + start + step) for step in range(20)])
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(build_id,)) for build_id in builds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with workshop.catalog.read() as session:
        assert [staged_counts(session, build_id).documents for build_id in builds] == [60] * 4
        assert session.scalar(select(func.count(DocumentRow.id))) == 60 + len(builds) - 1
        assert session.scalar(select(func.count(SourceRow.id))) == 1


def test_a_writer_gives_up_when_another_one_holds_on(any_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialect, "LOCK_SECONDS", 1)
    with open_catalog(any_url) as first, open_catalog(any_url) as second, first.write() as session:
        add_base_model(session, BASE_MODEL)
        with pytest.raises(BusyError, match="too long") as caught, second.write() as waiting:
            add_base_model(waiting, BASE_MODEL)
        assert "builds list" in str(caught.value.hint)


def test_a_full_disk(catalog: Catalog) -> None:
    def fill(session: Session) -> None:
        pages = session.execute(text("PRAGMA page_count")).scalar()
        session.execute(text(f"PRAGMA max_page_count = {pages}"))
        for number in range(10_000):
            add_corpus(session, f"harbour-{number}")

    with pytest.raises(StorageError, match="disk is full") as caught, catalog.write() as session:
        fill(session)
    assert caught.value.hint is not None
    catalog.close()
    assert corpora(catalog) == []


@pytest.mark.parametrize(
    ("start", "content", "message"),
    [(0, b"no database at all, only text. " * 200, "not an SQLite file"), (4096, b"\xff" * 40_960, "damaged")],
)
def test_a_damaged_file(home: Home, start: int, content: bytes, message: str) -> None:
    path = Path(home.catalog_url.removeprefix("sqlite:///"))
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)
    with pytest.raises(StorageError, match=message) as caught, open_catalog(home.catalog_url) as catalog:
        corpora(catalog)
    assert str(path) in caught.value.message
    assert "backup" in str(caught.value.hint)


def test_a_file_that_cannot_be_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(b"no database at all, only text. " * 200)
    for use in (schema.upgrade, schema.current, schema.check, lambda url: schema.downgrade(url, "base")):
        with pytest.raises(StorageError, match="not an SQLite file"):
            use(f"sqlite:///{path}")


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be opened"):
        open_catalog(f"sqlite:///{tmp_path}")


@pytest.mark.parametrize(
    "url",
    ["", "sqlite://", "sqlite:///", "sqlite:///:memory:", "mysql://ada:opensesame@mill/x", "///", "postgresql://h:x/y"],
)
def test_a_url_that_names_no_catalog(url: str) -> None:
    with pytest.raises(HomeError) as caught:
        open_catalog(url)
    assert "pragreg.toml" in str(caught.value.hint)
    assert "opensesame" not in caught.value.message


@pytest.mark.parametrize("form", ["postgresql://ada:{}@127.0.0.1:1/none", "postgres://127.0.0.1:1/none?password={}"])
def test_a_server_that_is_not_there_and_no_password_in_the_message(form: str) -> None:
    with pytest.raises(StorageError, match="cannot be reached") as caught:
        open_catalog(form.format("open%20sesame"))
    assert "127.0.0.1:1/none" in caught.value.message
    assert "***" in caught.value.message
    assert "sesame" not in caught.value.message


@pytest.mark.postgres
def test_a_database_that_is_not_there(postgres_url: str) -> None:
    with pytest.raises(StorageError, match='database "nowhere" does not exist'):
        schema.upgrade(postgres_url.rpartition("/")[0] + "/nowhere")


@pytest.mark.postgres
def test_a_server_that_goes_away(postgres_url: str) -> None:
    with open_catalog(postgres_url) as catalog, open_catalog(postgres_url) as other:

        def lose_connection(session: Session) -> None:
            own = session.execute(text("SELECT pg_backend_pid()")).scalar()
            with other.read() as killer:
                killer.execute(text(f"SELECT pg_terminate_backend({own})"))
            add_corpus(session, "harbour")

        with pytest.raises(StorageError, match=r"went away|is lost"), catalog.write() as session:
            lose_connection(session)
        assert corpora(catalog) == [], "the next transaction finds a new connection"


@pytest.mark.postgres
def test_a_text_that_the_server_does_not_take(postgres_url: str) -> None:
    with open_catalog(postgres_url) as catalog, pytest.raises(InputError, match="NUL"), catalog.write() as session:
        add_corpus(session, "har\x00bour")


@pytest.mark.postgres
def test_writers_in_a_deadlock(postgres_url: str) -> None:
    """Each of two writers has what the other one wants: one goes on, the other is told to try again."""
    barrier = threading.Barrier(2, timeout=20)
    errors: list[BusyError] = []

    def work(names: tuple[str, str]) -> None:
        with open_catalog(postgres_url) as catalog:
            try:
                with catalog.write() as session:
                    add_corpus(session, names[0])
                    barrier.wait()
                    add_corpus(session, names[1])
            except BusyError as error:
                errors.append(error)

    threads = [threading.Thread(target=work, args=(names,)) for names in (("one", "two"), ("two", "one"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 1
    assert "waited for each other" in errors[0].message
