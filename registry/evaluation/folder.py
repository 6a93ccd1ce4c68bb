"""The folder of an evaluation: the answers as they come, so that one that was stopped goes on where it was.

``evaluation.json`` has the settings, ``answers.jsonl`` a line for every answer. The rest is made of these at the end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from registry.errors import InputError, StorageError, UsageError
from registry.evaluation.results import Judged, Settings, Used, Way
from registry.evaluation.scores import Scores

SETTINGS_FILE = "evaluation.json"
ANSWERS_FILE = "answers.jsonl"
RESULTS_FILE = "results.jsonl"
FORMAT = 1


class EvaluationFolder:
    """The answers of one evaluation on disk; get one from ``open`` to go on with it, or ``read`` a finished one."""

    def __init__(self, path: Path, settings: Settings, answers: Sequence[Judged]) -> None:
        """Take what is known of it."""
        self.path, self.settings = path, settings
        self.answers: list[Judged] = list(answers)

    @classmethod
    def open(cls, path: Path, settings: Settings) -> EvaluationFolder:
        """Make the folder, or open the one that holds this evaluation's first answers.

        A last line that was cut off, because its writer was killed, is taken off the file.

        Raises:
            UsageError: the folder holds another evaluation; the message says what differs.
            StorageError: it cannot be written.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            if (path / SETTINGS_FILE).exists():
                found = cls.read(path)
                _require_same(path, found.settings, settings)
                _cut_off(path / ANSWERS_FILE)
                return found
            if (path / ANSWERS_FILE).exists():
                raise UsageError(
                    f"{path} holds {ANSWERS_FILE}, but no {SETTINGS_FILE} that says what of",
                    hint="name another folder with --out",
                )
            _replace(path / SETTINGS_FILE, json.dumps({"format": FORMAT, **asdict(settings)}, indent=2) + "\n")
        except OSError as error:
            raise _not_written(path, error) from error
        return cls(path, settings, [])

    @classmethod
    def read(cls, path: Path) -> EvaluationFolder:
        """Read the answers of a folder.

        Raises:
            InputError: it holds no evaluation, or one that is damaged; the message names file and line.
        """
        try:
            settings = _settings(path, (path / SETTINGS_FILE).read_text(encoding="utf-8"))
            lines = (path / ANSWERS_FILE).read_bytes().split(b"\n") if (path / ANSWERS_FILE).exists() else [b""]
        except FileNotFoundError as error:
            raise InputError(
                f"{path} holds no evaluation: there is no {SETTINGS_FILE}",
                hint="pragreg evaluate QUESTIONS.jsonl --out FOLDER",
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the evaluation in {path} cannot be read: {error}") from error
        # What follows the last line end was not written whole.
        answers = [_judged(f"{path / ANSWERS_FILE}:{number}", line) for number, line in enumerate(lines[:-1], 1)]
        return cls(path, settings, answers)

    def add(self, answers: Iterable[Judged]) -> None:
        """Append answers; when this returns, they are on the disk.

        Raises:
            StorageError: the disk is full, or the file cannot be written.
        """
        new = list(answers)
        text = "".join(json.dumps(_record(one), ensure_ascii=False) + "\n" for one in new)
        try:
            with (self.path / ANSWERS_FILE).open("ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _not_written(self.path, error) from error
        self.answers += new

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file of the folder whole, in place of what it was, and return its path.

        Raises:
            StorageError: it cannot be written.
        """
        try:
            _replace(self.path / name, content)
        except OSError as error:
            raise _not_written(self.path, error) from error
        return self.path / name


def _require_same(path: Path, found: Settings, wanted: Settings) -> None:
    other = {name: value for name, value in asdict(wanted).items() if value != getattr(found, name)}
    if other:
        shown = ", ".join(f"{name} {getattr(found, name)} instead of {value}" for name, value in other.items())
        raise UsageError(
            f"{path} holds another evaluation: its {shown}", hint="name another folder with --out, or remove this one"
        )


def _settings(path: Path, text: str) -> Settings:
    try:
        values = json.loads(text)
        if values.pop("format") != FORMAT:
            raise ValueError("another format")
        return Settings(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{path / SETTINGS_FILE} is not of an evaluation that this pragreg reads: {error}") from error


def _record(judged: Judged) -> dict[str, Any]:
    return asdict(judged)


def _judged(place: str, line: bytes) -> Judged:
    try:
        values: Mapping[str, Any] = json.loads(line)
        return Judged(
            **{
                **values,
                "way": Way(**values["way"]),
                "right": tuple(values["right"]),
                "scores": Scores(**values["scores"]),
                "documents": tuple(Used(**one) for one in values["documents"]),
            }
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{place}: not an answer of an evaluation: {error}",
            hint="remove the folder and evaluate again, or name another with --out",
        ) from error


def _cut_off(file: Path) -> None:
    if file.exists():
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(file, whole)


def _replace(path: Path, content: str | bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _not_written(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"the evaluation in {path} cannot be written: {error.strerror or error}",
        hint="make room, and give the same command again: what is answered is kept",
    )
