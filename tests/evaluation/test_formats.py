import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from registry.evaluation.questions import Question, read_questions


def write_json(folder: Path, value: Any, *, indent: int | None = None) -> Path:
    path = folder / "questions.json"
    path.write_text(json.dumps(value, indent=indent), encoding="utf-8")
    return path


def write_lines(folder: Path, records: Sequence[Any], name: str = "questions.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Tarn_Bridge",
            "paragraphs": [
                {
                    "context": "Tarn Bridge was built by Ila Voss in 1820.",
                    "qas": [
                        {
                            "id": "56be",
                            "question": " Who built Tarn Bridge?",
                            "answers": [
                                {"text": "Ila Voss", "answer_start": 25},
                                {"text": "Ila Voss ", "answer_start": 25},
                                {"text": "Voss", "answer_start": 29},
                            ],
                            "is_impossible": False,
                        },
                        {
                            "id": "56bf",
                            "question": "Who tore it down?",
                            "answers": [],
                            "plausible_answers": [{"text": "Ila Voss", "answer_start": 25}],
                            "is_impossible": True,
                        },
                    ],
                },
                {
                    "context": "It is 90 m long.",
                    "qas": [{"id": "56c0", "question": "How long is it?", "answers": [{"text": "90 m"}]}],
                },
            ],
        },
    ],
}


@pytest.mark.parametrize("indent", [None, 2])
def test_squad(tmp_path: Path, indent: int | None) -> None:
    assert read_questions(write_json(tmp_path, SQUAD, indent=indent)) == [
        Question("Who built Tarn Bridge?", ("Ila Voss", "Voss"), id="56be", titles=("Tarn_Bridge",)),
        Question("How long is it?", ("90 m",), id="56c0", titles=("Tarn_Bridge",)),
    ]


def test_squad_without_titles_and_identifiers(tmp_path: Path) -> None:
    qas = [{"question": "Long?", "answers": [{"text": "yes"}]}, {"question": "Old?", "answers": [{"text": "no"}]}]
    path = write_json(tmp_path, {"data": [{"paragraphs": [{"context": "...", "qas": qas}]}]})
    assert read_questions(path) == [Question("Long?", ("yes",), id="1"), Question("Old?", ("no",), id="2")]


HOTPOT = [
    {
        "_id": "5a8b",
        "answer": "yes",
        "question": "Are Tarn Bridge and Ibbet Pier both in Veldra?",
        "supporting_facts": [["Tarn Bridge", 0], ["Tarn Bridge", 2], ["Ibbet Pier", 0]],
        "context": [["Tarn Bridge", ["It is in Veldra."]], ["Ibbet Pier", ["It is in Veldra."]]],
        "type": "comparison",
        "level": "hard",
    },
    {"_id": "5a8c", "answer": "Ila Voss", "question": "Who built it?", "supporting_facts": [], "type": "bridge"},
]
TWO_WIKI = [
    {
        "_id": "0bde",
        "type": "compositional",
        "question": "Who is the mother of the builder of Tarn Bridge?",
        "context": [],
        "supporting_facts": [["Tarn Bridge", 0], ["Ila Voss", 1]],
        "evidences": [["Tarn Bridge", "builder", "Ila Voss"], ["Ila Voss", "mother", "Una Voss"]],
        "answer": "Una Voss",
        "answer_id": "Q17",
    }
]
HOTPOT_QUESTIONS = [
    Question(
        "Are Tarn Bridge and Ibbet Pier both in Veldra?",
        ("yes",),
        id="5a8b",
        type="comparison",
        titles=("Tarn Bridge", "Ibbet Pier"),
    ),
    Question("Who built it?", ("Ila Voss",), id="5a8c", type="bridge"),
]
TWO_WIKI_QUESTIONS = [
    Question(
        "Who is the mother of the builder of Tarn Bridge?",
        ("Una Voss",),
        id="0bde",
        type="compositional",
        titles=("Tarn Bridge", "Ila Voss"),
    )
]


@pytest.mark.parametrize(
    ("records", "questions"), [(HOTPOT, HOTPOT_QUESTIONS), (TWO_WIKI, TWO_WIKI_QUESTIONS)], ids=["hotpot", "2wiki"]
)
def test_multihop_questions_as_a_list_or_line_by_line(
    tmp_path: Path, records: list[dict[str, Any]], questions: list[Question]
) -> None:
    assert read_questions(write_json(tmp_path, records)) == questions
    assert read_questions(write_json(tmp_path, records, indent=4)) == questions
    assert read_questions(write_lines(tmp_path, records)) == questions


