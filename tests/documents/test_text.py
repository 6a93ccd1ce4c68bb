from __future__ import annotations

import unicodedata

import pytest

from registry.documents import ReadOptions
from registry.records import Document
from tests.documents.reader import Reader, places, shown


def test_a_short_text_is_one_document_named_after_its_file(reader: Reader) -> None:
    documents = reader.read_content("lib/north_harbour-guide.txt", "The lamp is green.\n\nIt burns oil.\n")
    assert shown(documents) == [("north harbour guide", "The lamp is green.\n\nIt burns oil.")]
    assert places(documents) == [("lib/north_harbour-guide.txt", 0, None)]


def test_passages_of_a_text_are_numbered_through(reader: Reader) -> None:
    text = "\n\n".join(f"Berth {number} belongs to the Orrin family and is dry at low tide." for number in range(40))
    documents = reader.read_content("berths.txt", text)
    assert places(documents) == [("berths.txt", number, None) for number in range(len(documents))]
    assert "\n\n".join(placed.document.text for placed in documents) == text
    assert all(80 <= len(placed.document.text.split()) <= 125 for placed in documents)


def test_a_long_text_is_cut_as_evenly_across_blocks(reader: Reader) -> None:
    sentences = [
        f"In the year {number} a ship with {number * 7} barrels came to the old harbour." for number in range(6000)
    ]
    documents = reader.read_content(
        "ships.txt", "\n".join(" ".join(sentences[at : at + 9]) for at in range(0, 6000, 9))
    )
    assert " ".join(placed.document.text for placed in documents).split() == " ".join(sentences).split()
    assert all(placed.document.text.endswith(".") for placed in documents)
    assert all(60 <= len(placed.document.text.split()) <= 125 for placed in documents)


def test_a_chinese_text_of_one_line(reader: Reader) -> None:
    text = "白沙镇的灯塔建于一八三二年。" * 700
    documents = reader.read_content("灯塔.txt", text)
    assert "".join(placed.document.text for placed in documents) == text
    assert max(len(placed.document.text) for placed in documents) <= 250


@pytest.mark.parametrize(
    "content",
    [
        "The café is open.\nIt is cheap.",
        unicodedata.normalize("NFD", "The café is open.\nIt is cheap."),
        "\ufeffThe café is open.\r\nIt is cheap.\r\n",
        "The café is open.\rIt is cheap.",
        "\n\n  The café is open.\nIt is cheap.  \n\n",
    ],
)
def test_the_same_text_is_the_same_document_however_it_is_written(reader: Reader, content: str) -> None:
    (document,) = reader.read_content("cafe.txt", content)
    assert document.document == Document.of("cafe", "The café is open.\nIt is cheap.")


def test_control_characters_become_spaces(reader: Reader) -> None:
    assert shown(reader.read_content("a.txt", "A \x1b[31mred\x07 lamp.")) == [("a", "A  [31mred  lamp.")]


def test_many_empty_lines_are_one(reader: Reader) -> None:
    assert shown(reader.read_content("a.txt", "One." + "\n" * 200_000 + "Two.")) == [("a", "One.\n\nTwo.")]


def test_words_option(reader: Reader) -> None:
    text = " ".join(f"Lamp {number} is lit." for number in range(20))
    assert len(reader.read_content("a.txt", text, ReadOptions(words=20))) == 4
