"""A small registry with something to say in every report: two corpora, three recipes, queries, evaluations."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

from registry.catalog.engine import Catalog
from registry.catalog.evaluations import EvaluationRecord, ResultRecord, add_evaluation
from registry.catalog.members import members_by_document
from registry.catalog.models import utc_now
from registry.catalog.queries import log_query
from registry.catalog.recipes import add_recipe
from registry.catalog.references import resolve
from registry.digests import sha256_hex
from registry.recipe import Recipe
from registry.records import Answer, Document, Hit, Place, PlacedDocument
from tests.catalog.workshop import BASE_MODEL, Workshop, placed

TWIN = PlacedDocument(Document.of("The First Beacon", placed(0).document.text), Place("annals.md", 0, None))
"""The text of beacon 0 under another title."""
AGAIN = placed(1, source="copy.jsonl", ordinal=7)
"""Beacon 1 at a second place."""
NEWER = Recipe(base_model=BASE_MODEL.fingerprint, rank=8, epochs=2)


def fill(catalog: Catalog) -> None:
    """Build handbook@v1 and @v2 by the default recipe, and then press@v1 by ``NEWER``; ask, evaluate, collect one."""
    workshop = Workshop(catalog)
    workshop.build([placed(number) for number in range(5)])
    workshop.build([*(placed(number) for number in range(1, 7)), placed(0), TWIN, AGAIN])
    with catalog.write() as session:
        add_recipe(session, NEWER)
    workshop.recipe = NEWER
    workshop.build([placed(number, source="press.jsonl") for number in range(20, 23)], corpus="press")
    with catalog.write() as session:
        for number in (1, 2):
            session.execute(
                text("UPDATE adapters SET last_loss = :loss, elapsed_seconds = :seconds WHERE document_id = :number"),
                {"loss": 0.5 * number, "seconds": 4.0**number, "number": number},
            )
        session.execute(text("UPDATE adapters SET build_id = (SELECT min(id) FROM builds)"))
        _ask(session, "handbook@v2", "Who lit beacon 1?", (1, 2))
        _ask(session, "press@v1", "Who lit beacon 21?", (21,), slower=10.0)
        for version, f1 in (("handbook@v1", 0.5), ("handbook@v2", 0.75)):
            _evaluate(session, version, f1)
        session.execute(text("DELETE FROM adapter_locations WHERE adapter_id = (SELECT max(id) FROM adapters)"))


def _ask(session: Session, version: str, question: str, numbers: tuple[int, ...], *, slower: float = 1.0) -> None:
    resolved = resolve(session, version)
    documents = [placed(number).document for number in numbers]
    found = members_by_document(session, resolved, [document.digest for document in documents])
    hits = tuple(
        Hit(rank, 3.0 / rank, document, found[document.digest][1]) for rank, document in enumerate(documents, start=1)
    )
    answer = Answer(
        question=question,
        answer="keeper number 1",
        version=version,
        version_digest=resolved.digest,
        recipe_digest=resolved.recipe_digest,
        base_model=BASE_MODEL.fingerprint,
        mode="prag",
        hits=hits,
        weights=tuple(1 / len(hits) for _ in hits),
        prompt_tokens=20,
        answer_tokens=5,
        milliseconds={"search": 1.0, "load": 2.0 * slower, "decode": 30.0 * slower}
        | ({"merge": 0.5, "inject": 0.5, "prefill": 4.0} if slower > 1 else {}),
    )
    log_query(session, answer)


def _evaluate(session: Session, version: str, f1: float) -> None:
    results = tuple(
        ResultRecord(mode, k, "", "", 10, 40.0, 120.0, 300.0, {"f1": (value, value - 0.1, value + 0.1)})
        for mode, k, value in (("closed-book", 0, 0.2), ("prag", 3, f1))
    )
    record = EvaluationRecord(
        version=version,
        recipe_digest=resolve(session, version).recipe_digest,
        questions_name="questions.jsonl",
        questions_digest=sha256_hex(b"questions"),
        questions=10,
        sample=None,
        seed=0,
        gold=False,
        dtype="float32",
        device="cpu",
        program_version="0",
        created_at=utc_now(),
        folder="",
        results=results,
    )
    add_evaluation(session, record)
