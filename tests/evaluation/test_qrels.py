from pathlib import Path

import pytest

from registry.errors import InputError
from registry.evaluation.qrels import read_qrels


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def test_grades_are_read_by_query_and_document(tmp_path: Path) -> None:
    path = write(
        tmp_path / "qrels" / "test.tsv",
        b"query-id\tcorpus-id\tscore\r\nq1\td1\t2\r\nq1\td2\t0\r\n\r\n7\t8\t1\r\nq1\td1\t1\r\n",
    )
    grades = {"q1": {"d1": 1, "d2": 0}, "7": {"8": 1}}
    assert read_qrels(path) == grades
    assert read_qrels(tmp_path) == grades


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"q1\td1\t1\nq1\td2\t1\n", ":2: the table has no column 'query-id', 'corpus-id', 'score'"),
        (b"query-id\tcorpus-id\nq1\td2\n", ":2: the table has no column 'score'"),
        (b"query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\n", ":3: has 2 columns, the header has 3"),
        (b"query-id\tcorpus-id\tscore\nq1\td1\t0.5\n", ":2: 'score' is '0.5', not a whole number"),
        (b"query-id\tcorpus-id\tscore\nq1\t \t1\n", ":2: 'corpus-id' is missing or empty"),
        (b"query-id\tcorpus-id\tscore\n\xff\td1\t1\n", ":2: not UTF-8 at byte 0"),
        (b"q1 0 d1 1\n", ": not JSON, and its first line"),
        (b"query-id\tcorpus-id\tscore\n", " holds no judgement"),
        (b"", " holds no judgement"),
    ],
)
def test_wrong_judgements_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path / "test.tsv", content)
    with pytest.raises(InputError) as caught:
        read_qrels(path)
    assert f"{path}{message}" in caught.value.message
    assert "query-id, corpus-id, score" in (caught.value.hint or "")


def test_missing_judgements_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.tsv cannot be read"):
        read_qrels(tmp_path / "absent.tsv")
    with pytest.raises(InputError, match=r"qrels/test\.tsv cannot be read"):
        read_qrels(tmp_path)
