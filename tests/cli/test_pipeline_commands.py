"""Build, query, evaluate, export and merge with a tiny model, whose answers mean nothing."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shutil
import sys
from pathlib import Path

import pytest

from cli.evaluate import parse_modes
from cli.merge import parse_numbers
from cli.options import parse_setting
from registry.errors import UsageError
from registry.merging.methods import DEFAULT_MERGE, parse_merge
from registry.records import Document
from registry.settings import create_home
from tests.cli.conftest import TEXTS, Result, Run

QUESTION = "Who plays the organ of Hollin?"
STEPS = ["search", "load", "merge", "inject", "prefill", "decode"]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with documents.jsonl, a broken line in broken.jsonl, augmentations.jsonl and questions.jsonl."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = list(enumerate(TEXTS[:4]))
    files: dict[str, list[dict[str, object]]] = {
        "documents": [{"id": f"s{number}", "title": title, "text": text} for number, (title, text) in texts],
        "augmentations": [
            {"document_id": f"s{n}", "rewrites": [], "qa": [{"question": f"What is {t}?", "answer": x.split()[1]}]}
            for n, (t, x) in texts
        ],
        "questions": [
            {"question": f"What is said of {title}?", "answers": ["pears"], "document_ids": [f"s{number}"]}
            for number, (title, _) in texts
        ],
    }
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "broken.jsonl").write_text('{"id": "b", "title": "Half", "text": \n', encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def built_once(
    corpus: Path, tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory, run_process: Run
) -> tuple[Path, Result]:
    """A home in which a process of its own built the corpus "sayings", and what that printed."""
    home = tmp_path_factory.mktemp("built") / "home"
    assert run_process("init", "--home", home, "--base-model", tiny_model_path).status == 0
    built = run_process(
        *("build", corpus / "documents.jsonl", corpus / "broken.jsonl", "--skip-invalid", "--home", home),
        *("--corpus", "sayings", "--augmenter", f"import:{corpus / 'augmentations.jsonl'}", "--message", "first"),
        *("--rank", 2, "--epochs", 1, "--set", "examples=qa,text", "--device", "cpu", "--workers", 1, "--json"),
    )
    return home, built


@pytest.fixture
def built(built_once: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that home, which every command finds."""
    home, result = built_once
    assert result.status == 0, result.err
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.setenv("PRAGREG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_dry_run_says_what_a_build_would_do(run: Run, built: Path, corpus: Path, tmp_path: Path) -> None:
    rest = ["--corpus", "sayings", "--augmenter", f"import:{corpus / 'augmentations.jsonl'}", "--dry-run"]
    same = run("build", corpus / "documents.jsonl", *rest)
    assert (same.status, same.err) == (0, "")
    assert same.out.splitlines()[0].split(maxsplit=1) == ["version", "sayings@v1 (unchanged): nothing to do"]
    lines = (corpus / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    extra = {"id": "x", "title": "The Quay", "text": "The quay of Lorn floats on corks."}
    edited = tmp_path / "edited.jsonl"
    edited.write_text("\n".join([*lines[1:], json.dumps(extra)]), encoding="utf-8")
    found = dict(line.split("  ", 1) for line in run("build", edited, "--rank", 3, *rest).out.splitlines())
    found = {name: value.strip() for name, value in found.items()}
    assert found["version"] == "sayings@v2 (new, after sayings@v1)"
    assert found["recipe"] == "another than that of sayings@v1: rank 2 -> 3"
    assert (found["kept"], found["reused"]) == ("3", "0")
    assert found["added"] == "1: The Quay"
    assert found["removed"] == f"1: {TEXTS[0][0]}"
    assert found["to train"].startswith("4: ")
    (row,) = run("build", edited, *rest, "--json").rows
    assert (row["against"], row["version"], row["created"]) == ("sayings@v1", "sayings@v2", True)
    assert row["removed"]["first"][0]["title"] == TEXTS[0][0]
    assert (row["to_train"]["count"], row["recipe_changes"]) == (1, {})


def test_build(built_once: tuple[Path, Result], corpus: Path) -> None:
    (found,) = built_once[1].rows
    assert (found["version"], found["created"]) == ("sayings@v1", True)
    assert (found["documents"], found["trained"], found["reused"]) == (4, 4, 0)
    assert len(found["digest"]) == 64
    assert found["seconds_per_document"] > 0
    assert [skipped["source_uri"] for skipped in found["skipped"]] == [str(corpus / "broken.jsonl")]


def test_build_counts_what_it_trained(built_once: tuple[Path, Result]) -> None:
    (found,) = built_once[1].rows
    assert found["trained_examples"] == 4  # the texts: no pair is grounded in its document
    assert found["operations"] % (4 * found["trained_tokens"]) == 0
    assert found["reached_gflops"] == pytest.approx(found["operations"] / found["encode_wall_seconds"] / 1e9)


@pytest.fixture
def planned(corpus: Path, tiny_model_path: Path) -> list[object]:
    """The arguments of a plan that measures nothing, to which more may be added."""
    imported = f"import:{corpus / 'augmentations.jsonl'}"
    return [
        *("plan", corpus / "documents.jsonl", "--base-model", tiny_model_path, "--augmenter", imported),
        *("--set", "examples=qa,text", "--rate", "0.25"),
    ]


def test_plan_without_a_home(run: Run, planned: list[object], built_once: tuple[Path, Result]) -> None:
    (found,) = run(*planned, "--rank", 2, "--epochs", 1, "--json").rows
    (built,) = built_once[1].rows
    assert (found["documents"], found["to_encode"], found["estimated"]) == (4, 4, False)
    assert (found["examples"], found["tokens"]) == (built["trained_examples"], built["trained_tokens"])
    assert (found["operations"], found["adapter_bytes"]) == (built["operations"], built["adapter_bytes"])
    assert list(Path.cwd().iterdir()) == []


def test_plan_in_words(run: Run, planned: list[object], corpus: Path) -> None:
    found = run(*planned, corpus / "broken.jsonl", "--skip-invalid", "--devices", 2, "--price", 1.5)
    assert found.status == 0, found.err
    assert f"skipped {corpus / 'broken.jsonl'}:1: " in found.err
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in found.out.splitlines())
    assert (lines["documents"], lines["to encode"], lines["examples"]) == ("4", "4", "4")
    assert re.fullmatch(r"[\d.]+ [MG]FLOP", lines["operations needed"])
    assert lines["rate"] == "250 GFLOP/s a device, as given"
    assert re.fullmatch(r"about \d+ ms on 2 devices, at \d+% of the rate", lines["expected time"])
    assert {"device hours", "dollars", "memory", "disk"} <= lines.keys()


def test_plan_says_what_is_not_written_yet(run: Run, planned: list[object]) -> None:
    found = run(*planned, "--augmenter", "self")
    assert re.search(r"^tokens +about \d+$", found.out, re.M)
    assert re.search(
        r"^still to write +augmentations for 4 by self, up to about \d+ tokens, whose time is not", found.out, re.M
    )


def test_plan_of_what_is_there(run: Run, built: Path, corpus: Path) -> None:
    found = run(
        *("plan", corpus / "documents.jsonl", "--corpus", "sayings", "--device", "cpu"),
        *("--augmenter", f"import:{corpus / 'augmentations.jsonl'}"),
    )
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in found.out.splitlines())
    assert (lines["reused"], lines["to encode"], lines["expected time"]) == ("4", "0", "nothing to encode")
    assert run("builds", "list", "--json").out.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "Missing argument 'SOURCE...'"),
        (["missing.txt"], 4, "missing.txt"),
        (["x", "--rate", "0"], 2, "a device's rate must be above 0 TFLOP/s, not 0.0"),
        (["x", "--rate", "nan"], 2, "a device's rate must be above 0"),
        (["x", "--rate", "fast"], 2, "'fast' is not a valid float"),
        (["x", "--rate", "1", "--devices", "0"], 2, "there must be at least 1 device"),
        (["x", "--devices", "2"], 2, "--devices is of devices on paper, and --rate is missing"),
        (["x", "--price", "2"], 2, "--price is of devices on paper, and --rate is missing"),
        (["x", "--home", "nowhere"], 3, "there is no registry home at"),
        (["x", "--augmenter", "nobody"], 2, "there is no augmenter 'nobody'"),
    ],
)
def test_plans_that_cannot_be(run: Run, tiny_model_path: Path, arguments: list[str], status: int, message: str) -> None:
    Path("x").write_text("The bell of Ard rings by itself.", encoding="utf-8")
    found = run("plan", *arguments, "--base-model", tiny_model_path, "--device", "cpu")
    assert (found.status, found.out) == (status, "")
    assert found.err.startswith("error: ")
    assert message in found.err


