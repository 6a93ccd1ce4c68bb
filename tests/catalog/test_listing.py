from __future__ import annotations

from datetime import UTC

import pytest

from registry.catalog.augmentations import add_augmentations
from registry.catalog.builds import stage
from registry.catalog.listing import (
    list_adapters,
    list_builds,
    list_corpora,
    list_documents,
    list_queries,
    show_adapter,
    show_build,
    show_corpus,
    show_document,
    show_query,
    summary,
)
from registry.catalog.queries import STEPS, log_query
from registry.catalog.versions import members, resolve
from registry.errors import NotFoundError
from registry.records import Answer, Document, Hit, Mode, Place, PlacedDocument
from tests.catalog.workshop import BASE_MODEL, Workshop, augmentation_of, document, pack_of, placed


def answer(workshop: Workshop, *, mode: Mode = "prag", question: str = "Who lit beacon 1?") -> Answer:
    with workshop.catalog.read() as session:
        version = resolve(session, "handbook")
        found = list(members(session, version))[:2]
    hits = tuple(
        Hit(rank, 9.5 / rank, item, adapter) for rank, (item, adapter) in enumerate(found, 1) if mode != "closed-book"
    )
    return Answer(
        question=question,
        answer="keeper number 1",
        mode=mode,
        version=version.reference,
        version_digest=version.digest,
        recipe_digest=version.recipe_digest,
        base_model=BASE_MODEL.fingerprint,
        hits=hits,
        weights=(0.5, 0.5) if mode == "prag" else (),
        prompt_tokens=11,
        answer_tokens=4,
        milliseconds={step: number + 0.25 for number, step in enumerate(STEPS)} if mode == "prag" else {"decode": 8.0},
    )


def test_documents(workshop: Workshop) -> None:
    workshop.build([placed(number) for number in range(12)])
    workshop.build([*[placed(number) for number in range(1, 12)], placed(1, source="again.csv", ordinal=0)])
    with workshop.catalog.read() as session:
        found = list_documents(session)
        assert len(found) == 12
        assert {line.digest for line in found} == {document(number).digest for number in range(12)}
        newest = list_documents(session, reference="handbook")
        assert {line.digest for line in newest} == {document(number).digest for number in range(1, 12)}
        line = next(line for line in newest if line.digest == document(1).digest)
        assert (line.title, line.places, line.source_uri) == ("Beacon 1", 2, "again.csv")
        assert line.excerpt == document(1).text[:160]
        assert line.characters == len(document(1).text)
        old = {line.digest: line for line in list_documents(session, reference="handbook@v1")}
        assert len(old) == 12
        assert (old[document(1).digest].places, old[document(1).digest].source_uri) == (1, "coast.jsonl")
        gone = next(line for line in found if line.digest == document(0).digest)
        assert (gone.places, gone.source_uri) == (0, None)


def test_pages(workshop: Workshop) -> None:
    workshop.build([placed(number) for number in range(12)])
    with workshop.catalog.read() as session:
        for listed in (list_documents, list_adapters):
            whole = listed(session, limit=None)
            assert [listed(session, limit=5, offset=start) for start in (0, 5, 10)] == [
                whole[:5],
                whole[5:10],
                whole[10:],
            ]
            assert listed(session, limit=None, offset=10) == whole[10:]


def test_titles_are_searched_as_text_and_in_any_case(workshop: Workshop) -> None:
    titles = ["100% Wool", "1000 Wools", "ÉTÉ à Ostrel", "under_score", "underscore"]
    items = [PlacedDocument(Document.of(title, f"About {title}."), Place("t", n)) for n, title in enumerate(titles)]
    workshop.build(items)
    with workshop.catalog.read() as session:
        for wanted, found in (
            ("100% w", titles[:1]),
            ("été", titles[2:3]),
            ("r_s", titles[3:4]),
            ("UNDER", titles[3:]),
        ):
            assert {line.title for line in list_documents(session, title=wanted)} == set(found)
            assert {line.title for line in list_adapters(session, title=wanted)} == set(found)


def test_adapters(workshop: Workshop) -> None:
    workshop.build([placed(1), placed(2)])
    version, _ = workshop.build([placed(1), placed(2)], take=lambda item: int(item == document(1)))
    with workshop.catalog.read() as session:
        assert len(list_adapters(session)) == 3
        current = {line.digest: line for line in list_adapters(session, reference="handbook")}
        assert set(current) == {adapter for _, adapter in members(session, version)}
        (line,) = [line for line in current.values() if line.document_digest == document(1).digest]
        assert (line.title, line.size_bytes, line.first_loss, line.last_loss) == ("Beacon 1", 1000, 2.75, 0.125)
        assert line.pack_digest == pack_of([line.digest]).digest
        assert line.created_at.tzinfo is UTC
        assert len(list_adapters(session, document=document(1).digest[:12])) == 2
        assert len(list_adapters(session, recipe=workshop.recipe.digest[:8])) == 3
        for wrong in ({"recipe": "0" * 64}, {"document": "xyz"}, {"reference": "nothing"}):
            with pytest.raises(NotFoundError):
                list_adapters(session, **wrong)


def test_corpora(workshop: Workshop) -> None:
    workshop.build([placed(1)], corpus="coast")
    version, _ = workshop.build([placed(1), placed(2)], corpus="coast")
    with workshop.catalog.write() as session:
        workshop.begin(session, "atlas")
    with workshop.catalog.read() as session:
        atlas, coast = list_corpora(session)
        assert (atlas.name, atlas.digest, atlas.version, atlas.versions, atlas.documents) == ("atlas", None, None, 0, 0)
        assert (coast.name, coast.digest, coast.version, coast.versions) == ("coast", version.digest, 2, 2)
        assert (coast.documents, coast.recipe_digest) == (2, workshop.recipe.digest)
        shown = show_corpus(session, "coast")
        assert (shown.digest, shown.versions[-1], shown.aliases) == (version.digest, version, {"latest": 2})
        assert [move.to_version for move in shown.alias_moves] == [1, 2]
        assert show_corpus(session, "atlas").digest is None
        with pytest.raises(NotFoundError):
            show_corpus(session, "cookbook")


