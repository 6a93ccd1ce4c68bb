"""Evaluate: how right the answers to a question file are, by every way of answering, beside controls."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path

from registry.catalog.chunks import chunked
from registry.catalog.evaluations import EvaluationRecord, ResultRecord, add_evaluation, get_evaluation
from registry.catalog.task_adapters import overlapping_questions
from registry.digests import json_digest, question_digest, short
from registry.errors import InputError, UsageError
from registry.evaluation.comparison import EvaluationComparison, compare_evaluations
from registry.evaluation.folder import RESULTS_FILE, EvaluationFolder
from registry.evaluation.latency import TOTAL
from registry.evaluation.plots import f1_against_latency, f1_by_mode
from registry.evaluation.qrels import read_qrels
from registry.evaluation.questions import Question, read_questions
from registry.evaluation.report import markdown, results_lines
from registry.evaluation.results import Evaluation, Judged, Settings, Used, Way, compare_ways, summarise
from registry.evaluation.scores import score
from registry.merging.methods import parse_merge
from registry.pipeline.gold import DEPTH, Asked, judge_retrieval, look_up, own_documents, require_gold, wrong_documents
from registry.pipeline.opened import opened
from registry.pipeline.query import ADAPTER_MODES, Asker, Asking, open_asker
from registry.progress import Progress
from registry.records import CONTROLS, MODES, Answer, Match
from registry.settings import Home

EVALUATED_MODES = (*MODES, *CONTROLS)
WITHOUT_K = ("closed-book", *CONTROLS)
TASK_ONLY = "none+common"
"""The merge that leaves the common part alone."""


@dataclass(frozen=True)
class EvaluationRequest:
    """What `pragreg evaluate` was asked for.

    ``gold`` takes each question's own documents instead of the index's. ``folder`` keeps the answers, so that an
    evaluation that was stopped goes on. ``qrels`` is a file of judgements for retrieval.
    """

    questions: Path
    modes: tuple[str, ...]
    ks: tuple[int, ...] = (3,)
    asking: Asking = field(default_factory=Asking)
    gold: bool = False
    sample: int | None = None
    seed: int = 0
    folder: Path | None = None
    qrels: Path | None = None

    def ways(self) -> tuple[Way, ...]:
        """Return the ways of answering, mode by mode.

        Raises:
            UsageError: a mode is unknown, or the merge does not fit ``k``.
        """
        if unknown := [mode for mode in self.modes if mode not in EVALUATED_MODES]:
            raise UsageError(f"there is no mode {unknown[0]!r}", hint=f"use some of: {', '.join(EVALUATED_MODES)}")
        found: list[Way] = []
        for mode in self.modes:
            for k in (0,) if mode in WITHOUT_K else self.ks:
                found.append(Way(mode, k, str(parse_merge(self.asking.merge, k)) if mode in ADAPTER_MODES else ""))
        return tuple(found)


def evaluate(
    home: Home,
    reference: str,
    request: EvaluationRequest,
    *,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress,
) -> Evaluation:
    """Answer every question in every way, score the answers, and record the results in the catalog.

    Raises:
        InputError: the question file is wrong, a question was trained on by the recipe's task adapter, or ``gold`` is
            asked for documents that the version does not have.
        UsageError: a mode or the merge is wrong, or the folder holds another evaluation.
        NotFoundError: there is no such version.
    """
    ways = request.ways()
    questions = read_questions(request.questions)
    numbers = list(range(1, len(questions) + 1))
    if request.sample is not None and request.sample < len(numbers):
        numbers = sorted(random.Random(request.seed).sample(numbers, request.sample))
    qrels = read_qrels(request.qrels) if request.qrels else {}
    chosen = {number: questions[number - 1] for number in numbers}
    with open_asker(home, reference, device=device, dtype=dtype, progress=progress) as asker:
        _refuse_trained_on(asker, request.questions, chosen.values())
        settings = _settings(asker, request, questions, len(chosen))
        folder = EvaluationFolder.open(request.folder, settings) if request.folder else None
        progress.start("retrieving", len(chosen))
        asked = look_up(asker, chosen, qrels, max(DEPTH, *request.ks))
        progress.done()
        if request.gold:
            require_gold(asker, request.questions, asked)
        judged = _judge(asker, request, ways, asked, folder, progress)
        evaluation = Evaluation(
            settings=settings,
            retrieval=judge_retrieval(asked, request.seed),
            results=summarise(judged, seed=request.seed),
            comparisons=compare_ways(judged, seed=request.seed),
        )
        _record(asker, request, evaluation)
    if folder:
        _write_report(folder, evaluation)
    return evaluation


def compare(home: Home | None, first: str, second: str) -> EvaluationComparison:
    """Set two evaluations side by side, each named by its folder or by its number in the catalog.

    Raises:
        InputError: a folder holds no evaluation, or the two have nothing in common.
        NotFoundError: there is no evaluation of that number.
        UsageError: a number is given where there is no registry home, or its evaluation was kept in no folder.
    """
    return compare_evaluations(*(EvaluationFolder.read(_folder_of(home, name)) for name in (first, second)))


def _folder_of(home: Home | None, name: str) -> Path:
    if not name.isdigit() or Path(name).is_dir():
        return Path(name)
    if home is None:
        raise UsageError(
            f"evaluation {name} is a number in a catalog, and there is no registry home here",
            hint="add --home FOLDER, or name the folder that it was kept in",
        )
    with opened(home) as registry, registry.catalog.read() as session:
        folder = get_evaluation(session, name).folder
    if not folder:
        raise UsageError(
            f"the answers of evaluation {name} were not kept", hint="evaluate with --out FOLDER to keep them"
        )
    return Path(folder)


def _write_report(folder: EvaluationFolder, evaluation: Evaluation) -> None:
    lines = (json.dumps(line, ensure_ascii=False) for line in results_lines(evaluation))
    folder.write(RESULTS_FILE, "".join(f"{line}\n" for line in lines))
    folder.write("report.md", markdown(evaluation))
    if evaluation.results:
        for name, drawn in (("f1-by-mode", f1_by_mode), ("f1-against-latency", f1_against_latency)):
            for ending, content in drawn(evaluation).items():
                folder.write(f"{name}.{ending}", content)


def _settings(asker: Asker, request: EvaluationRequest, questions: Sequence[Question], count: int) -> Settings:
    return Settings(
        version=asker.version.reference,
        version_digest=asker.version.digest,
        recipe_digest=asker.version.recipe_digest,
        questions_name=request.questions.name,
        questions_digest=json_digest([[one.id, one.question, list(one.answers)] for one in questions]),
        questions=count,
        sample=request.sample,
        seed=request.seed,
        gold=request.gold,
        max_new_tokens=request.asking.max_new_tokens,
        dtype=asker.dtype,
        device=asker.device,
    )


def _refuse_trained_on(asker: Asker, path: Path, questions: Iterable[Question]) -> None:
    """Check that no question was trained on by the task adapter that the version's adapters started from."""
    digest = asker.recipe.task_adapter
    if not digest:
        return
    by_digest = {question_digest(one.question): one.question for one in questions}
    with asker.registry.catalog.read() as session:
        seen = overlapping_questions(session, digest, by_digest)
    if seen:
        shown = by_digest[min(seen)][:80]
        raise InputError(
            f"{path}: {len(seen)} of {len(by_digest)} questions were trained on by the task adapter {short(digest)}, "
            f"from which the adapters of {asker.version.reference} started, such as {shown!r}: their answers would "
            "prove nothing",
            hint="evaluate on questions that no `pragreg warmup` has seen",
        )


