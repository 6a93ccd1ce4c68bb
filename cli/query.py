"""``pragreg query``: answers, for one question, a file of them, or at a prompt."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.answers import answer_record, write_answer
from cli.options import (
    batch_size_option,
    device_option,
    dtype_option,
    hits_option,
    home_option,
    json_option,
    max_tokens_option,
    merge_option,
    mode_option,
    path_option,
    reference_option,
)
from cli.output import write_json
from cli.progress import progress_bars
from registry.errors import InputError, UsageError
from registry.merging.methods import parse_merge
from registry.records import Mode
from registry.settings import Home

if TYPE_CHECKING:
    from registry.pipeline.query import Asker, Asking

STANDARD_INPUT = "standard input"
ONE_A_LINE = "write one question a line, as plain text in UTF-8"


@click.command(short_help="Answer questions out of adapters.")
@click.argument("question", required=False)
@hits_option
@mode_option
@merge_option
@home_option
@reference_option
@click.option("--explain", is_flag=True, help="Show what gave the answer: hits, adapters, version, times.")
@path_option("--file", "Answer a file of questions, one a line; - is standard input.")
@click.option("--no-log", is_flag=True, help="Do not record questions and answers in the catalog.")
@max_tokens_option
@batch_size_option
@device_option
@dtype_option("the model computes")
@json_option
def query(
    home: Home,
    question: str | None,
    k: int,
    mode: Mode,
    merge: str,
    reference: str,
    explain: bool,
    file: Path | None,
    no_log: bool,
    max_tokens: int,
    batch_size: int,
    device: str,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Answer a QUESTION out of the adapters of the documents that it finds.

    Without a question, a prompt opens that keeps the model in memory; /help there lists what it knows. Where standard
    input is not a terminal, questions are read from it, one a line.
    """
    questions = _questions(question, file)
    method = parse_merge(merge, k)
    # Only now what takes seconds: the pipeline brings torch, and then the model is loaded.
    from registry.pipeline.query import Asking, open_asker

    asking = Asking(mode, k, str(method), max_tokens, batch_size, log=not no_log)
    with (
        progress_bars() as progress,
        open_asker(home, reference, device=device, dtype=dtype or "auto", progress=progress) as asker,
    ):
        if questions is None:
            from cli.prompt import Prompt

            Prompt(asker, asking, history=home.path / "history", explain=explain, as_json=as_json).run()
        else:
            _answer_all(asker, asking, questions, explain=explain, as_json=as_json)


def read_questions(lines: Iterable[bytes], name: str) -> Iterator[str]:
    """Yield the questions in ``lines``, one a line; blank lines are passed over.

    Raises:
        InputError: a line is no text in UTF-8; the message has ``name`` and the line's number.
    """
    for number, line in enumerate(lines, start=1):
        try:
            question = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise InputError(f"{name}:{number}: not UTF-8 at byte {error.start}", hint=ONE_A_LINE) from error
        if "\0" in question:
            raise InputError(f"{name}:{number}: not text: it holds a NUL character", hint=ONE_A_LINE)
        if question:
            yield question


def _questions(question: str | None, file: Path | None) -> Iterable[str] | None:
    """Return the questions that the command line names; None asks for the prompt."""
    if file is not None:
        if question is not None:
            raise UsageError("a question and --file were given", hint="give one of them")
        return _piped_questions() if str(file) == "-" else _file_questions(file)
    if question is not None:
        if not question.strip():
            raise UsageError("the question is empty", hint='pragreg query "What ...?"')
        return [question]
    return None if sys.stdin.isatty() else _piped_questions()


def _piped_questions() -> Iterator[str]:
    questions = read_questions(sys.stdin.buffer, STANDARD_INPUT)
    # The first is waited for here, so that a pipe without questions costs no loading of the model.
    first = next(questions, None)
    if first is None:
        raise InputError(f"{STANDARD_INPUT} holds no question", hint=ONE_A_LINE)
    return chain([first], questions)


def _file_questions(file: Path) -> list[str]:
    try:
        with file.open("rb") as lines:
            questions = list(read_questions(lines, str(file)))
    except OSError as error:
        raise InputError(
            f"question file {file} cannot be read: {error.strerror or error}", hint="check the path after --file"
        ) from error
    if not questions:
        raise InputError(f"question file {file} holds no question", hint=ONE_A_LINE)
    return questions


def _answer_all(asker: Asker, asking: Asking, questions: Iterable[str], *, explain: bool, as_json: bool) -> None:
    waiting = iter(questions)
    # Batch by batch, so that what comes through a pipe is answered before the pipe ends.
    while batch := list(islice(waiting, asking.batch_size)):
        for answer in asker.ask(batch, asking):
            if as_json:
                write_json(answer_record(answer))
            else:
                write_answer(answer, explain=explain)