def test_builds(workshop: Workshop) -> None:
    workshop.build([placed(1)], corpus="coast")
    with workshop.catalog.write() as session:
        workshop.begin(session, "atlas")
    with workshop.catalog.read() as session:
        assert [(line.corpus, line.status, line.version) for line in list_builds(session)] == [
            ("atlas", "running", None),
            ("coast", "finished", 1),
        ]
        assert [line.corpus for line in list_builds(session, status="finished")] == ["coast"]
        assert [line.corpus for line in list_builds(session, corpus="atlas")] == ["atlas"]
        (line,) = list_builds(session, corpus="coast")
        assert show_build(session, str(line.build_id)) == line
        for wrong in ("999999", "first", "-1", "²", "9" * 30):
            with pytest.raises(NotFoundError):
                show_build(session, wrong)


def test_a_document_is_shown_whole(workshop: Workshop) -> None:
    workshop.build([placed(1), placed(2)])
    with workshop.catalog.write() as session:
        stage(session, workshop.begin(session, "other"), [placed(1)])
        add_augmentations(session, [augmentation_of(document(1), request="asked again")])
    with workshop.catalog.read() as session:
        shown = show_document(session, document(1).digest[:9])
        assert (shown.digest, shown.title, shown.text) == (
            document(1).digest,
            document(1).title,
            document(1).text,
        )
        (place,) = shown.places
        assert (place.corpus, place.source_uri, place.ordinal, place.record_id) == (
            "handbook",
            "coast.jsonl",
            1,
            "beacon-1",
        )
        (augmentation,) = shown.augmentations
        assert augmentation.pairs == augmentation_of(document(1)).pairs
        assert [line.document_digest for line in shown.adapters] == [document(1).digest]
        assert [(line.corpus, line.from_version) for line in shown.memberships] == [("handbook", 1)]


def test_an_adapter_is_shown_whole(workshop: Workshop) -> None:
    version, _ = workshop.build([placed(1)])
    with workshop.catalog.read() as session:
        ((_, digest),) = members(session, version)
        shown = show_adapter(session, digest[:9])
    assert shown.digest == shown.adapter.digest == digest
    assert shown.location == pack_of([digest]).adapters[0]
    assert [(line.corpus, line.document_digest) for line in shown.memberships] == [("handbook", document(1).digest)]


def test_queries_are_logged_with_all_that_explains_them(workshop: Workshop) -> None:
    workshop.build([placed(1), placed(2), placed(3)])
    asked = answer(workshop)
    with workshop.catalog.write() as session:
        number = log_query(session, asked, "handbook")
    with workshop.catalog.read() as session:
        shown = show_query(session, number)
    assert (shown.line.question, shown.line.answer, shown.line.mode) == (asked.question, asked.answer, "prag")
    assert (shown.line.version, shown.recipe_digest, shown.base_model) == (
        "handbook@v1",
        workshop.recipe.digest,
        BASE_MODEL.fingerprint,
    )
    assert (shown.hits, shown.weights) == (asked.hits, asked.weights)
    assert shown.milliseconds == asked.milliseconds
    assert shown.line.elapsed_ms == sum(asked.milliseconds.values())
    assert (shown.prompt_tokens, shown.answer_tokens) == (11, 4)


def test_queries_of_every_mode(workshop: Workshop) -> None:
    workshop.build([placed(1), placed(2)])
    rag = answer(workshop, mode="rag", question="Where is 100% of it?")
    closed = Answer("Who?", "A\x00 keeper", "closed-book", "", "", "", BASE_MODEL.fingerprint, (), (), 3, 1, {})
    with workshop.catalog.write() as session:
        numbers = [log_query(session, item) for item in (rag, closed, answer(workshop))]
        log_query(session, closed, "handbook")
    with workshop.catalog.read() as session:
        assert [line.mode for line in list_queries(session)] == ["closed-book", "prag", "closed-book", "rag"]
        assert [line.query_id for line in list_queries(session, text="100% OF")] == numbers[:1]
        assert [line.query_id for line in list_queries(session, mode="prag")] == numbers[2:]
        assert len(list_queries(session, corpus="handbook")) == 3
        assert len(list_queries(session, limit=1, offset=1)) == 1
        assert show_query(session, numbers[0]).weights == (None, None)
        shown = show_query(session, numbers[1])
        assert (shown.line.version, shown.hits, shown.milliseconds, shown.recipe_digest) == (None, (), {}, None)
        assert shown.line.answer == "A\ufffd keeper"
        with pytest.raises(NotFoundError, match="there is no query 999999"):
            show_query(session, 999_999)


def test_a_summary_of_everything(workshop: Workshop) -> None:
    with workshop.catalog.read() as session:
        assert summary(session).documents == 0
        assert summary(session).adapters_size_bytes == 0
    workshop.build([placed(1), placed(2)])
    with workshop.catalog.write() as session:
        log_query(session, answer(workshop))
    with workshop.catalog.read() as session:
        found = summary(session)
    assert (found.corpora, found.versions, found.documents, found.sources, found.augmentations) == (1, 1, 2, 1, 2)
    assert (found.recipes, found.base_models, found.builds, found.queries) == (1, 1, 1, 1)
    assert (found.adapters, found.adapters_size_bytes, found.packs, found.packs_size_bytes) == (2, 2000, 1, 2200)
