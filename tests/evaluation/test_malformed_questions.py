import json
from pathlib import Path
from typing import Any

import pytest

from registry.errors import InputError
from registry.evaluation.questions import read_questions

HOTPOT = {"_id": "5a8b", "question": "Who?", "answer": "Una", "supporting_facts": [["Tarn", 0]], "type": "bridge"}
COMPLEX = {"ID": "Web-1", "question": "Who?", "compositionality_type": "conjunction"}
POPQA = "id\tprop\tquestion\tpossible_answers\n"


def squad(**fields: Any) -> Any:
    good = {"id": "1", "question": "Who?", "answers": [{"text": "Una"}]}
    qas = [good, {name: value for name, value in (good | fields).items() if value is not None}]
    return {"data": [{"title": "Tarn", "paragraphs": [{"context": "...", "qas": qas}]}]}


def refusal(path: Path, content: str | bytes) -> InputError:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_questions(path)
    return caught.value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Who built it?\n", "{path}: not JSON, and its first line does not name the columns of a TSV table"),
        ('"Who built it?"\n', "{path}: not JSON, and"),
        ("\n[1, 2\n", "{path}:3: not JSON: Expecting ',' delimiter at character 1"),
        ('{\n "data": [}\n', "{path}:2: not JSON: Expecting value at character 11"),
        (b'[\n{"question": "Wh\xff?"}]', "{path}:2: not UTF-8 at byte 16"),
        ("PK\x03\x04", "{path}: not JSON, and"),
        ('["Who?"]', "{path}: record 1: not a JSON object"),
        ("[]", "question file {path} holds no question"),
        ("", "question file {path} holds no question"),
        (POPQA, "question file {path} holds no question"),
        ("{}\n", "{path}:1: its fields (none) are of no known format"),
        ('{"prompt": "Who?", "reply": "x"}\n', "{path}:1: its fields ('prompt', 'reply') are of no known format"),
        ('{"_id": "d1", "title": "Tarn", "text": "A bridge."}', "{path}:1: its fields ('_id', 'title', 'text') are"),
        ("query-id\tcorpus-id\tscore\nq1\td1\t1\n", "{path}:2: its fields ('query-id', 'corpus-id', 'score') are"),
    ],
)
def test_a_file_that_is_no_question_file(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "questions"
    error = refusal(path, content)
    assert error.message.startswith(message.replace("{path}", str(path)))
    for name in ("JSON Lines", "SQuAD", "HotpotQA", "2WikiMultihopQA", "PopQA", "ComplexWebQuestions", "BEIR"):
        assert name in (error.hint or "")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"data": {}}, ": 'data' is missing or not a list"),
        ({"data": ["x"]}, ": data[0]: not a JSON object"),
        ({"data": [{"title": "Tarn"}]}, ": data[0]: 'paragraphs' is missing or not a list"),
        (squad(question=" "), ": data[0].paragraphs[0].qas[1]: 'question' is missing or empty"),
        (squad(answers=None), ": data[0].paragraphs[0].qas[1]: 'answers' is missing or not a list"),
        (squad(answers=[]), ": data[0].paragraphs[0].qas[1]: 'answers' is empty"),
        (squad(answers=[{"text": ""}]), ": data[0].paragraphs[0].qas[1].answers[0]: 'text' is missing or empty"),
        ([HOTPOT, HOTPOT | {"answer": ""}], ": record 2: 'answer' is missing or empty"),
        ([{"_id": "5a8b", "question": "Who?"}], ": record 1: 'answer' is missing or empty"),
        ([HOTPOT, 7], ": record 2: not a JSON object"),
        ([HOTPOT | {"question": 7}], ": record 1: 'question' is missing or empty"),
        ([HOTPOT | {"supporting_facts": 7}], ": record 1: 'supporting_facts' is not a list of [title, "),
        ([HOTPOT | {"supporting_facts": ["Tarn"]}], ": record 1: 'supporting_facts' is not a list of [title, "),
        ([HOTPOT | {"supporting_facts": [[0, "Tarn"]]}], ": record 1: 'supporting_facts' is not a list of texts"),
        ([HOTPOT | {"supporting_facts": {"title": 7}}], ": record 1: 'supporting_facts' is not a list of texts"),
        ([HOTPOT | {"supporting_facts": "Tarn"}], ": record 1: 'supporting_facts' is not JSON: "),
        ([COMPLEX], ": record 1: 'answer' is missing or empty"),
        ([COMPLEX | {"answers": "Una"}, COMPLEX | {"answers": 7}], ": record 2: 'answers' is missing or empty"),
        ([COMPLEX | {"answers": [{"answer": "x"}, 7]}], ": record 1: answers[1]: not a JSON object"),
        ([COMPLEX | {"answers": [{"answer": ["x"]}]}], ": record 1: answers[0]: 'answer' is neither a text"),
        ([COMPLEX | {"answers": [{"aliases": "x"}]}], ": record 1: answers[0]: 'aliases' is not a list of texts"),
        ([{"_id": "q1", "text": " "}], ": record 1: 'text' is missing or empty"),
        ([{"_id": None, "text": "bridges"}], ": record 1: '_id' is missing or empty"),
        ([{"possible_answers": ["x"]}], ": record 1: 'question' is missing or empty"),
    ],
)
def test_a_wrong_json_record_is_named(tmp_path: Path, value: Any, message: str) -> None:
    path = tmp_path / "questions.json"
    error = refusal(path, json.dumps(value, indent=1))
    assert error.message.startswith(f"{path}{message}")
    assert "known formats" in (error.hint or "")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("43\tcountry\tWhere?", "has 3 columns, the header has 4"),
        ("43\tcountry\t \t[]", "'possible_answers' is empty"),
        ('43\tcountry\t \t["x"]', "'question' is missing or empty"),
        ("43\tcountry\tWhere?\tVeldra", "'possible_answers' is not JSON: "),
        ('43\tcountry\tWhere?\t{"a": 1}', "'possible_answers' is not a list of texts"),
        ("43\tcountry\tWhere?\t[1]", "'possible_answers' is not a list of texts"),
        ('43\tcountry\tWhere?\t"["x"]"', "not a row of a TSV table: "),
        ('43\tcountry\t"Where?\t["x"]', "not a row of a TSV table: "),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "popQA.tsv"
    error = refusal(path, f'{POPQA}42\tcountry\tWhere is it?\t"[""Tarn""]"\n{row}\n')
    assert error.message.startswith(f"{path}:3: {message}")


def test_a_table_without_its_answers_is_named(tmp_path: Path) -> None:
    error = refusal(tmp_path / "popQA.tsv", "question\tprop\tsubj\tobj\nWhere?\tcountry\tTarn\tVeldra\n")
    assert "'possible_answers' is not a list of texts" in error.message


def test_a_folder_without_queries_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"queries\.jsonl cannot be read"):
        read_questions(tmp_path)


def test_only_questions_without_an_answer_are_no_questions(tmp_path: Path) -> None:
    path = tmp_path / "squad.json"
    content = {"data": [{"paragraphs": [{"qas": [{"question": "Who?", "answers": [], "is_impossible": True}]}]}]}
    assert refusal(path, json.dumps(content)).message == f"question file {path} holds no question"