def test_build_again_trains_nothing(run: Run, built: Path, corpus: Path) -> None:
    found = run(
        *("build", corpus / "documents.jsonl", corpus / "broken.jsonl", "--skip-invalid", "--corpus", "sayings"),
        *("--augmenter", f"import:{corpus / 'augmentations.jsonl'}", "--device", "cpu"),
    )
    assert found.status == 0
    lines = dict(line.split("  ", 1) for line in found.out.splitlines())
    assert lines["version"].strip() == "sayings@v1 (unchanged)"
    assert (lines["reused"].strip(), lines["trained"].strip(), lines["loss"].strip()) == ("4", "0", "-")
    assert f"skipped {corpus / 'broken.jsonl'}:1: " in found.err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["missing.txt"], 4, "missing.txt"),
        (["x", "--set", "rank"], 2, "--set 'rank' is not NAME=VALUE"),
        (["x", "--set", "rnak=3"], 2, "--set: there is no recipe setting 'rnak'"),
        (["x", "--set", "base_model=other"], 2, "--set cannot choose base_model"),
        (["x", "--recipe", "missing.toml"], 4, "recipe file missing.toml cannot be read"),
        (["x", "--augmenter", "nobody"], 2, "there is no augmenter 'nobody'"),
        (["x", "--corpus", "a/b"], 2, "'a/b' cannot be the name of a corpus"),
        (["x", "--learning-rate", "-1"], 2, "recipe setting learning_rate must be above 0"),
    ],
)
def test_builds_that_cannot_be(run: Run, built: Path, arguments: list[str], status: int, message: str) -> None:
    Path("x").write_text("The bell of Ard rings by itself.", encoding="utf-8")
    found = run("build", *arguments, "--device", "cpu")
    assert (found.status, found.out) == (status, "")
    assert found.err.startswith("error: ")
    assert message in found.err


