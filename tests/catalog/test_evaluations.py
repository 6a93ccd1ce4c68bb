"""Evaluations, their results and scores; and the step of the schema that brought them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, column, create_engine, inspect, select, text

from registry.catalog import schema
from registry.catalog.dialect import parse_url
from registry.catalog.engine import Catalog, open_catalog
from registry.catalog.evaluations import (
    EVALUATED_MODES,
    EvaluationRecord,
    ResultRecord,
    add_evaluation,
    get_evaluation,
    list_evaluations,
)
from registry.catalog.models import EvaluationResultRow
from registry.catalog.task_adapters import add_task_adapter, get_task_adapter
from registry.digests import sha256_hex
from registry.errors import NotFoundError
from registry.records import TaskAdapter
from tests.catalog.workshop import ADAPTER_BYTES, TRAINING, Workshop, pack_of, placed

BEFORE, AFTER = "0001_catalog", "0002_task_adapters_evaluations"
NEW_TABLES = {
    "task_adapters",
    "task_adapter_questions",
    "evaluations",
    "evaluation_results",
    "evaluation_scores",
}
FOLLOW_QUALITY = """
SELECT evaluations.version, evaluation_scores.mean, evaluation_scores.low, evaluation_scores.high
FROM corpora
JOIN evaluations ON evaluations.corpus_id = corpora.id
JOIN evaluation_results ON evaluation_results.evaluation_id = evaluations.id
JOIN evaluation_scores ON evaluation_scores.result_id = evaluation_results.id
WHERE corpora.name = 'handbook' AND evaluation_results.mode = 'prag' AND evaluation_results.k = 3
  AND evaluation_results.question_type = '' AND evaluation_scores.measure = 'f1'
