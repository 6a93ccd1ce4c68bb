"""The sample corpus: readable without a skip, its augmentations complete, its questions held out and answerable."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from registry.digests import normalise_text
from registry.documents import ReadOptions, read_documents
from registry.records import PlacedDocument, Skipped

EXAMPLES = Path(__file__).parents[2] / "examples"
CORPUS = EXAMPLES / "corpus"
FILE_TYPES = {".txt", ".md", ".html", ".jsonl", ".csv", ".tsv", ".gz"}
LARGEST_OVERLAP = 0.6


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower().replace("'s", "")))


def overlap(one: frozenset[str], other: frozenset[str]) -> float:
    """Return the Jaccard index of two sets of words."""
    return len(one & other) / len(one | other)


def question_name(placed: PlacedDocument) -> str:
    """Return the identifier by which the questions call a document."""
    place = placed.place
    return place.record_id or f"{place.source_uri.rpartition('/')[2]}#{place.ordinal}"


@pytest.fixture(scope="module")
def skipped() -> list[Skipped]:
    return []


@pytest.fixture(scope="module")
def placed(skipped: list[Skipped]) -> list[PlacedDocument]:
    return list(read_documents([str(CORPUS)], ReadOptions(), skip_invalid=True, on_skip=skipped.append))


@pytest.fixture(scope="module")
def augmentations() -> list[dict[str, Any]]:
    return json_lines(EXAMPLES / "augmentations.jsonl")


@pytest.fixture(scope="module")
def questions() -> list[dict[str, Any]]:
    return json_lines(EXAMPLES / "questions.jsonl")


@pytest.fixture(scope="module")
def augmentation_of(placed: list[PlacedDocument], augmentations: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each augmentation under the digest of the one document it belongs to."""
    by_id = {one.place.record_id: one.document for one in placed if one.place.record_id}
    by_text = {one.document.text: one.document for one in placed}
    matched = {}
    for record in augmentations:
        if "document_id" in record:
            document = by_id[record["document_id"]]
        else:
            document = by_text[normalise_text(record["text"])]
            assert document.title == record["title"]
        matched[document.digest] = record
    return matched


def test_every_file_reads_without_a_skip(placed: list[PlacedDocument], skipped: list[Skipped]) -> None:
    assert skipped == []
    assert len(placed) == 32
    assert len({one.document.digest for one in placed}) == 32
    assert {path.suffix for path in CORPUS.iterdir()} == FILE_TYPES
    assert len({one.place.source_uri.rpartition("/")[2].partition("#")[0] for one in placed}) == len(
        list(CORPUS.iterdir())
    )


def test_documents_are_short_and_titled(placed: list[PlacedDocument]) -> None:
    for one in placed:
        assert one.document.title
        assert 45 <= len(one.document.text.split()) <= 70, one.document.title


def test_every_document_has_its_augmentation(
    placed: list[PlacedDocument],
    augmentations: list[dict[str, Any]],
    augmentation_of: dict[str, dict[str, Any]],
) -> None:
    assert len(augmentations) == len(placed)
    assert set(augmentation_of) == {one.document.digest for one in placed}
    for record in augmentations:
        assert record["generator"] == "handwritten"
        assert len(set(record["rewrites"])) == 3
        assert len({pair["question"] for pair in record["qa"]}) == 14


def test_answers_of_the_pairs_stand_in_their_document(
    placed: list[PlacedDocument], augmentation_of: dict[str, dict[str, Any]]
) -> None:
    for one in placed:
        text = one.document.text.lower()
        for pair in augmentation_of[one.document.digest]["qa"]:
            assert pair["answer"].lower() in text, pair
            assert pair["answer"].lower() in pair["full_answer"].lower(), pair
            assert len(pair["answer"].split()) <= 6, pair


def test_rewrites_keep_the_numbers(placed: list[PlacedDocument], augmentation_of: dict[str, dict[str, Any]]) -> None:
    numbers = re.compile(r"\d+(?:,\d{3})*")
    for one in placed:
        for rewrite in augmentation_of[one.document.digest]["rewrites"]:
            assert set(numbers.findall(rewrite)) == set(numbers.findall(one.document.text)), rewrite


def test_each_document_is_asked_three_held_out_questions(
    placed: list[PlacedDocument], questions: list[dict[str, Any]]
) -> None:
    asked = Counter(name for question in questions for name in question["document_ids"])
    assert asked == dict.fromkeys(map(question_name, placed), 3)
    assert len({question["question"] for question in questions}) == 96


def test_held_out_answers_stand_in_their_document(
    placed: list[PlacedDocument], questions: list[dict[str, Any]]
) -> None:
    text_of = {question_name(one): one.document.text.lower() for one in placed}
    for question in questions:
        (name,) = question["document_ids"]
        assert question["answers"][0].lower() in text_of[name], question
        for answer in question["answers"]:
            assert answer.replace(",", "").lower() in text_of[name].replace(",", ""), question
            assert words(answer).isdisjoint(words(question["question"]) - {"the", "a", "of"}), question
            assert len(answer.split()) <= 4, question


def test_held_out_questions_are_far_from_every_generated_one(
    questions: list[dict[str, Any]], augmentations: list[dict[str, Any]]
) -> None:
    generated = [words(pair["question"]) for record in augmentations for pair in record["qa"]]
    for question in questions:
        asked = words(question["question"])
        assert max(overlap(asked, other) for other in generated) < LARGEST_OVERLAP, question["question"]
