"""Relevance judgements: which documents answer a query, and how well, as BEIR keeps them."""

from __future__ import annotations

from pathlib import Path

from registry.errors import InputError
from registry.evaluation.record_files import Malformed, Record, read_records, told

COLUMNS = ("query-id", "corpus-id", "score")
TEST_QRELS = Path("qrels") / "test.tsv"

_HINT = "judgements are a TSV table whose first line names the columns: query-id, corpus-id, score"


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Read judgements: for every query the grades of documents by identifier, 0 for one that is not relevant.

    A folder stands for the test split of a BEIR data set in it. Of several grades of one document the last counts, as
    in BEIR.

    Raises:
        InputError: the file cannot be read, is not such a table or holds no row, or a row is wrong; the message names
            file and line.
    """
    grades: dict[str, dict[str, int]] = {}
    with told("judgement file", path, path_hint="check the path after --qrels", hint=_HINT):
        file = path / TEST_QRELS if path.is_dir() else path
        for record in read_records(file):
            query, document, grade = _judgement(record)
            grades.setdefault(query, {})[document] = grade
    if not grades:
        raise InputError(f"judgement file {file} holds no judgement", hint=_HINT)
    return grades


def _judgement(record: Record) -> tuple[str, str, int]:
    missing = [name for name in COLUMNS if name not in record.fields]
    if missing:
        raise record.wrong(f"the table has no column {', '.join(map(repr, missing))}")
    grade = record.label("score")
    try:
        return record.text("query-id"), record.text("corpus-id"), int(grade)
    except Malformed:
        raise
    except ValueError as error:
        raise record.wrong(f"'score' is {grade!r}, not a whole number") from error