def _judge(
    asker: Asker,
    request: EvaluationRequest,
    ways: Sequence[Way],
    asked: Sequence[Asked],
    folder: EvaluationFolder | None,
    progress: Progress,
) -> list[Judged]:
    """Answer what is not answered yet, and return all answers, way by way in the order of the questions."""
    asked = [one for one in asked if one.question.answers]
    known = {(one.way, one.number): one for one in folder.answers} if folder else {}
    missing = [(way, [one for one in asked if (way, one.number) not in known]) for way in ways]
    left = sum(len(own) for _, own in missing)
    if 0 < left < len(ways) * len(asked):
        progress.say(f"{len(ways) * len(asked) - left} answers are there already, {left} are missing")
    progress.start("answering", left)
    wrong = wrong_documents(asked, request.seed) if any(mode in CONTROLS for mode in request.modes) else {}
    for way, own in missing:
        # Questions of one length share a batch, which pads little.
        own.sort(key=lambda one: len(one.question.question))
        for part in chunked(own, request.asking.batch_size):
            new = _answer(asker, request, way, part, wrong)
            known |= {(way, one.number): one for one in new}
            if folder:
                folder.add(new)
            progress.advance(len(new), note=way.label)
    progress.done()
    return [known[way, one.number] for way in ways for one in asked]


