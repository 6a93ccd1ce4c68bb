"""A catalog in which every table has rows, with values that databases keep differently."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

from sqlalchemy import func, insert, select

from registry.catalog.aliases import set_alias
from registry.catalog.api_keys import create_key, revoke_key, touch_key
from registry.catalog.augmentations import add_augmentations
from registry.catalog.builds import stage
from registry.catalog.engine import Catalog
from registry.catalog.evaluations import EvaluationRecord, ResultRecord, add_evaluation
from registry.catalog.members import member_digests
from registry.catalog.models import Base, BuildRow
from registry.catalog.pins import pin
from registry.catalog.queries import log_query
from registry.catalog.references import resolve
from registry.catalog.remotes.publishing import member_records
from registry.catalog.remotes.receiving import add_records
from registry.catalog.remotes.remotes import add_remote_locations, save_remote
from registry.catalog.remotes.source_names import save_names
from registry.catalog.task_adapters import add_task_adapter
from registry.catalog.versions import assign_adapters
from registry.digests import sha256_hex
from registry.published import FileRef, Member
from registry.records import Answer, Augmentation, Document, Hit, Place, PlacedDocument, QAPair, TaskAdapter
from tests.catalog.workshop import (
    ADAPTER_BYTES,
    BASE_MODEL,
    TRAINING,
    Workshop,
    augmentation_of,
    document,
    encoded_adapter,
    pack_of,
    placed,
)

ODD = Document.of("Ünruh 灯台 🗼", 'A "beacon"\twith\\backslashes,\nlines, \\N, \\. and e\u0301 — ' + "x" * 3_000)
LARGEST = 2**63 - 1


def fill(catalog: Catalog) -> Workshop:
    """Give every table rows, as all commands together would; one build is still running."""
    workshop = Workshop(catalog)
    odd = PlacedDocument(ODD, Place("Küste #1.jsonl", 0, None))
    workshop.build([*(placed(number) for number in range(6)), odd])
    workshop.build([*(placed(number) for number in range(2, 9)), odd], take=lambda item: int(item == document(4)))
    workshop.build([placed(number) for number in range(3)], corpus="mill")
    with catalog.write() as session:
        version = resolve(session, "handbook@v1")
        set_alias(session, version, "production", who="ada")
        pin(session, version, reason="an audit", who="ada")
        touch_key(session, create_key(session, "chat", ("ask", "search:handbook"))[0].key_id)
        create_key(session, "left")
        revoke_key(session, "left")
        # A model may generate a NUL: JSON spells it as an escape, so it can be kept anywhere.
        generated = Augmentation(
            ODD.digest, sha256_hex(b"asked twice"), "self", "2", ("\x00 \ud7ff",), (QAPair("Où?", "là", "Là-bas."),)
        )
        add_augmentations(session, [generated])
        row = select(BuildRow.corpus_id, BuildRow.recipe_id).limit(1)
        corpus, recipe = session.execute(row).one()
        session.execute(
            insert(BuildRow).values(
                corpus_id=corpus,
                recipe_id=recipe,
                message="",
                who="ada",
                host="mill",
                pid=2**31,
                status="failed",
                error="",
                started_at=datetime(1969, 7, 20, 20, 17, 40, tzinfo=timezone(timedelta(hours=-5))),
                finished_at=datetime(2500, 1, 1, 0, 0, 0, 7, tzinfo=UTC),
                size_bytes=LARGEST,
            )
        )
    _evaluate(workshop)
    _ask(workshop)
    _exchange(workshop)
    with catalog.write() as session:
        running = workshop.begin(session, "mill", pid=4_000_000)
        stage(session, running, [placed(1), placed(2)])
        assign_adapters(session, running, workshop.encode(session, [document(1)]).items())
    return workshop


def counts(catalog: Catalog) -> dict[str, int]:
    """Return how many rows every table has."""
    with catalog.read() as session:
        query = {table.name: select(func.count()).select_from(table) for table in Base.metadata.sorted_tables}
        return {name: session.scalar(counting) or 0 for name, counting in query.items()}


def _evaluate(workshop: Workshop) -> None:
    scores = {"f1": (1 / 3, 1e-300, 0.1 + 0.2), "exact_match": (0.0, -0.0, 1e300)}
    results = [
        ResultRecord(mode, k, merge, kind, 12, 41.5, 1e-9, 160.125, scores)
        for mode, k, merge, kind in (("prag", 3, "score", ""), ("prag", 3, "score", "Brücke"), ("rag", 3, "", ""))
    ]
    for sample, gold in ((None, False), (12, True)):
        record = EvaluationRecord(
            version="handbook@v2",
            recipe_digest=workshop.recipe.digest,
            questions_name="coast.jsonl",
            questions_digest=sha256_hex(b"coast"),
            questions=12,
            sample=sample,
            seed=-7,
            gold=gold,
            dtype="bfloat16",
            device="cpu",
            program_version="0.2.0",
            created_at=datetime(2026, 3, 1, 12, 30, 15, 250, tzinfo=UTC),
            folder="",
            results=tuple(results),
        )
        with workshop.catalog.write() as session:
            add_evaluation(session, record)


def _exchange(workshop: Workshop) -> None:
    """Have a corpus in a repository, and one of its documents only by its digest."""
    withheld = document(99)
    with workshop.catalog.write() as session:
        pairs = list(member_digests(session, resolve(session, "mill")))
        remote = save_remote(
            session,
            corpus="mill",
            endpoint="https://hub.example",
            repository="ada/mühle",
            commit_id="0f" * 20,
            root='{"corpus": "mühle"}',
            is_lazy=True,
            pulled_at=datetime(2026, 3, 1, 12, 30, 15, 250, tzinfo=UTC),
        )
        save_names(session, remote, {"/home/ada/Küste #1.jsonl": "Küste #1.jsonl"})
        pack = FileRef(sha256_hex(b"a pack"), LARGEST)
        (record, *_) = member_records(session, pairs, "all")
        augmentation = augmentation_of(withheld)
        adapter = encoded_adapter(augmentation, workshop.recipe)
        received = replace(
            record,
            document_digest=withheld.digest,
            augmentation_digest=augmentation.digest,
            adapter_digest=adapter.digest,
        )
        add_records(session, [received])
        for number, (document_digest, adapter_digest) in enumerate([*pairs, (withheld.digest, adapter.digest)]):
            member = Member(document_digest, adapter_digest, 1, None, document_digest, False, (), 9, pack, number, pack)
            add_remote_locations(session, remote, [member])


def _ask(workshop: Workshop) -> None:
    with workshop.catalog.write() as session:
        warmed = TaskAdapter(
            digest=sha256_hex(b"warm-up"),
            recipe_digest=workshop.recipe.digest,
            name="trivia",
            questions_digest=sha256_hex(b"questions"),
            question_digests=(sha256_hex(b"one"), sha256_hex(b"two")),
            questions=2,
            parameters=250,
            size_bytes=ADAPTER_BYTES,
            training=TRAINING,
            created_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
        )
        add_task_adapter(session, warmed, pack_of([warmed.digest]))
        adapters = workshop.encode(session, [document(1), ODD])
        version = resolve(session, "handbook@v1")
        answer = Answer(
            question="Who lit it?",
            answer="nobody\x00",
            mode="prag",
            version=version.reference,
            version_digest=version.digest,
            recipe_digest=workshop.recipe.digest,
            base_model=BASE_MODEL.fingerprint,
            hits=(Hit(1, 3.25, document(1), adapters[document(1).digest]), Hit(2, 0.1, ODD, adapters[ODD.digest])),
            weights=(0.7, 0.3),
            prompt_tokens=20,
            answer_tokens=3,
            milliseconds={"search": 1.5, "decode": 90.1},
        )
        log_query(session, answer)