def test_multihop_questions_as_hugging_face_keeps_them(tmp_path: Path) -> None:
    columns = {
        "id": "5a8d",
        "question": "Who?",
        "answer": "Una",
        "supporting_facts": {"title": ["A", "B", "A"], "sent_id": [0, 1, 2]},
    }
    in_a_text = {"_id": "0bdf", "question": "Who?", "answer": "Una", "supporting_facts": '[["A", 0], ["B", 1]]'}
    assert read_questions(write_lines(tmp_path, [columns, in_a_text])) == [
        Question("Who?", ("Una",), id="5a8d", titles=("A", "B")),
        Question("Who?", ("Una",), id="0bdf", titles=("A", "B")),
    ]


def test_popqa_as_a_table(tmp_path: Path) -> None:
    path = tmp_path / "popQA.tsv"
    path.write_bytes(
        b"id\tsubj\tprop\tobj\ts_wiki_title\tquestion\tpossible_answers\r\n"
        b'42\tIla Voss\toccupation\tengineer\tIla Voss (engineer)\tWhat is Ila Voss\'s occupation?\t"[""engineer"", '
        b'""bridge builder"", ""engineer""]"\r\n'
        b"\r\n"
        b'43\tTarn\tcountry\tVeldra\t\tIn what country is Tarn?\t["Veldra"]\r\n'
    )
    assert read_questions(path) == [
        Question(
            "What is Ila Voss's occupation?",
            ("engineer", "bridge builder"),
            id="42",
            type="occupation",
            titles=("Ila Voss (engineer)",),
        ),
        Question("In what country is Tarn?", ("Veldra",), id="43", type="country"),
    ]


@pytest.mark.parametrize("answers", ['["Veldra", "Old Veldra"]', ["Veldra", "Old Veldra"]])
def test_popqa_line_by_line(tmp_path: Path, answers: object) -> None:
    record = {"id": 43, "subj": "Tarn", "prop": "country", "obj": "Veldra", "question": "In what country is Tarn?"}
    assert read_questions(write_lines(tmp_path, [record | {"possible_answers": answers}])) == [
        Question("In what country is Tarn?", ("Veldra", "Old Veldra"), id="43", type="country")
    ]


def test_a_table_may_hold_long_fields(tmp_path: Path) -> None:
    path = tmp_path / "popQA.tsv"
    path.write_text("question\tpossible_answers\nWho?\t" + json.dumps(["x" * 200_000]) + "\n", encoding="utf-8")
    assert read_questions(path) == [Question("Who?", ("x" * 200_000,), id="1")]


def test_complex_web_questions(tmp_path: Path) -> None:
    common = {"question": "Where do they speak Tarnish?", "webqsp_question": "...", "sparql": "..."}
    records = [
        common
        | {
            "ID": "Web-1_a",
            "compositionality_type": "conjunction",
            "answers": [
                {"answer": "Veldra", "answer_id": "m.01", "aliases": ["Old Veldra", "", "Veldra"]},
                {"answer": None, "answer_id": "m.02", "aliases": None},
            ],
        },
        common | {"ID": "Web-2_b", "answers": [{"answer": None, "answer_id": "m.02", "aliases": []}]},
        common | {"ID": "Web-3_c", "answer": "Ibbet"},
        common | {"ID": "Web-4_d", "answer": ["Ibbet", "Tarn"]},
        common | {"ID": "Web-5_e", "answers": ["Ibbet"]},
    ]
    question = "Where do they speak Tarnish?"
    assert read_questions(write_json(tmp_path, records)) == [
        Question(question, ("Veldra", "Old Veldra"), id="Web-1_a", type="conjunction"),
        Question(question, ("Ibbet",), id="Web-3_c"),
        Question(question, ("Ibbet", "Tarn"), id="Web-4_d"),
        Question(question, ("Ibbet",), id="Web-5_e"),
    ]


def test_beir_queries_have_no_answers(tmp_path: Path) -> None:
    records = [{"_id": "q1", "text": "bridges of Veldra", "metadata": {"year": 1820}}, {"_id": 2, "text": "piers"}]
    path = write_lines(tmp_path, records, "queries.jsonl")
    questions = [Question("bridges of Veldra", (), id="q1"), Question("piers", (), id="2")]
    assert read_questions(path) == questions
    assert read_questions(tmp_path) == questions


def test_the_content_tells_the_format_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "queries.jsonl"
    path.write_text(json.dumps(SQUAD), encoding="utf-8")
    assert [question.id for question in read_questions(path)] == ["56be", "56c0"]


def test_our_own_records_may_be_a_list_and_have_other_fields(tmp_path: Path) -> None:
    record = {"_id": 5, "question": "Who?", "answers": ["Una"], "context": "...", "data": [], "document_ids": ["d1"]}
    assert read_questions(write_json(tmp_path, [record])) == [Question("Who?", ("Una",), ("d1",), id="1")]


def test_a_single_record_may_take_many_lines(tmp_path: Path) -> None:
    path = write_json(tmp_path, {"question": "Who?", "answers": ["Una"]}, indent=2)
    assert read_questions(path) == [Question("Who?", ("Una",), id="1")]
