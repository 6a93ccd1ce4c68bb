"""Files of augmentations that someone else wrote: finding the records of a document in them.

Two formats are known by their first character. JSON Lines (``{``): one object a line with ``document_id`` or ``text``
(and perhaps ``title``), ``generator``, ``rewrites`` and ``qa``. JSON (``[``): the reference implementation's augmented
data, a list of questions whose ``augment`` lists passages with ``NAME_rewrite`` and ``NAME_qa`` for some model NAME.

A file is read once from end to end, which finds every fault in it, and keeps in memory only where each record begins;
the much smaller JSON files stay in memory.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.digests import json_digest
from registry.errors import InputError
from registry.records import StagedDocument

IMPORTED = "import"


@dataclass(frozen=True, slots=True)
class ImportedPair:
    """A question-answer pair as it stands in the file."""

    question: str
    answer: str
    full_answer: str | None = None


@dataclass(frozen=True, slots=True)
class ImportedRecord:
    """What a file says about one document; it is matched by ``document_id`` or ``text`` (with ``title`` if given)."""

    document_id: str | None
    text: str | None
    title: str | None
    generator: str
    rewrites: tuple[str, ...]
    pairs: tuple[ImportedPair, ...]

    @property
    def digest(self) -> str:
        """The identity of what the record contributes."""
        pairs = [(pair.question, pair.answer, pair.full_answer) for pair in self.pairs]
        return json_digest({"generator": self.generator, "rewrites": self.rewrites, "qa": pairs})


@dataclass(frozen=True, slots=True)
class _Entry:
    digest: str
    title_key: str | None
    place: str
    offset: int = 0
    record: ImportedRecord | None = None


class ImportFile:
    """An indexed file of augmentations."""

    def __init__(self, path: Path) -> None:
        """Read and index ``path``.

        Raises:
            InputError: the file cannot be read, is of another format, or has a faulty record; names file and line.
        """
        self.path = path
        self._entries: list[_Entry] = []
        self._by_key: dict[bytes, list[int]] = {}
        try:
            with path.open("rb") as file:
                start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
            if start == b"[":
                for place, record in _reference_records(path):
                    self._index(record, _Entry(record.digest, _title_key(record), place, record=record))
            else:
                self._index_lines()
        except OSError as error:
            raise InputError(f"augmentations {path} cannot be read: {error.strerror or error}") from error
        if not self._entries:
            raise InputError(f"{path} holds no augmentations", hint="docs/formats.md shows what can be imported")

    def __len__(self) -> int:
        """The number of records."""
        return len(self._entries)

    def _index_lines(self) -> None:
        offset = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    place = f"{self.path}:{number}"
                    record = _read_line(line, place)
                    self._index(record, _Entry(record.digest, _title_key(record), place, offset))
                offset += len(line)

    def _index(self, record: ImportedRecord, entry: _Entry) -> None:
        self._entries.append(entry)
        if record.document_id is not None:
            self._by_key.setdefault(_id_key(record.document_id), []).append(len(self._entries) - 1)
        if record.text is not None:
            self._by_key.setdefault(_text_key(record.text), []).append(len(self._entries) - 1)

    def digests(self, staged: StagedDocument) -> list[str]:
        """Return the digests of the document's records, in the order of the file."""
        return [self._entries[number].digest for number in self._find(staged)]

    def records(self, staged: StagedDocument) -> list[ImportedRecord]:
        """Return the document's records, in the order of the file.

        Raises:
            InputError: the file changed since it was indexed.
        """
        found = [self._entries[number] for number in self._find(staged)]
        if all(entry.record for entry in found):
            return [entry.record for entry in found if entry.record]
        with self.path.open("rb") as file:
            return [self._read_again(file, entry) for entry in found]

    def _read_again(self, file: Any, entry: _Entry) -> ImportedRecord:
        file.seek(entry.offset)
        record = _read_line(file.readline(), entry.place)
        if record.digest != entry.digest:
            raise InputError(f"{entry.place} changed while it was read", hint="run the same command again")
        return record

    def _find(self, staged: StagedDocument) -> list[int]:
        document = staged.document
        keys = {_id_key(name) for name in (*staged.record_ids, document.digest)}
        keys |= {_text_key(document.text), _text_key(document.title + document.text)}
        numbers = {number for key in keys for number in self._by_key.get(key, ())}
        own = _plain(document.title)
        return sorted(number for number in numbers if self._entries[number].title_key in (None, own))


