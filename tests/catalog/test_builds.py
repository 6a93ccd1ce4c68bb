from __future__ import annotations

from datetime import datetime

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.exc import IntegrityError as ConstraintError

from registry.catalog.builds import (
    BuildCounts,
    StagedCounts,
    begin_build,
    corpus_language,
    find_holder,
    finish_build,
    stage,
    staged_counts,
    staged_documents,
)
from registry.catalog.listing import list_builds, show_build
from registry.catalog.models import BuildAdapterRow, BuildItemRow, BuildRow, DocumentRow
from registry.catalog.versions import assign_adapters, commit_version
from registry.errors import BusyError, NotFoundError, UsageError
from registry.records import Document, Place, PlacedDocument, StagedDocument
from tests.catalog.workshop import Workshop, document, placed


def count_staging(workshop: Workshop) -> int:
    with workshop.catalog.read() as session:
        return sum(
            session.scalar(select(func.count()).select_from(row)) or 0 for row in (BuildItemRow, BuildAdapterRow)
        )


def test_a_corpus_is_built_by_one_process_at_a_time(workshop: Workshop) -> None:
    with workshop.catalog.write() as session:
        first = workshop.begin(session, pid=4711)
    with (
        pytest.raises(BusyError, match=rf"build {first} by ada on mill, process 4711, since 20\d\d-"),
        workshop.catalog.write() as session,
    ):
        workshop.begin(session, alive=True)
    with workshop.catalog.write() as session:
        assert workshop.begin(session, "another", alive=True) > first


def test_who_holds_a_corpus_is_said_to_whom_it_keeps_out(workshop: Workshop) -> None:
    def holder(host: str, *, alive: bool = True, take_over: bool = False, corpus: str = "handbook") -> str | None:
        with workshop.catalog.read() as session:
            found = find_holder(session, corpus, host=host, is_alive=lambda *_: alive, take_over=take_over)
        return None if found is None else str(found)

    assert holder("mill") is None
    with workshop.catalog.write() as session:
        build_id = workshop.begin(session, pid=4711)
    named = holder("mill")
    assert named is not None
    assert named.startswith(f"build {build_id} by ada on mill, process 4711, since 20")
    assert holder("quay") == named
    assert holder("mill", take_over=True) == named
    assert holder("quay", take_over=True) is None
    assert holder("mill", alive=False) is None
    assert holder("mill", corpus="another") is None


def test_a_dead_build_is_taken_over(workshop: Workshop) -> None:
    asked: list[tuple[str, int, datetime]] = []

    def is_alive(host: str, pid: int, started_at: datetime) -> bool:
        asked.append((host, pid, started_at))
        return False

    with workshop.catalog.write() as session:
        dead = workshop.begin(session, pid=4711)
        stage(session, dead, [placed(1), placed(2)])
        assign_adapters(session, dead, workshop.encode(session, [document(1)]))
    assert count_staging(workshop) == 3
    with workshop.catalog.write() as session:
        mine = begin_build(
            session, "handbook", recipe_digest=workshop.recipe.digest, who="bo", host="quay", pid=1, is_alive=is_alive
        )
    with workshop.catalog.read() as session:
        assert asked == [("mill", 4711, show_build(session, dead).started_at)]
    assert count_staging(workshop) == 0
    with workshop.catalog.read() as session:
        assert [line.status for line in list_builds(session)] == ["running", "interrupted"]
        assert show_build(session, dead).finished_at is not None
    for use in (
        lambda session: finish_build(session, dead, status="finished", counts=BuildCounts()),
        lambda session: commit_version(session, dead, {}, recipe_digest=workshop.recipe.digest, message=""),
    ):
        with pytest.raises(BusyError, match="took it for dead"), workshop.catalog.write() as session:
            use(session)
    with workshop.catalog.write() as session:
        finish_build(session, mine, status="failed", counts=BuildCounts(skipped=3), error="no room")
    with workshop.catalog.read() as session:
        line = show_build(session, mine)
    assert (line.status, line.error, line.skipped, line.who, line.version) == ("failed", "no room", 3, "bo", None)


def test_a_build_on_another_host_is_ended_only_by_taking_over(workshop: Workshop) -> None:
    def begin(host: str, *, take_over: bool) -> int:
        with workshop.catalog.write() as session:
            return begin_build(
                session,
                "handbook",
                recipe_digest=workshop.recipe.digest,
                who="bo",
                host=host,
                pid=7,
                is_alive=lambda *_: True,
                take_over=take_over,
            )

    with workshop.catalog.write() as session:
        lost = workshop.begin(session, pid=4711)
    with pytest.raises(BusyError) as refused:
        begin("quay", take_over=False)
    assert "pragreg build SOURCE... --corpus handbook --take-over" in (refused.value.hint or "")
    # A process that is seen to run here can be stopped here.
    with pytest.raises(BusyError) as refused:
        begin("mill", take_over=True)
    assert "kill 4711" in (refused.value.hint or "")
    mine = begin("quay", take_over=True)
    with workshop.catalog.read() as session:
        assert [(line.build_id, line.status) for line in list_builds(session)] == [
            (mine, "running"),
            (lost, "interrupted"),
        ]
        assert "bo on quay took over" in (show_build(session, lost).error or "")