def test_query_in_json(run: Run, built: Path) -> None:
    (found,) = run("query", QUESTION, "--corpus", "sayings", "-k", 2, "--json", "--max-tokens", 3).rows
    assert (found["question"], found["mode"], found["version"]) == (QUESTION, "prag", "sayings@v1")
    assert found["hits"][0]["digest"] == Document.of(*TEXTS[0]).digest
    assert {"rank", "score", "title", "adapter_digest"} <= found["hits"][0].keys()
    assert list(found["milliseconds"]) == STEPS
    assert len(found["weights"]) == len(found["hits"])
    (logged,) = run("queries", "list", "--json").rows
    assert logged["question"] == QUESTION


def test_query_explained_and_not_logged(run: Run, built: Path) -> None:
    found = run(
        *("query", QUESTION, "--corpus", "sayings@v1", "--mode", "combined", "--merge", "softmax:4"),
        *("--explain", "--no-log", "--max-tokens", 3),
    )
    assert found.status == 0
    for text in (
        "The Organ of Hollin",
        "sayings@v1 sha256:",
        "combined",
        Document.of(*TEXTS[0]).digest[:12],
    ):
        assert text in found.out
    (times,) = (line for line in found.out.splitlines() if line.startswith("milliseconds"))
    assert [part.split()[0] for part in times.removeprefix("milliseconds").split(",")] == STEPS
    assert run("queries", "list", "--json").out == ""
    nothing = run("query", "?", "--corpus", "sayings", "--explain", "--no-log", "--max-tokens", 1)
    assert "no document has a word of the question" in nothing.out


def test_a_common_part_is_explained(run: Run, built: Path) -> None:
    asked = ("query", "the organ of the ferry", "--corpus", "sayings", "--no-log", "--max-tokens", 1)
    (found,) = run(*asked, "-k", 2, "--merge", "uniform+common", "--json").rows
    assert (found["weights"], found["common_weight"]) == ([1.0, 1.0], -1.0)
    explained = run(*asked, "-k", 2, "--merge", "uniform+common", "--explain").out.splitlines()
    (line,) = (line for line in explained if "the common part" in line)
    assert line.split("\t") == ["-", "-", "-1.000", "the common part", "-", "-"]
    assert "the common part" not in run(*asked, "--explain").out