def _title_key(record: ImportedRecord) -> str | None:
    """Titles only tell equal texts apart: a record that is matched by its identifier needs none."""
    return _plain(record.title) if record.title and record.document_id is None else None


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(filter(str.isalnum, folded)) or folded


def _id_key(name: str) -> bytes:
    return hashlib.sha256(b"id:" + name.encode()).digest()[:16]


def _text_key(text: str) -> bytes:
    """White space, case and punctuation differ between copies of one passage."""
    return hashlib.sha256(b"text:" + _plain(text).encode()).digest()[:16]


def _read_line(line: bytes, place: str) -> ImportedRecord:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{place} is not UTF-8") from error
    except ValueError as error:
        raise InputError(f"{place} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{place} must be a JSON object, not {_kind(value)}")
    document_id = value.get("document_id")
    if isinstance(document_id, int) and not isinstance(document_id, bool):
        value["document_id"] = str(document_id)
    document_id, text, title = (_string(value, name, place) for name in ("document_id", "text", "title"))
    if document_id is None and not text:
        raise InputError(f"{place} has neither document_id nor text", hint="one of them says which document is meant")
    rewrites = _list(value, "rewrites", place)
    if not all(isinstance(rewrite, str) for rewrite in rewrites):
        raise InputError(f"{place}: rewrites must be strings")
    return ImportedRecord(
        document_id=document_id,
        text=text,
        title=title,
        generator=str(value.get("generator") or IMPORTED),
        rewrites=tuple(rewrites),
        pairs=tuple(_pair(pair, place) for pair in _list(value, "qa", place)),
    )


def _string(value: dict[str, Any], name: str, place: str) -> str | None:
    given = value.get(name)
    if given is not None and not isinstance(given, str):
        raise InputError(f"{place}: {name} must be a string, not {_kind(given)}")
    return given


def _list(value: dict[str, Any], name: str, place: str) -> list[Any]:
    given = value.get(name)
    if given is None:
        return []
    if not isinstance(given, list):
        raise InputError(f"{place}: {name} must be a list, not {_kind(given)}")
    return given


def _pair(value: Any, place: str) -> ImportedPair:
    if not isinstance(value, dict):
        raise InputError(f"{place}: an entry of qa must be an object, not {_kind(value)}")
    question, answer = _said(value.get("question")), _said(value.get("answer"))
    if question is None or answer is None:
        raise InputError(f"{place}: an entry of qa lacks {'question' if question is None else 'answer'}")
    return ImportedPair(question, answer, _said(value.get("full_answer")))


def _said(value: Any) -> str | None:
    """Models write numbers and lists where a string was asked for."""
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list) and value and all(isinstance(part, (str, int, float)) for part in value):
        return ", ".join(map(str, value))
    return None


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}.get(
        type(value), "a number"
    )


def _reference_records(path: Path) -> Iterator[tuple[str, ImportedRecord]]:
    try:
        questions = json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno} is not JSON: {error.msg}") from error
    for number, question in enumerate(questions, 1):
        place = f"{path}: question {number}"
        if not isinstance(question, dict):
            raise InputError(f"{place} must be a JSON object, not {_kind(question)}")
        for passage in _list(question, "augment", place):
            if not isinstance(passage, dict) or not isinstance(passage.get("passage"), str):
                raise InputError(f"{place}: an entry of augment lacks its passage")
            for record in _passage_records(passage):
                yield place, record


def _passage_records(passage: dict[str, Any]) -> Iterator[ImportedRecord]:
    """One record per model that wrote about the passage; pairs that the reference would skip are skipped."""
    models = dict.fromkeys(name.rpartition("_")[0] for name in passage if name.endswith(("_rewrite", "_qa")))
    for model in models:
        rewrite, pairs = passage.get(f"{model}_rewrite"), passage.get(f"{model}_qa")
        said = [pair for pair in pairs if isinstance(pair, dict)] if isinstance(pairs, list) else []
        read = ((_said(p.get("question")), _said(p.get("answer")), _said(p.get("full_answer"))) for p in said)
        yield ImportedRecord(
            document_id=None,
            text=passage["passage"],
            title=passage["title"] if isinstance(passage.get("title"), str) else None,
            generator=model or IMPORTED,
            rewrites=(rewrite,) if isinstance(rewrite, str) else (),
            pairs=tuple(ImportedPair(q, a, full) for q, a, full in read if q is not None and a is not None),
        )
