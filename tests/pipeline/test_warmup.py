"""Warm-up: a task adapter is made once, catalogued, and every document starts from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.catalog.task_adapters import get_task_adapter, list_task_adapters
from registry.errors import InputError, IntegrityError, NotFoundError, UsageError
from registry.pipeline.build import BuildSummary
from registry.pipeline.opened import opened
from registry.pipeline.query import open_asker
from registry.pipeline.recipes import RecipeRequest
from registry.pipeline.warmup import WarmupRequest, WarmupSummary, warm_up
from registry.progress import Silent
from registry.settings import Home

Warm = Callable[..., WarmupSummary]


@pytest.fixture
def warm(home: Home, tiny_model_path: Path, tmp_path: Path) -> Warm:
    """A function that makes a task adapter of the shape of the sample's adapters."""

    def run(name: str = "", *, rank: int = 2, questions: int = 9) -> WarmupSummary:
        rows = [{"question": f"Who is number {n}?", "answers": [f"number {n}"]} for n in range(questions)]
        (tmp_path / "warm.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        recipe = RecipeRequest(base_model=str(tiny_model_path), dtype="float32", settings={"rank": rank})
        return warm_up(home, WarmupRequest(tmp_path / "warm.jsonl", name, recipe=recipe, device="cpu"), Silent())

    return run


def test_it_is_catalogued_once(home: Home, warm: Warm) -> None:
    first, again = warm("style"), warm("style")
    assert first.task_adapter.digest == again.task_adapter.digest
    with opened(home) as registry, registry.catalog.read() as session:
        (kept,) = list_task_adapters(session)
        assert get_task_adapter(session, "style") == kept
    assert (kept.questions, len(kept.question_digests), kept.training.examples) == (9, 9, 9)
    assert kept.training.last_loss < kept.training.first_loss


def test_documents_start_from_it(home: Home, warm: Warm, run_build: Callable[..., BuildSummary]) -> None:
    plain = run_build()
    digest = warm("style").task_adapter.digest
    warmed = run_build(settings={"task_adapter": "style"})
    assert warmed.version.recipe_digest != plain.version.recipe_digest
    assert (warmed.trained, warmed.version.number) == (warmed.documents, 2)
    again = run_build(settings={"task_adapter": digest[:8]})
    assert (again.trained, again.version.digest) == (0, warmed.version.digest)
    kept = run_build()  # the corpus keeps its recipe
    assert (kept.trained, kept.created) == (0, False)
    assert run_build(settings={"task_adapter": ""}).version.recipe_digest == plain.version.recipe_digest
    with open_asker(home, "default@v2", device="cpu") as asker:
        assert asker.recipe.task_adapter == digest
        body = bytes(asker.common())
    with open_asker(home, "default@v1", device="cpu") as asker:
        assert bytes(asker.common()) != body  # the mean of what started from nothing


def test_another_shape_is_refused(warm: Warm, run_build: Callable[..., BuildSummary]) -> None:
    warm("wide", rank=3)
    with pytest.raises(UsageError, match="was trained with rank 3, and this recipe has 2"):
        run_build(settings={"task_adapter": "wide"})
    with pytest.raises(NotFoundError, match="there is no task adapter 'nothing'"):
        run_build(settings={"task_adapter": "nothing"})


def test_a_lost_one_says_how_it_is_made_again(home: Home, warm: Warm, run_build: Callable[..., BuildSummary]) -> None:
    made = warm("style")
    for pack in Path(home.packs_url).rglob("*.safetensors"):
        pack.unlink()
    with pytest.raises(IntegrityError):
        run_build(settings={"task_adapter": "style"})
    run_build()  # forgets the pack that is lost
    with pytest.raises(IntegrityError, match="lies in no pack") as caught:
        run_build(settings={"task_adapter": "style"})
    assert caught.value.hint is not None
    assert "pragreg warmup" in caught.value.hint
    assert warm("style").task_adapter.digest == made.task_adapter.digest
    assert run_build(settings={"task_adapter": "style"}).trained


def test_questions_without_answers_teach_nothing(home: Home, tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl").write_text('{"_id": "1", "text": "Who?"}\n')
    with pytest.raises(InputError, match="1 questions have no answer"):
        warm_up(home, WarmupRequest(tmp_path / "queries.jsonl"), Silent())
    with pytest.raises(UsageError, match="cannot be the name"):
        warm_up(home, WarmupRequest(tmp_path / "queries.jsonl", "A B"), Silent())