def test_a_merge_that_is_not_there_is_told_in_words(run: Run, built: Path, corpus: Path) -> None:
    for command in (("query", "Who?"), ("evaluate", corpus / "questions.jsonl")):
        found = run(*command, "--corpus", "sayings", "--merge", "slerp")
        assert (found.status, found.out) == (2, "")
        error, hint = found.err.splitlines()
        assert error == "error: there is no weighting 'slerp'"
        assert hint.startswith("try: use uniform, mean, softmax[:T]")
        assert "+orthogonal" in hint


def test_query_a_file(run: Run, built: Path) -> None:
    Path("questions.txt").write_bytes(b"\xef\xbb\xbfWho?\r\n\n  Where is the m\xc3\xbchle?\nWhy?\n")
    found = run(
        "query", "--file", "questions.txt", "--corpus", "sayings", "--batch-size", 2, "--max-tokens", 2, "--json"
    )
    assert [row["question"] for row in found.rows] == ["Who?", "Where is the mühle?", "Why?"]
    lines = run("query", "--file", "questions.txt", "--corpus", "sayings", "--max-tokens", 2).out
    assert lines.count("\n") == 3


@pytest.mark.parametrize("file", [(), ("--file", "-")])
def test_query_reads_a_pipe(run: Run, built: Path, monkeypatch: pytest.MonkeyPatch, file: tuple[str, ...]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Who?\nWhy?\n")))
    found = run("query", *file, "--corpus", "sayings", "--mode", "closed-book", "--max-tokens", 2, "--json")
    assert [(row["question"], row["hits"]) for row in found.rows] == [("Who?", []), ("Why?", [])]


def test_a_pipe_without_questions_is_refused(run: Run, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    found = run("query", "--corpus", "sayings")
    assert (found.status, found.err.splitlines()[0]) == (4, "error: standard input holds no question")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([""], 2, "the question is empty"),
        (["Who?", "--corpus", "cookbook"], 5, "there is no corpus 'cookbook'"),
        (["Who?", "--merge", "magic"], 2, "there is no weighting 'magic'"),
        (["Who?", "--merge", "first+magic"], 2, "there is no merge modifier 'magic'"),
        (["Who?", "--merge", "first:2"], 2, "the number of first must be above 0 and up to 1"),
        (["Who?", "-k", "2", "--merge", "1"], 2, "1 weights are given for 2 hits"),
        (["--file", "missing.txt"], 4, "question file missing.txt cannot be read: No such file or directory"),
        (["--file", "."], 4, "question file . cannot be read: Is a directory"),
        (["--file", "empty.txt"], 4, "question file empty.txt holds no question"),
        (["--file", "latin.txt"], 4, "latin.txt:2: not UTF-8 at byte 3"),
        (["--file", "binary"], 4, "binary:1: not text: it holds a NUL character"),
        (["--corpus", "sayings", "long " * 600], 2, "the base model takes 512 tokens, but the prompt for the question"),
        (["Who?", "--file", "empty.txt"], 2, "a question and --file were given"),
    ],
)
def test_queries_that_cannot_be(run: Run, built: Path, arguments: list[str], status: int, message: str) -> None:
    Path("empty.txt").write_text("\n \n", encoding="utf-8")
    Path("latin.txt").write_bytes(b"Who?\nCaf\xe9?\n")
    Path("binary").write_bytes(b"PK\x03\0\0\n")
    found = run("query", *arguments)
    assert (found.status, found.out) == (status, "")
    assert found.err.startswith(f"error: {message}")