def _answer(
    asker: Asker, request: EvaluationRequest, way: Way, asked: Sequence[Asked], wrong: Mapping[int, Match]
) -> list[Judged]:
    asking = replace(request.asking, log=False, batch_size=len(asked))
    given: list[list[Match]] | None = None
    if way.mode in CONTROLS:
        merge = TASK_ONLY if way.mode == "task-only" else "uniform"
        asking = replace(asking, mode="prag", k=1, merge=merge)
        given = [[wrong[one.number]] for one in asked]
    else:
        mode = next(mode for mode in MODES if mode == way.mode)
        asking = replace(asking, mode=mode, k=way.k or 1)
        if request.gold:
            given = [own_documents(one, way.k) for one in asked]
    answers = asker.ask([one.question.question for one in asked], asking, gold=given)
    return [_judged(way, one, answer) for one, answer in zip(asked, answers, strict=True)]


def _judged(way: Way, asked: Asked, answer: Answer) -> Judged:
    weights = answer.weights or (0.0,) * len(answer.hits)
    hits = () if way.mode == "task-only" else zip(answer.hits, weights, strict=True)
    return Judged(
        way=way,
        number=asked.number,
        id=asked.question.id,
        question=asked.question.question,
        type=asked.question.type,
        right=asked.question.answers,
        answer=answer.answer,
        scores=score(answer.answer, asked.question.answers),
        documents=tuple(
            Used(hit.document.digest, hit.document.title, hit.score, weight, hit.adapter_digest) for hit, weight in hits
        ),
        prompt_tokens=answer.prompt_tokens,
        answer_tokens=answer.answer_tokens,
        milliseconds=answer.milliseconds,
    )


def _record(asker: Asker, request: EvaluationRequest, evaluation: Evaluation) -> None:
    """Put the results into the catalog, so that SQL can follow quality over versions."""
    settings = evaluation.settings
    rows = [
        ResultRecord(
            mode=result.way.mode,
            k=result.way.k,
            merge=result.way.merge,
            question_type=result.question_type,
            questions=result.questions,
            prompt_tokens=result.prompt_tokens,
            mean_ms=result.latencies[TOTAL].mean_ms,
            p95_ms=result.latencies[TOTAL].p95_ms,
            scores={name: (one.mean, one.low, one.high) for name, one in result.scores.items()},
        )
        for result in evaluation.results
    ]
    if evaluation.retrieval:
        found = {name.replace("@", "_at_"): (one.mean, one.low, one.high) for name, one in evaluation.retrieval.items()}
        count = next(iter(evaluation.retrieval.values())).count
        rows.append(ResultRecord("retrieval", 0, "", "", count, 0.0, 0.0, 0.0, found))
    record = EvaluationRecord(
        version=settings.version,
        recipe_digest=settings.recipe_digest,
        questions_name=settings.questions_name,
        questions_digest=settings.questions_digest,
        questions=settings.questions,
        sample=settings.sample,
        seed=settings.seed,
        gold=settings.gold,
        dtype=settings.dtype,
        device=settings.device,
        program_version=installed_version("pragreg"),
        created_at=datetime.now(UTC),
        folder="" if request.folder is None else str(request.folder.absolute()),
        results=tuple(rows),
    )
    with asker.registry.catalog.write() as session:
        add_evaluation(session, record)
