import subprocess
import sys
from pathlib import Path

import pytest

from registry.errors import InputError
from registry.evaluation.questions import Question, read_questions


def write(folder: Path, content: bytes) -> Path:
    path = folder / "questions.jsonl"
    path.write_bytes(content)
    return path


def test_questions_are_read_in_order(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        b'\xef\xbb\xbf{"question": " Who built Tarn Bridge? ", "answers": ["Ila Voss", "Voss"], "document_ids": ["d1"]}'
        b"\r\n"
        b"\n"
        b'{"question": "How long is it?", "answers": ["90 m"], "note": 1}',
    )
    assert read_questions(path) == [
        Question("Who built Tarn Bridge?", ("Ila Voss", "Voss"), ("d1",), id="1"),
        Question("How long is it?", ("90 m",), (), id="2"),
    ]


def test_a_question_keeps_its_identifier_and_type(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        b'{"question": "Is it long?", "answers": ["yes"], "id": "q-7", "type": "yes/no"}\n'
        b'{"question": "Is it old?", "answers": ["no"], "id": 8}\n'
        b'{"question": "Is it red?", "answers": ["no"], "id": null}\n',
    )
    questions = read_questions(path)
    assert [(question.id, question.type) for question in questions] == [("q-7", "yes/no"), ("8", ""), ("3", "")]
    assert [question.answers for question in questions] == [("yes",), ("no",), ("no",)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"question": "Who?", "answers": ["x"]', "not JSON"),
        (b'{"question": "Wh\xff?"}', "not UTF-8 at byte"),
        (b'["Who?"]', "not a JSON object"),
        (b'{"answers": ["x"]}', "'question' is missing"),
        (b'{"question": "  ", "answers": ["x"]}', "'question' is missing"),
        (b'{"question": "Who?"}', "'answers' is missing"),
        (b'{"question": "Who?", "answers": "x"}', "'answers' is not a list"),
        (b'{"question": "Who?", "answers": [" "]}', "'answers' is not a list"),
        (b'{"question": "Who?", "answers": ["x"], "document_ids": [3]}', "'document_ids' is not a list"),
        (b'{"question": "Who?", "answers": ["x"], "id": ["q"]}', "'id' is neither a text nor a number"),
        (b'{"question": "Who?", "answers": ["x"], "type": true}', "'type' is neither"),
        (b'{"question": "Who?", "answers": ["\\ud83d"]}', "half of a surrogate pair"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = write(tmp_path, b'{"question": "Fine?", "answers": ["yes"]}\n' + line + b"\n")
    with pytest.raises(InputError, match=message) as caught:
        read_questions(path)
    assert f"{path}:2" in caught.value.message


def test_an_empty_or_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no question"):
        read_questions(write(tmp_path, b"\n \n"))
    with pytest.raises(InputError, match=r"absent\.jsonl cannot be read"):
        read_questions(tmp_path / "absent.jsonl")


def test_evaluation_does_not_need_torch() -> None:
    names = ("scores", "questions", "qrels", "ranking", "paired", "latency")
    modules = ", ".join(f"registry.evaluation.{name}" for name in names)
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
