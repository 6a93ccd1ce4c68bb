"""Warm-up: a task adapter, trained once from questions and answers, from which every document's adapter starts.

It learns what documents have in common, how a question is asked and answered, so that theirs hold what only they say
(arXiv 2501.15915, section 4.4, "warm-up"; the reference trains it on a few hundred pairs).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from registry.base_model import choose_devices, shapes_from_config
from registry.catalog.task_adapters import add_task_adapter, check_task_adapter_name
from registry.digests import json_digest, question_digest
from registry.encoding.pool import Work, encode_groups
from registry.errors import InputError
from registry.evaluation.questions import Question, read_questions
from registry.pipeline.opened import opened
from registry.pipeline.recipes import Chosen, RecipeRequest, complete_recipe, record_recipe
from registry.progress import Progress
from registry.records import Augmentation, Document, EncodedAdapter, EncodingInput, QAPair, TaskAdapter
from registry.settings import DEFAULT_CORPUS, Home
from registry.store.layout import AdapterLayout

WARMUP_EPOCHS = 2
WARMUP_EXAMPLES_PER_STEP = 8
WARMUP_LEARNING_RATE = 1e-3
"""A task adapter sees many questions, each of little: larger steps, fewer rounds, and slower than a document's."""


@dataclass(frozen=True)
class WarmupRequest:
    """What `pragreg warmup` was asked for; ``corpus`` is the one whose last recipe counts where none is named."""

    questions: Path
    name: str = ""
    corpus: str = DEFAULT_CORPUS
    recipe: RecipeRequest = field(default_factory=RecipeRequest)
    device: str = "auto"


@dataclass(frozen=True)
class WarmupSummary:
    """The task adapter that was made; ``created`` is False where it was there already."""

    task_adapter: TaskAdapter
    pack_digest: str
    elapsed_seconds: float


def warm_up(home: Home, request: WarmupRequest, progress: Progress) -> WarmupSummary:
    """Train a task adapter on the questions of a file, each with its first answer, and catalogue it.

    Raises:
        InputError: the question file is wrong, or has questions without answers.
        UsageError: a setting of the recipe or the name is wrong.
        EncodingError: the training failed.
    """
    started = time.perf_counter()
    check_task_adapter_name(request.name)
    questions = read_questions(request.questions)
    if unanswered := [question for question in questions if not question.answers]:
        raise InputError(
            f"{request.questions}: {len(unanswered)} questions have no answer, such as {unanswered[0].question[:80]!r}",
            hint="a warm-up learns from questions with their answers",
        )
    with opened(home) as registry:
        chosen = warmup_recipe(complete_recipe(registry, request.corpus, request.recipe, None, progress), questions)
        record_recipe(registry, chosen)
        adapter = _train(chosen, questions, choose_devices(request.device)[0], progress)
        task_adapter = TaskAdapter(
            digest=adapter.digest,
            recipe_digest=chosen.recipe.digest,
            name=request.name,
            questions_digest=questions_digest(questions),
            question_digests=tuple(question_digest(question.question) for question in questions),
            questions=len(questions),
            parameters=adapter.parameters,
            size_bytes=len(adapter.data),
            training=adapter.training,
            created_at=datetime.now(UTC),
        )
        pack = registry.store(
            lambda: registry.packs.write([(adapter.digest, adapter.data)]),
            lambda session, pack: add_task_adapter(session, task_adapter, pack),
        )
    return WarmupSummary(task_adapter, pack.digest, time.perf_counter() - started)


def warmup_recipe(chosen: Chosen, questions: Sequence[Question]) -> Chosen:
    """Return the recipe of a task adapter for the adapters of ``chosen``: of their shape, trained on bare questions."""
    recipe = replace(
        chosen.recipe,
        augmenter="import",
        rewrites=0,
        pairs=len(questions),
        examples=("qa",),
        loss="answer",
        examples_per_step=WARMUP_EXAMPLES_PER_STEP,
        epochs=WARMUP_EPOCHS,
        learning_rate=WARMUP_LEARNING_RATE,
        task_adapter="",
        freeze_a=False,
        distillation=0.0,
    )
    return replace(chosen, recipe=recipe, start=None)


def questions_digest(questions: Sequence[Question]) -> str:
    """Return the digest of questions with their answers, whatever the file's format."""
    return json_digest([[question.question, list(question.answers)] for question in questions])


def _train(chosen: Chosen, questions: Sequence[Question], device: str, progress: Progress) -> EncodedAdapter:
    # What is trained like a document is one: of no text, and with the questions as its pairs.
    document = Document.of("task adapter", questions_digest(questions))
    pairs = tuple(QAPair(question.question, question.answers[0]) for question in questions)
    augmentation = Augmentation(document.digest, "", "import", "", pairs=pairs)
    shapes = shapes_from_config(chosen.files.folder, chosen.recipe.targets, chosen.recipe.first_layer)
    layout = AdapterLayout.of(shapes, chosen.recipe.rank, chosen.recipe.adapter_dtype)
    progress.start("warming up", None)
    work = Work(chosen.files, chosen.recipe, layout, device)
    groups = encode_groups(work, [[EncodingInput(document, augmentation)]], 1)
    adapter = next(groups)[0]
    groups.close()
    progress.done()
    return adapter