def test_the_prompt(run: Run, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        *("/mode combined", "/k 2", "/k 99", "/merge 1,2,3", "/merge softmax+cap", QUESTION, ""),
        *("/explain", "Where is the ferry?", "/nonsense", "/mode nonsense", "/help", "/quit", "Never asked"),
    )
    controller, terminal = pty.openpty()
    with os.fdopen(terminal) as stdin, os.fdopen(controller, "wb", buffering=0) as keys:
        keys.write("".join(f"{line}\n" for line in lines).encode())
        monkeypatch.setattr(sys, "stdin", stdin)
        found = run("query", "--corpus", "sayings", "--max-tokens", 2)
    assert found.status == 0
    assert found.err.startswith(
        f"sayings@v1, 4 documents; /help lists commands\n? mode combined, k 3, merge {parse_merge(DEFAULT_MERGE, 3)}\n"
    )
    for text in (
        "'99' is not a number",
        "3 weights are given for 2 hits",
        "k 2, merge softmax:2+cap:1",
        "/nonsense",
        "/explain",
    ):
        assert text in found.err
    assert "Traceback" not in found.err
    assert "sayings@v1 sha256:" in found.out
    asked = run("queries", "list", "--json").rows
    assert [(row["question"], row["mode"]) for row in asked] == [
        ("Where is the ferry?", "combined"),
        (QUESTION, "combined"),
    ]


