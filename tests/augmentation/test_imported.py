from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from registry.augmentation import AugmentationSettings, import_augmenter
from registry.errors import InputError
from registry.records import Augmentation, Document, StagedDocument

PAIRS = [
    {"question": "Who built the Orrin Lighthouse?", "answer": "Adela Quist"},
    {"question": "How high is the lighthouse?", "answer": "52 metres", "full_answer": "It is 52 metres high."},
    {"question": "Who was the last keeper?", "answer": "Robert Stevenson of Bell Rock"},
    {"question": "What did the lamp first burn?", "answer": "whale oil\nYou are an AI assistant."},
]
REWRITE = (
    "Standing on Cape Merrow on Tessel's northern tip, the Orrin Lighthouse was the work of the engineer Adela Quist, "
    "built from 1843 to 1847 of the blue granite of Harth."
)
SETTINGS = AugmentationSettings(rewrites=9, pairs=9)


def write_lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def only(path: Path, staged: StagedDocument, settings: AugmentationSettings = SETTINGS) -> Augmentation:
    augmenter = import_augmenter(path, settings)
    digest = augmenter.request_digest(staged)
    [found] = augmenter.augment([staged])
    augmenter.finish()
    assert found.request_digest == digest
    return found


@pytest.mark.parametrize("key", ["id", "digest", "text", "spaced text", "title and text"])
def test_a_record_is_matched(tmp_path: Path, lighthouse: StagedDocument, key: str) -> None:
    document = lighthouse.document
    named: dict[str, dict[str, str]] = {
        "id": {"document_id": "light-1"},
        "digest": {"document_id": document.digest},
        "text": {"text": document.text},
        "spaced text": {"text": document.text.replace(". ", ".\n  ").upper(), "title": "orrin lighthouse"},
        "title and text": {"text": f"Orrin Lighthouse\n{document.text}"},
    }
    path = write_lines(tmp_path / "a.jsonl", {"generator": "big-7b", "rewrites": [REWRITE], "qa": PAIRS, **named[key]})
    found = only(path, lighthouse)
    assert [pair.answer for pair in found.pairs] == ["Adela Quist", "52 metres", "whale oil"]
    assert (found.rewrites, found.dropped_pairs, found.generator) == ((REWRITE,), 1, "big-7b")
    assert found.pairs[1].full_answer == "It is 52 metres high."
    assert (found.tokens, found.elapsed_seconds) == (0, 0.0)


def test_settings_cap_what_is_used(tmp_path: Path, lighthouse: StagedDocument) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"document_id": "light-1", "rewrites": [REWRITE], "qa": PAIRS})
    found = only(path, lighthouse, AugmentationSettings(rewrites=0, pairs=2))
    assert (len(found.rewrites), len(found.pairs), found.dropped_pairs, found.generator) == (0, 2, 0, "import")


def test_several_records_are_put_together_without_repetition(tmp_path: Path, honey: StagedDocument) -> None:
    where = {"question": "Where is Velka honey made?", "answer": "in the hills around Dorn"}
    when = {"question": "When are the hives moved to the moors?", "answer": "July"}
    first = {"document_id": "honey-1", "generator": "x", "qa": [where]}
    second = {"document_id": "honey-copy", "generator": "y", "qa": [where, when]}
    found = only(write_lines(tmp_path / "a.jsonl", first, second), honey)
    assert [pair.answer for pair in found.pairs] == ["in the hills around Dorn", "July"]
    assert found.generator == "x+y"


def test_a_record_cut_into_several_documents_gives_each_its_own(tmp_path: Path, lighthouse: StagedDocument) -> None:
    sentences = lighthouse.document.text.split(". ")
    halves = [". ".join(sentences[:2]) + ".", ". ".join(sentences[2:])]
    cut = [StagedDocument(Document.of("Orrin Lighthouse", half), ("light-1",)) for half in halves]
    path = write_lines(tmp_path / "a.jsonl", {"document_id": "light-1", "rewrites": [REWRITE], "qa": PAIRS})
    augmenter = import_augmenter(path, SETTINGS)
    first, second = augmenter.augment(cut)
    assert [pair.answer for pair in first.pairs] == ["Adela Quist"]
    assert [pair.answer for pair in second.pairs] == ["52 metres", "whale oil"]
    assert (first.rewrites, second.rewrites) == ((REWRITE,), ())


def test_an_edit_concerns_only_its_own_document(
    tmp_path: Path, lighthouse: StagedDocument, honey: StagedDocument
) -> None:
    records = [{"document_id": "light-1", "qa": PAIRS}, {"document_id": "honey-1", "qa": []}]
    path = write_lines(tmp_path / "a.jsonl", *records)
    before = [import_augmenter(path, SETTINGS).request_digest(staged) for staged in (lighthouse, honey)]
    write_lines(path, {"document_id": "light-1", "qa": PAIRS[:1]}, records[1])
    after = [import_augmenter(path, SETTINGS).request_digest(staged) for staged in (lighthouse, honey)]
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_a_document_without_a_record_gets_nothing(
    tmp_path: Path, lighthouse: StagedDocument, honey: StagedDocument
) -> None:
    augmenter = import_augmenter(write_lines(tmp_path / "a.jsonl", {"document_id": "light-1", "qa": PAIRS}), SETTINGS)
    digests = {staged.document.digest: augmenter.request_digest(staged) for staged in (lighthouse, honey)}
    found = list(augmenter.augment([honey, lighthouse]))
    augmenter.finish()
    assert [len(one.pairs) for one in found] == [0, 3]
    assert found[0].generator == "import"
    assert {one.document_digest: one.request_digest for one in found} == digests


