"""The demo: build the sample corpus, ask it, and show on held-out questions that its adapters know it.

Runs the very commands that a user would type and prints them; everything lies in the folder .demo.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
HOME = ROOT / ".demo"
PRAGREG = Path(sys.executable).parent / "pragreg"
MODES = ("closed-book", "rag", "prag")
QUESTIONS = (
    "What scent filled the air during the Amber Fog?",
    "Which bay saw the maiden dive of Odmar Plessing's invention?",
    "Who worded the text of the Herring Accord?",
    "Which drink do cheese makers put on the outside of pondrel?",
    "How many kites were in the air at the earliest Kite Census?",
)


def show(text: str) -> None:
    """Say what comes next."""
    print(f"\n{text}", flush=True)


def pragreg(*arguments: str, quiet: bool = False) -> str:
    """Run a command of the demo, showing it as typed; return what it printed if ``quiet``."""
    print(f"\n$ pragreg {shlex.join(arguments)}", flush=True)
    done = subprocess.run(
        [str(PRAGREG), *arguments],
        cwd=ROOT,
        env={**os.environ, "PRAGREG_HOME": str(HOME)},
        stdout=subprocess.PIPE if quiet else None,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(done.returncode)
    return done.stdout or ""


def answers_side_by_side() -> None:
    """Ask five questions in three modes and print the answers under each other."""
    file = HOME / "five-questions.txt"
    file.write_text("".join(f"{question}\n" for question in QUESTIONS), encoding="utf-8")
    answers: dict[str, list[dict[str, object]]] = {}
    for mode in MODES:
        printed = pragreg("query", "--file", str(file.relative_to(ROOT)), "--mode", mode, "--json", quiet=True)
        answers[mode] = [json.loads(line) for line in printed.splitlines()]
    print()
    for number, question in enumerate(QUESTIONS):
        print(question)
        for mode in MODES:
            text = " ".join(str(answers[mode][number]["answer"]).split())
            print(f"  {mode:<12}{text[:96]}")


def main() -> None:
    """Run the demo from an empty folder."""
    started = time.perf_counter()
    shutil.rmtree(HOME, ignore_errors=True)
    show("1. A registry home, and the sample corpus: 32 documents about a place that does not exist.")
    pragreg("init", "--home", str(HOME.relative_to(ROOT)))
    show("2. Every document becomes an adapter. The question-answer pairs that it is taught were written by hand and")
    print("   are imported here: a model of 135 million parameters writes poor ones (step 5 shows its own).")
    pragreg("build", "examples/corpus", "--augmenter", "import:examples/augmentations.jsonl")
    show("3. Five questions: without the documents, with their text in the prompt, and with their adapters instead.")
    answers_side_by_side()
    pragreg("query", QUESTIONS[0], "--explain")
    show("4. All held-out questions, none of which was trained on.")
    pragreg("evaluate", "examples/questions.jsonl", "--modes", ",".join(MODES), "--max-tokens", "16")
    show("5. The paper's way: the model writes the questions about two documents itself.")
    pragreg("build", "examples/corpus/*.html", "--corpus", "self-written", "--augmenter", "self", "--pairs", "3",
            "--rewrites", "1", "--epochs", "2")  # fmt: skip
    show(f"Done in {time.perf_counter() - started:.0f} s. What to try next (the demo's registry is in .demo):")
    for command in (
        "export PRAGREG_HOME=.demo PATH=.venv/bin:$PATH",
        "pragreg query                          # a prompt: /mode, /k, /merge, /explain",
        "pragreg search 'copper kites' -k 5",
        "pragreg documents list",
        "pragreg build YOUR_FOLDER --corpus mine",
    ):
        print(f"  {command}")


if __name__ == "__main__":
    main()