ORDER BY evaluations.version
"""


def result(mode: str = "prag", *, f1: float = 0.5, question_type: str = "") -> ResultRecord:
    return ResultRecord(
        mode=mode,
        k=0 if mode == "closed-book" else 3,
        merge="score" if mode in ("prag", "combined") else "",
        question_type=question_type,
        questions=120,
        prompt_tokens=41.5,
        mean_ms=93.25,
        p95_ms=160.125,
        scores={"exact_match": (1 / 3, 0.25, 0.5), "f1": (f1, f1 - 0.125, f1 + 0.125)},
    )


def evaluation(workshop: Workshop, *results: ResultRecord, version: str = "handbook@v1") -> EvaluationRecord:
    return EvaluationRecord(
        version=version,
        recipe_digest=workshop.recipe.digest,
        questions_name="coast-questions.jsonl",
        questions_digest=sha256_hex(b"coast questions"),
        questions=120,
        sample=None,
        seed=7,
        gold=False,
        dtype="bfloat16",
        device="cpu",
        program_version="0.2.0",
        created_at=datetime(2026, 3, 1, 12, 30, 15, 250, tzinfo=UTC),
        folder="evaluations/2026-03-01",
        results=results or (result(),),
    )


def test_an_evaluation_comes_back_as_it_was(workshop: Workshop) -> None:
    workshop.build([placed(1)])
    retrieval = ResultRecord("retrieval", 10, "", "", 118, 0.0, 1.5, 2.5, {"recall_at_10": (0.75, 0.5, 1.0)})
    results = (*(result(mode) for mode in EVALUATED_MODES if mode != "retrieval"), retrieval)
    made = evaluation(workshop, *results, result(question_type="bridge"), replace(result("task-only"), k=0, scores={}))
    drawn = replace(made, sample=50, gold=True, results=())
    with workshop.catalog.write() as session:
        first, second = add_evaluation(session, made), add_evaluation(session, replace(drawn, number=99))
    with workshop.catalog.read() as session:
        assert get_evaluation(session, first) == replace(made, number=first)
        assert get_evaluation(session, str(second)) == replace(drawn, number=second)


def test_the_version_is_what_the_reference_named_then(workshop: Workshop) -> None:
    workshop.build([placed(1)])
    with workshop.catalog.write() as session:
        number = add_evaluation(session, evaluation(workshop, version="handbook"))
    workshop.build([placed(1), placed(2)])
    with workshop.catalog.read() as session:
        assert get_evaluation(session, number).version == "handbook@v1"


def test_the_newest_evaluations_come_first(workshop: Workshop) -> None:
    workshop.build([placed(1)])
    workshop.build([placed(1)], corpus="atlas")
    with workshop.catalog.write() as session:
        numbers = [
            add_evaluation(session, evaluation(workshop, version=version))
            for version in ("handbook@v1", "atlas@v1", "handbook@v1")
        ]
    with workshop.catalog.read() as session:
        assert [item.number for item in list_evaluations(session)] == numbers[::-1]
        assert [item.number for item in list_evaluations(session, "handbook")] == [numbers[2], numbers[0]]
        assert [item.number for item in list_evaluations(session, limit=1, offset=1)] == [numbers[1]]
        assert [item.number for item in list_evaluations(session, "handbook", limit=5, offset=1)] == [numbers[0]]
        assert [item.results for item in list_evaluations(session)] == [(result(),)] * 3
        with pytest.raises(NotFoundError, match="no corpus 'unknown'"):
            list_evaluations(session, "unknown")


def test_unknown_evaluations_versions_and_recipes(workshop: Workshop) -> None:
    workshop.build([placed(1)])
    with workshop.catalog.read() as session:
        assert list_evaluations(session) == []
        for wrong in (1, -1, "1", "first", "²", "9" * 40):
            with pytest.raises(NotFoundError, match="there is no evaluation"):
                get_evaluation(session, wrong)
    for unknown in (
        evaluation(workshop, version="handbook@v9"),
        evaluation(workshop, version="unknown"),
        replace(evaluation(workshop), recipe_digest="0" * 64),
    ):
        with workshop.catalog.write() as session, pytest.raises(NotFoundError):
            add_evaluation(session, unknown)


def test_what_no_mean_could_be_taken_of_is_refused(workshop: Workshop) -> None:
    workshop.build([placed(1)])
    for wrong, match in (
        ((result("oracle"),), "not of 'oracle'"),
        ((replace(result(), scores={"f1": (float("nan"), 0.0, 1.0)}),), "f1 of prag is not finite"),
        ((replace(result(), p95_ms=float("inf")),), "p95_ms of prag is not finite"),
        ((result(), result()), "one result of a mode"),
    ):
        with workshop.catalog.write() as session, pytest.raises(ValueError, match=match):
            add_evaluation(session, evaluation(workshop, *wrong))
    with workshop.catalog.read() as session:
        assert list_evaluations(session) == []


def test_the_modes_are_those_of_the_schema() -> None:
    checks = [str(getattr(item, "sqltext", "")) for item in EvaluationResultRow.__table__.constraints]  # type: ignore[attr-defined]
    assert f"mode IN {EVALUATED_MODES}" in checks


def test_quality_over_versions_is_one_query(workshop: Workshop) -> None:
    for number in range(1, 4):
        workshop.build([placed(beacon) for beacon in range(number)])
        workshop.build([placed(beacon) for beacon in range(number)], corpus="atlas")
    with workshop.catalog.write() as session:
        for number in (3, 1, 2):
            results = (result(f1=number / 8), result("rag"), result(question_type="bridge"))
            add_evaluation(session, evaluation(workshop, *results, version=f"handbook@v{number}"))
            add_evaluation(session, evaluation(workshop, *results, version=f"atlas@v{number}"))
    with workshop.catalog.read() as session:
        rows = [tuple(row) for row in session.execute(text(FOLLOW_QUALITY))]
    assert rows == [(number, number / 8, number / 8 - 0.125, number / 8 + 0.125) for number in (1, 2, 3)]


def test_quality_over_versions_is_read_from_indexes(catalog: Catalog) -> None:
    with catalog.read() as session:
        plan = [row.detail for row in session.execute(text(f"EXPLAIN QUERY PLAN {FOLLOW_QUALITY}"))]
    assert len(plan) >= 4
    assert [step for step in plan if step.startswith("SCAN")] == []


def put_a_catalog_of_before(engine: Engine) -> None:
    """One row of what the new tables refer to, as the program of then wrote them."""
    digest, other, moment = "a" * 64, "b" * 64, "'2026-01-02 03:04:05.000000'"
    statements = (
        f"INSERT INTO base_models (fingerprint, reference, architecture, parameters, created_at)"
        f" VALUES ('{digest}', 'tiny/lantern', 'LlamaForCausalLM', 9, {moment})",
        f"INSERT INTO recipes (digest, base_model_id, settings, created_at)"
        f" SELECT '{digest}', id, '{{}}', {moment} FROM base_models",
        f"INSERT INTO corpora (name, language, created_at) VALUES ('handbook', 'en', {moment})",
        f"INSERT INTO packs (digest, size_bytes, created_at) VALUES ('{digest}', 1200, {moment})",
        f"INSERT INTO versions (corpus_id, number, digest, recipe_id, message, documents, created_at)"
        f" SELECT corpora.id, 1, '{other}', recipes.id, 'a build', 0, {moment} FROM corpora, recipes",
    )
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def contents(engine: Engine, columns: dict[str, list[str]]) -> dict[str, list[tuple[object, ...]]]:
    """Return the rows of tables by those columns that there were before."""
    with engine.connect() as connection:
        return {
            table: [
                tuple(row)
                for row in connection.execute(select(*(column(name) for name in names)).select_from(text(table)))
            ]
            for table, names in columns.items()
        }


def test_the_step_keeps_what_there_was(any_empty_url: str) -> None:
    schema.upgrade(any_empty_url, BEFORE)
    engine = create_engine(parse_url(any_empty_url))
    put_a_catalog_of_before(engine)
    names = set(inspect(engine).get_table_names()) - {"alembic_version"}
    tables = {name: [str(one["name"]) for one in inspect(engine).get_columns(name)] for name in names}
    before = contents(engine, tables)
    schema.upgrade(any_empty_url, AFTER)
    assert contents(engine, tables) == before
    assert set(inspect(engine).get_table_names()) == {*tables, *NEW_TABLES, "alembic_version"}
    schema.upgrade(any_empty_url)
    with open_catalog(any_empty_url) as catalog:
        made = TaskAdapter(
            digest="c" * 64,
            recipe_digest="a" * 64,
            name="trivia",
            questions_digest="d" * 64,
            question_digests=("e" * 64,),
            questions=1,
            parameters=250,
            size_bytes=ADAPTER_BYTES,
            training=TRAINING,
            created_at=datetime(2026, 3, 1, tzinfo=UTC),
        )
        with catalog.write() as session:
            add_task_adapter(session, made, pack_of([made.digest]))
        with catalog.read() as session:
            assert get_task_adapter(session, "trivia") == made
    packed = contents(engine, tables)
    assert {name for name in tables if packed[name] != before[name]} == {"packs"}
    schema.downgrade(any_empty_url, BEFORE)
    assert contents(engine, tables) == packed
    assert set(inspect(engine).get_table_names()) == {*tables, "alembic_version"}
    schema.upgrade(any_empty_url)
    assert schema.check(any_empty_url) == []
    assert contents(engine, tables) == packed
    engine.dispose()