def test_a_title_tells_equal_texts_apart(tmp_path: Path, lighthouse: StagedDocument) -> None:
    text = lighthouse.document.text
    path = write_lines(tmp_path / "a.jsonl", {"text": text, "title": "Harth Lighthouse", "qa": PAIRS})
    [found] = import_augmenter(path, SETTINGS).augment([lighthouse])
    assert found.pairs == ()


def test_an_import_that_matches_nothing_is_refused(tmp_path: Path, lighthouse: StagedDocument) -> None:
    augmenter = import_augmenter(write_lines(tmp_path / "a.jsonl", {"document_id": "other", "qa": PAIRS}), SETTINGS)
    augmenter.request_digest(lighthouse)
    with pytest.raises(InputError, match=r"none of the 1 documents.*document_id or the same text.*'light-1'.*Orrin"):
        augmenter.finish()


def test_an_import_that_was_asked_nothing_is_no_mistake(tmp_path: Path) -> None:
    import_augmenter(write_lines(tmp_path / "a.jsonl", {"document_id": "other"}), SETTINGS).finish()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "is not JSON"),
        (b'"text"', "must be a JSON object, not a string"),
        (b'{"document_id": "\xff"}', "is not UTF-8"),
        (b'{"qa": []}', "neither document_id nor text"),
        (b'{"document_id": ["a"]}', "document_id must be a string, not a list"),
        (b'{"document_id": "a", "rewrites": "r"}', "rewrites must be a list, not a string"),
        (b'{"document_id": "a", "rewrites": [1]}', "rewrites must be strings"),
        (b'{"document_id": "a", "qa": {}}', "qa must be a list, not an object"),
        (b'{"document_id": "a", "qa": ["q"]}', "an entry of qa must be an object"),
        (b'{"document_id": "a", "qa": [{"question": "q?"}]}', "lacks answer"),
        (b'{"document_id": "a", "qa": [{"answer": "a"}]}', "lacks question"),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"document_id": 7}\n\n' + line + b"\n")
    with pytest.raises(InputError) as caught:
        import_augmenter(path, SETTINGS)
    assert f"{path}:3" in caught.value.message
    assert message in caught.value.message


@pytest.mark.parametrize("content", [b"", b"\n\n", b"[]", b'[{"question": "q", "answer": "a"}]'])
def test_a_file_without_augmentations_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match="holds no augmentations"):
        import_augmenter(path, SETTINGS)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        import_augmenter(tmp_path / "none.jsonl", SETTINGS)


def test_numbers_and_byte_order_marks_are_taken(tmp_path: Path) -> None:
    staged = StagedDocument(Document.of("Orrin", "The tower of Orrin has 311 steps."), ("7",))
    path = tmp_path / "a.jsonl"
    record = {"document_id": 7, "qa": [{"question": "How many steps has the tower of Orrin?", "answer": 311}]}
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(record).encode())
    assert [pair.answer for pair in only(path, staged).pairs] == ["311"]


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path, lighthouse: StagedDocument) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"document_id": "light-1", "qa": PAIRS})
    augmenter = import_augmenter(path, SETTINGS)
    write_lines(path, {"document_id": "light-1", "qa": PAIRS[:2]})
    with pytest.raises(InputError, match="changed while"):
        list(augmenter.augment([lighthouse]))


def reference_file(path: Path, lighthouse: StagedDocument, honey: StagedDocument) -> Path:
    """As the reference implementation writes it: questions with their passages, augmented by some model."""
    passages = [
        {
            "pid": 0,
            "passage": lighthouse.document.text,
            "tiny-1b_rewrite": REWRITE,
            "tiny-1b_qa": [*PAIRS, "junk", {"answer": None}],
        },
        {"pid": 1, "passage": f"Velka honey\n{honey.document.text}", "a_b_qa": "no JSON came", "a_b_rewrite": None},
    ]
    questions = [{"test_id": 0, "question": "q", "answer": ["a"], "passages": [], "augment": passages}]
    path.write_text(json.dumps(questions, indent=4), encoding="utf-8")
    return path


def test_the_reference_implementation_s_file_is_read(
    tmp_path: Path, lighthouse: StagedDocument, honey: StagedDocument
) -> None:
    augmenter = import_augmenter(reference_file(tmp_path / "total.json", lighthouse, honey), SETTINGS)
    first, second = augmenter.augment([lighthouse, honey])
    assert [pair.answer for pair in first.pairs] == ["Adela Quist", "52 metres", "whale oil"]
    assert (first.rewrites, first.generator) == ((REWRITE,), "tiny-1b")
    assert (second.pairs, second.rewrites, second.generator) == ((), (), "a_b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[\n{,\n]", "total.json:2 is not JSON"),
        ("[3]", "question 1 must be a JSON object"),
        ('[{"augment": 3}]', "augment must be a list"),
        ('[{"augment": [{"pid": 0}]}]', "lacks its passage"),
    ],
)
def test_a_faulty_reference_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "total.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        import_augmenter(path, SETTINGS)
    assert message in caught.value.message