def test_the_prompt_ends_with_its_input(run: Run, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    controller, terminal = pty.openpty()
    with os.fdopen(terminal) as stdin, os.fdopen(controller, "wb", buffering=0) as keys:
        keys.write(b"Who?\n\x04")
        monkeypatch.setattr(sys, "stdin", stdin)
        found = run("query", "--corpus", "sayings", "--max-tokens", 2, "--json")
    assert found.status == 0
    assert [json.loads(line)["question"] for line in found.out.splitlines() if line] == ["Who?"]


def test_evaluate(run: Run, built: Path, corpus: Path) -> None:
    questions = corpus / "questions.jsonl"
    shared = ("--corpus", "sayings", "--max-tokens", 2)
    found = run("evaluate", questions, *shared, "--modes", "closed-book,prag", "--json").rows
    results = [row for row in found if row["kind"] == "result"]
    assert [(row["mode"], row["k"], row["questions"]) for row in results] == [("closed-book", 0, 4), ("prag", 3, 4)]
    assert {"exact_match", "f1", "precision", "recall", "contains"} == results[0]["scores"].keys()
    assert results[1]["merge"] == str(parse_merge(DEFAULT_MERGE, 3))
    assert {row["kind"] for row in found} == {"result", "comparison", "retrieval"}
    arguments = ("--modes", "prag,rag,task-only", "-k", "1,2", "--sample", 2, "--gold", "--out", "kept")
    table = run("evaluate", questions, *shared, *arguments)
    assert [line.split("\t")[:2] for line in table.out.splitlines()] == [
        ["mode", "k"],
        *(["prag", "1"], ["prag", "2"], ["rag", "1"], ["rag", "2"], ["task-only", "-"]),
    ]
    assert "2 questions of questions.jsonl on sayings@v1, their own documents" in table.err
    assert "report.md and plots are in kept" in table.err
    assert Path("kept", "report.md").read_text().startswith("# ")
    assert run("queries", "list", "--json").out == ""
    listed = run("evaluations", "list", "--json").rows
    assert [(row["number"], row["questions"], row["gold"]) for row in listed] == [(2, 2, True), (1, 4, False)]
    assert "prag k=1" in run("evaluations", "list").out
    (shown,) = run("evaluations", "show", "2", "--json").rows
    assert shown == listed[0]
    assert run("evaluations", "show", "3").status == 5
    compared = run("evaluate", "--compare", "kept", "2")
    assert (compared.status, compared.out.startswith("# ")) == (0, True)
    assert run("evaluate", "--compare", "kept", "2", "--json").rows[0]["shared"] == 2


def test_evaluations_that_cannot_be(run: Run, built: Path, corpus: Path) -> None:
    questions = corpus / "questions.jsonl"
    for arguments, status, message in (
        (["missing.jsonl"], 4, "question file missing.jsonl cannot be read"),
        ([questions, "--modes", "prag,magic"], 2, "there is no mode 'magic'"),
        ([questions, "-k", "1,0"], 2, "'0' is not a number of documents"),
        ([questions, "--merge", "1,2"], 2, "2 weights are given for 3 hits"),
        ([questions, "--compare", "a", "b"], 2, "--compare takes two evaluations and no question file"),
        ([], 2, "no question file is named"),
        (["--compare", "1", "2"], 5, "there is no evaluation 1"),
        (["--compare", "here", "there"], 4, "here holds no evaluation"),
    ):
        found = run("evaluate", *arguments, "--corpus", "sayings")
        assert (found.status, found.out) == (status, ""), arguments
        assert found.err.startswith(f"error: {message}"), found.err
        assert "try: " in found.err


def test_warmup(run: Run, built: Path, corpus: Path, tiny_model_path: Path) -> None:
    Path("warm.jsonl").write_text('{"question": "Who is first?", "answers": ["the first"]}\n' * 3)
    shape = ("--base-model", tiny_model_path, "--dtype", "float32", "--rank", 2)
    made = run("warmup", "warm.jsonl", "--name", "style", *shape)
    assert made.status == 0
    assert made.err.splitlines()[-1] == "next: pragreg build SOURCE... --task-adapter style"
    (record,) = run("warmup", "warm.jsonl", "--name", "style", *shape, "--json").rows
    assert (record["name"], record["questions"], "question_digests" in record) == ("style", 3, False)
    refused = run("build", corpus / "documents.jsonl", *shape, "--set", "task_adapter=style")
    assert (refused.status, refused.err.splitlines()[-1]) == (2, "try: use --task-adapter")
    unknown = run("build", corpus / "documents.jsonl", *shape, "--task-adapter", "manner")
    assert (unknown.status, "there is no task adapter 'manner'" in unknown.err) == (5, True)


def test_export_and_merge(run: Run, built: Path) -> None:
    adapters = [row["digest"] for row in run("adapters", "list", "--json").rows]
    (one,) = run("export", adapters[0][:12], "--out", "one", "--json").rows
    assert one == {"digest": adapters[0], "folder": "one"}
    assert sorted(path.name for path in Path("one").iterdir()) == [
        *("README.md", "adapter_config.json", "adapter_model.safetensors")
    ]
    several = run("export", *adapters[:2], "--out", "several").out.splitlines()
    assert [Path(line).is_dir() for line in several] == [True, True]
    again = run("export", adapters[0], "--out", "one")
    assert (again.status, again.out) == (2, "")
    (merged,) = run("merge", *adapters[:2], "--weights", "0.75,0.25", "--out", "merged", "--json").rows
    assert merged["adapters"] == adapters[:2]
    assert (Path("merged") / "adapter_model.safetensors").exists()
    whole = run("merge", "sayings@v1", "--into-base", "--method", "svd", "--svd-rank", 3, "--out", "whole")
    assert (whole.status, whole.out) == (0, "whole\n")
    assert (Path("whole") / "model.safetensors").exists()
    assert run("merge", adapters[0], "--weights", "a", "--out", "x").status == 2
    assert run("merge", "0000", "--out", "x").status == 5
    unknown = run("merge", "saying", "--out", "x")
    assert (unknown.status, unknown.err.splitlines()[0].startswith("error: 'saying' is no corpus; ")) == (5, True)
    taken = run("merge", "sayings", "--out", "whole")
    assert (taken.status, "merging" in taken.err) == (2, False)
    assert run("export", "0000", "--out", "x").status == 5
    assert not Path("x").exists()


def test_a_corpus_without_a_version_says_so(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_home(tmp_path / "home")
    monkeypatch.setenv("PRAGREG_HOME", str(tmp_path / "home"))
    found = run("query", "Who?")
    assert (found.status, found.err.splitlines()[-1]) == (3, "try: pragreg db upgrade")
    run("db", "upgrade")
    found = run("query", "Who?")
    assert (found.status, found.err.splitlines()[0]) == (5, "error: there is no corpus 'default'")


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("rank=8", ("rank", 8)),
        ("learning-rate = 1e-3", ("learning_rate", 1e-3)),
        ('examples=["qa", "text"]', ("examples", ["qa", "text"])),
        ("examples=qa,text", ("examples", "qa,text")),
        ("shuffle=false", ("shuffle", False)),
        ("loss=all", ("loss", "all")),
        ("layout = 'paper'", ("layout", "paper")),
        ("rank=1\nseed=2", ("rank", "1\nseed=2")),
    ],
)
def test_settings_are_toml_or_text(text: str, setting: tuple[str, object]) -> None:
    assert parse_setting(text) == setting


def test_lists_with_commas() -> None:
    assert parse_modes("prag, rag,prag") == ("prag", "rag")
    assert parse_numbers("1, 0.5") == (1.0, 0.5)
    for text in ("", ",", "prag;rag"):
        with pytest.raises(UsageError):
            parse_modes(text)
