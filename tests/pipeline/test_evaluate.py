"""Evaluations: every way of answering beside its controls, what is kept of them, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.catalog.evaluations import list_evaluations
from registry.errors import InputError, UsageError
from registry.evaluation.results import Evaluation, Way
from registry.pipeline import evaluate as module
from registry.pipeline.build import BuildSummary
from registry.pipeline.evaluate import EVALUATED_MODES, EvaluationRequest, compare, evaluate
from registry.pipeline.opened import opened
from registry.pipeline.query import Asker, Asking
from registry.pipeline.recipes import RecipeRequest
from registry.pipeline.warmup import WarmupRequest, warm_up
from registry.progress import Silent
from registry.settings import Home
from tests.pipeline.conftest import TEXTS, Sample

SHORT = Asking(max_new_tokens=4, batch_size=3)


def run(home: Home, request: EvaluationRequest) -> Evaluation:
    return evaluate(home, "default", request, device="cpu", progress=Silent())


def test_every_mode_is_scored_and_recorded(
    home: Home, sample: Sample, run_build: Callable[..., BuildSummary], tmp_path: Path
) -> None:
    run_build()
    request = EvaluationRequest(sample.questions, EVALUATED_MODES, (1, 2), SHORT, folder=tmp_path / "out")
    found = run(home, request)
    merge = found.results[0].way.merge
    assert [result.way for result in found.results] == [
        *(Way("prag", k, found.result(Way("prag", k, merge)).way.merge) for k in (1, 2)),
        *(Way("combined", k, merge) for k in (1, 2)),
        *(Way("rag", k) for k in (1, 2)),
        *(Way("closed-book"), Way("wrong-document"), Way("task-only")),
    ]
    assert found.retrieval["hit@1"].mean == 1.0
    assert {result.questions for result in found.results} == {sample.count}
    with opened(home) as registry, registry.catalog.read() as session:
        (kept,) = list_evaluations(session)
    assert (kept.version, kept.questions, kept.gold) == ("default@v1", sample.count, False)
    assert {result.mode for result in kept.results} == {*EVALUATED_MODES, "retrieval"}
    assert kept.folder == str(tmp_path / "out")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {
        *("evaluation.json", "answers.jsonl", "results.jsonl", "report.md"),
        *("f1-by-mode.png", "f1-by-mode.svg", "f1-against-latency.png", "f1-against-latency.svg"),
    }
    answers = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 9 * sample.count
    for answer in answers:
        documents = {one["title"] for one in answer["documents"]}
        own = {title for _, (title, _) in TEXTS.items() if title.lower() in answer["question"]}
        match answer["way"]["mode"]:
            case "closed-book" | "task-only":
                assert not documents
            case "wrong-document":
                assert len(documents) == 1
                assert not documents & own
            case _:
                assert own <= documents
                assert len(documents) <= answer["way"]["k"]


def test_what_was_answered_is_not_asked_again(
    home: Home,
    sample: Sample,
    run_build: Callable[..., BuildSummary],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_build()
    request = EvaluationRequest(sample.questions, ("prag", "closed-book"), (2,), SHORT, folder=tmp_path / "out")
    asked: list[str] = []
    ask = Asker.ask

    def stop_after(most: int) -> None:
        def counting(self: Asker, questions: list[str], *rest: object, **more: object) -> object:
            if len(asked) >= most:
                raise KeyboardInterrupt
            asked.extend(questions)
            return ask(self, questions, *rest, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(Asker, "ask", counting)

    stop_after(6)
    with pytest.raises(KeyboardInterrupt):
        run(home, request)
    assert len((tmp_path / "out" / "answers.jsonl").read_text().splitlines()) == 6
    with (tmp_path / "out" / "answers.jsonl").open("a") as file:
        file.write('{"way": {"mode": "prag"')  # as a killed writer leaves it
    asked.clear()
    stop_after(1000)
    resumed = run(home, request)
    assert len(asked) == 2 * sample.count - 6
    at_once = run(home, EvaluationRequest(sample.questions, ("prag", "closed-book"), (2,), SHORT))
    assert [result.scores for result in resumed.results] == [result.scores for result in at_once.results]
    with pytest.raises(UsageError, match="holds another evaluation: its seed 0 instead of 1"):
        run(home, EvaluationRequest(sample.questions, ("prag",), (2,), SHORT, seed=1, folder=tmp_path / "out"))


def test_gold_documents_take_the_place_of_what_is_found(
    home: Home, sample: Sample, run_build: Callable[..., BuildSummary], tmp_path: Path
) -> None:
    run_build()
    run(home, EvaluationRequest(sample.questions, ("prag",), (3,), SHORT, gold=True, folder=tmp_path / "out"))
    for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines():
        answer = json.loads(line)
        (document,) = answer["documents"]
        assert document["title"].lower() in answer["question"]
        assert document["weight"] == 1.0
    sample.questions.write_text('{"question": "Who?", "answers": ["me"], "document_ids": ["nowhere"]}\n')
    with pytest.raises(InputError, match=r"has no document \['nowhere'\]"):
        run(home, EvaluationRequest(sample.questions, ("prag",), (3,), SHORT, gold=True))


def test_gold_documents_may_be_named_by_title_or_by_judgements(
    home: Home, sample: Sample, run_build: Callable[..., BuildSummary], tmp_path: Path
) -> None:
    run_build()
    hotpot = [
        {
            "_id": name,
            "question": f"What is said of {title.lower()}?",
            "answer": text.split()[1],
            "type": "bridge" if name < "l" else "comparison",
            "supporting_facts": [[title, 0]],
        }
        for name, (title, text) in TEXTS.items()
    ]
    (tmp_path / "hotpot.json").write_text(json.dumps(hotpot))
    found = run(home, EvaluationRequest(tmp_path / "hotpot.json", ("prag",), (1,), SHORT, gold=True))
    assert found.retrieval["recall@1"].mean == 1.0
    assert {result.question_type: result.questions for result in found.results} == {
        "": 7,
        "bridge": 4,
        "comparison": 3,
    }
    queries = [{"_id": f"q-{name}", "text": f"What is said of {title.lower()}?"} for name, (title, _) in TEXTS.items()]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    judged = "".join(f"q-{name}\t{name}\t1\n" for name in TEXTS if name != "bell") + "q-bell\tferry\t1\n"
    (tmp_path / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    request = EvaluationRequest(tmp_path / "queries.jsonl", ("prag",), (1,), SHORT, qrels=tmp_path / "qrels.tsv")
    only_found = run(home, request)
    assert only_found.results == ()
    assert only_found.retrieval["recall@1"].mean == pytest.approx(6 / 7)
    assert only_found.retrieval["recall@1"].count == 7


def test_two_evaluations_are_set_side_by_side(
    home: Home, sample: Sample, run_build: Callable[..., BuildSummary], tmp_path: Path
) -> None:
    run_build()
    for name, gold in (("one", False), ("two", True)):
        run(home, EvaluationRequest(sample.questions, ("prag",), (1,), SHORT, gold=gold, folder=tmp_path / name))
    by_folder = compare(None, str(tmp_path / "one"), str(tmp_path / "two"))
    assert compare(home, "1", "2") == by_folder
    with pytest.raises(UsageError, match="no registry home"):
        compare(None, "1", "2")
    with pytest.raises(InputError, match="holds no evaluation"):
        compare(None, str(tmp_path / "one"), str(tmp_path))


def test_a_corpus_of_one_document_has_no_wrong_one(
    home: Home, sample: Sample, run_build: Callable[..., BuildSummary]
) -> None:
    first = sample.documents.read_text().splitlines()[0]
    sample.documents.write_text(first + "\n")
    run_build()
    with pytest.raises(UsageError, match="there is no other document"):
        run(home, EvaluationRequest(sample.questions, ("wrong-document",), (1,), SHORT))


def test_questions_of_the_warm_up_are_refused(
    home: Home,
    sample: Sample,
    run_build: Callable[..., BuildSummary],
    tiny_model_path: Path,
    tmp_path: Path,
) -> None:
    seen = [{"question": f"Who is number {n}?", "answers": [f"number {n}"]} for n in range(6)]
    seen.append({"question": "what is said of  THE BELL", "answers": ["bell"]})
    (tmp_path / "warm.jsonl").write_text("".join(json.dumps(row) + "\n" for row in seen))
    settings = {"epochs": 3, "rank": 2}
    recipe = RecipeRequest(base_model=str(tiny_model_path), dtype="float32", settings=settings)
    made = warm_up(home, WarmupRequest(tmp_path / "warm.jsonl", "style", recipe=recipe, device="cpu"), Silent())
    run_build(settings={"task_adapter": "style"})
    with pytest.raises(InputError, match="1 of 7 questions were trained on by the task adapter"):
        run(home, EvaluationRequest(sample.questions, ("prag",), (1,), SHORT))
    lines = [line for line in sample.questions.read_text().splitlines() if "the bell" not in line]
    sample.questions.write_text("\n".join(lines) + "\n")
    found = run(home, EvaluationRequest(sample.questions, ("prag", "task-only"), (1,), SHORT))
    assert found.result(Way("task-only")).questions == sample.count - 1
    assert made.task_adapter.questions == 7


def test_the_controls_are_what_they_say(
    home: Home, sample: Sample, run_build: Callable[..., BuildSummary], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_build()
    merged: list[tuple[str, tuple[float, ...], float]] = []
    judged = module._judged

    def watching(way: Way, asked: object, answer: object) -> object:
        merged.append((way.mode, answer.weights, answer.common_weight))  # type: ignore[attr-defined]
        return judged(way, asked, answer)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_judged", watching)
    run(home, EvaluationRequest(sample.questions, ("wrong-document", "task-only"), (3,), SHORT))
    assert set(merged) == {("wrong-document", (1.0,), 0.0), ("task-only", (0.0,), 1.0)}
