from __future__ import annotations

import csv
import gzip
import io
import json

import pytest

from registry.documents import ReadOptions
from registry.errors import InputError
from tests.documents.reader import Reader, places, shown


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.mark.parametrize("text", ["text", "contents", "content", "passage", "body", "paragraph", "Text"])
@pytest.mark.parametrize(("record_id", "title"), [("id", "title"), ("_id", "name"), ("ID", "Title")])
def test_the_usual_names_are_known(reader: Reader, record_id: str, title: str, text: str) -> None:
    documents = reader.read_content("a.jsonl", lines({record_id: "r1", title: "Lamp", text: "Green.", "metadata": {}}))
    assert shown(documents) == [("Lamp", "Green.")]
    assert places(documents) == [("a.jsonl#L1", 0, "r1")]


def test_fields_may_be_named(reader: Reader) -> None:
    options = ReadOptions(text_field="answer", title_field="topic", id_field="nr")
    record = {"nr": 12, "topic": "Lamp", "answer": "Green.", "text": "Not this."}
    documents = reader.read_content("a.jsonl", lines(record), options)
    assert shown(documents) == [("Lamp", "Green.")]
    assert places(documents)[0][2] == "12"


def test_title_and_identifier_may_be_missing_or_null(reader: Reader) -> None:
    documents = reader.read_content("a.jsonl", lines({"text": "One."}, {"text": "Two.", "title": None, "id": None}))
    assert shown(documents) == [("", "One."), ("", "Two.")]
    assert [place[2] for place in places(documents)] == [None, None]


def test_a_long_record_is_cut_and_its_passages_are_numbered(reader: Reader) -> None:
    text = " ".join(f"Berth {number} belongs to the Orrin family and is dry at low tide." for number in range(40))
    documents = reader.read_content(
        "a.jsonl", "\n" + lines({"id": "x", "title": "Berths", "text": text}, {"text": "End."})
    )
    assert " ".join(placed.document.text for placed in documents[:-1]) == text
    assert {placed.document.title for placed in documents[:-1]} == {"Berths"}
    passages = len(documents) - 1
    assert places(documents) == [("a.jsonl#L2", n, "x") for n in range(passages)] + [("a.jsonl#L3", 0, None)]


def test_the_same_record_twice_is_one_document_at_two_places(reader: Reader) -> None:
    first, second = reader.read_content("a.jsonl", lines({"id": "x", "text": "One."}, {"id": "x", "text": "One. "}))
    assert first.document == second.document
    assert first.place != second.place


def test_beir_layout(reader: Reader) -> None:
    record = {"_id": "MED-10", "title": "Lamp oil", "text": "Whale oil burns bright.", "metadata": {"url": "x"}}
    documents = reader.read_content("corpus.jsonl", lines(record))
    assert (shown(documents), places(documents)[0][2]) == ([("Lamp oil", "Whale oil burns bright.")], "MED-10")


def test_dpr_layout(reader: Reader) -> None:
    table = 'id\ttext\ttitle\n1\t"The ""Orrin"" lamp, green."\tLamp\n2\tPlain text, with comma\t"Oil"\n'
    documents = reader.read_content("psgs_w100.tsv.gz", gzip.compress(table.encode()))
    assert shown(documents) == [("Lamp", 'The "Orrin" lamp, green.'), ("Oil", "Plain text, with comma")]
    assert places(documents) == [("psgs_w100.tsv.gz#L2", 0, "1"), ("psgs_w100.tsv.gz#L3", 0, "2")]


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t")])
def test_tables_written_by_csv_come_back(reader: Reader, name: str, delimiter: str) -> None:
    rows = [["r1", "One, two", 'He said "lit".\nTwice.'], ["r2", "", "Tab\there."], ["r3", "é", "ends in \\"]]
    target = io.StringIO()
    csv.writer(target, delimiter=delimiter).writerows([["\ufeffid", "title", "text"], *rows])
    documents = reader.read_content(name, target.getvalue())
    assert shown(documents) == [(title, text) for _, title, text in rows]
    assert places(documents) == [(f"{name}#L2", 0, "r1"), (f"{name}#L4", 0, "r2"), (f"{name}#L5", 0, "r3")]


def test_a_field_may_be_large(reader: Reader) -> None:
    text = "The lamp of Orrinsay is green. " * 20_000
    documents = reader.read_content("a.csv", f'title,text\nLamp,"{text}"\n')
    assert " ".join(placed.document.text for placed in documents) == text.strip()


def test_windows_lines_and_a_missing_last_line_end(reader: Reader) -> None:
    assert shown(reader.read_content("a.csv", "text\r\nOne.\r\n\r\nTwo.")) == [("", "One."), ("", "Two.")]
    assert shown(reader.read_content("a.jsonl", '\ufeff{"text": "One."}\r\n{"text": "Two."}')) == [
        ("", "One."),
        ("", "Two."),
    ]


def test_escaped_control_characters_become_spaces(reader: Reader) -> None:
    documents = reader.read_content("a.jsonl", r'{"title": "A\u0000\nB", "text": "One\u0000two \ud83d\ude00"}')
    assert shown(documents) == [("A B", "One two 😀")]


@pytest.mark.parametrize("options", [ReadOptions(), ReadOptions(text_field="words"), ReadOptions(title_field="words")])
def test_a_table_without_the_field_names_its_columns(reader: Reader, options: ReadOptions) -> None:
    with pytest.raises(InputError, match=r"a\.csv:1: .*'number', 'note'") as caught:
        reader.read_content("a.csv", "number,note\n1,x\n", options)
    assert "--text-field" in str(caught.value.hint)