def test_the_database_itself_allows_one_running_build(workshop: Workshop) -> None:
    with workshop.catalog.write() as session:
        workshop.begin(session)
    columns = [column for column in BuildRow.__table__.columns if column.name != "id"]
    twin = insert(BuildRow).from_select([column.name for column in columns], select(*columns))
    with pytest.raises(ConstraintError), workshop.catalog.write() as session:
        session.execute(twin)


def test_finishing_drops_the_staging_rows(workshop: Workshop) -> None:
    workshop.build([placed(1)])
    assert count_staging(workshop) == 0
    with workshop.catalog.read() as session:
        (line,) = list_builds(session)
    assert (line.status, line.documents, line.trained, line.version) == ("finished", 1, 1, 1)
    with pytest.raises(NotFoundError), workshop.catalog.write() as session:
        finish_build(session, 999_999, status="failed", counts=BuildCounts())


def test_the_same_text_twice_is_one_document_with_two_places(workshop: Workshop) -> None:
    again = PlacedDocument(document(1), Place("islands.csv", 7, None))
    with workshop.catalog.write() as session:
        build_id = workshop.begin(session)
        stage(session, build_id, [placed(1), placed(2), again])
        stage(session, build_id, [placed(2), placed(1, source="islands.csv", ordinal=8)])
    with workshop.catalog.read() as session:
        assert staged_counts(session, build_id) == StagedCounts(documents=2, places=4, sources=2)
        found = list(staged_documents(session, build_id))
        chosen = list(staged_documents(session, build_id, [document(2).digest]))
    assert found == sorted(found, key=lambda item: (len(item.document.text), item.document.digest))
    assert {item.document.digest: item.record_ids for item in found} == {
        document(1).digest: ("beacon-1",),
        document(2).digest: ("beacon-2",),
    }
    assert chosen == [StagedDocument(document(2), ("beacon-2",))]


def test_documents_are_staged_in_order_of_length_and_digest(workshop: Workshop) -> None:
    texts = [Document.of("Lamp", "o" * (1 + number % 7) + f" {number:04}") for number in range(2_500)]
    with workshop.catalog.write() as session:
        build_id = workshop.begin(session)
        stage(session, build_id, (PlacedDocument(text, Place("lamps", n)) for n, text in enumerate(texts)))
    with workshop.catalog.read() as session:
        found = [item.document for item in staged_documents(session, build_id)]
    assert found == sorted(texts, key=lambda text: (len(text.text), text.digest))


def test_staging_an_unchanged_corpus_adds_no_documents(workshop: Workshop) -> None:
    workshop.build([placed(number) for number in range(20)])
    with workshop.catalog.write() as session:
        build_id = workshop.begin(session)
        stage(session, build_id, [placed(number) for number in range(25)])
    with workshop.catalog.read() as session:
        assert session.scalar(select(func.count(DocumentRow.id))) == 25


def test_nothing_staged(workshop: Workshop) -> None:
    with workshop.catalog.write() as session:
        build_id = workshop.begin(session)
        stage(session, build_id, [])
    with workshop.catalog.read() as session:
        assert staged_counts(session, build_id) == StagedCounts(0, 0, 0)
        assert list(staged_documents(session, build_id)) == []


def test_names_that_no_corpus_may_have(workshop: Workshop) -> None:
    for name in ("", "hand book", "a@b", "../up", ".hidden", "x" * 65, "münze"):
        with pytest.raises(UsageError, match="name of a corpus"), workshop.catalog.write() as session:
            workshop.begin(session, name)


def test_a_corpus_keeps_its_language(workshop: Workshop) -> None:
    def begin(corpus: str, language: str | None) -> None:
        with workshop.catalog.write() as session:
            begin_build(
                session,
                corpus,
                recipe_digest=workshop.recipe.digest,
                who="ada",
                host="mill",
                pid=1,
                is_alive=lambda *_: False,
                language=language,
            )

    begin("kustbuch", "de")
    begin("kustbuch", None)
    begin("coast", None)
    with pytest.raises(UsageError, match="'de', not 'en'"):
        begin("kustbuch", "en")
    with workshop.catalog.read() as session:
        assert [corpus_language(session, name) for name in ("kustbuch", "coast", "none")] == ["de", "en", None]


def test_a_build_needs_a_known_recipe(workshop: Workshop) -> None:
    with pytest.raises(NotFoundError, match="recipe"), workshop.catalog.write() as session:
        begin_build(session, "coast", recipe_digest="0" * 64, who="", host="", pid=1, is_alive=lambda *_: False)
