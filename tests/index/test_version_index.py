from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from registry.errors import IntegrityError
from registry.index import VersionIndex
from registry.records import Document

SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]
LAMP = Document.of("Harbour lamps", "The keeper of Orsk fills every lamp with whale oil before dusk.")
BELL = Document.of("Bell tower", "The tower's bell was cast in Velmor and rings for fog.")
FOG = Document.of("", "Fog covers Orsk for ninety days a year; c++ is not spoken there.")
LAMPS = [LAMP, BELL, FOG]


def invented(count: int, seed: int = 0, words: int = 20) -> list[Document]:
    source = random.Random(seed)
    vocabulary = ["".join(source.choices(SYLLABLES, k=3)) for _ in range(500)]
    return [
        Document.of(" ".join(source.choices(vocabulary, k=2)), " ".join(source.choices(vocabulary, k=words)))
        for _ in range(count)
    ]


def questions(documents: list[Document], count: int = 30) -> list[str]:
    return [" ".join(document.text.split()[:5]) for document in documents[:count]]


def digests(index: VersionIndex, question: str, k: int = 3) -> list[str]:
    return [match.document_digest for match in index.search(question, k)]


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".lock"}


@pytest.fixture
def lamps(tmp_path: Path) -> VersionIndex:
    VersionIndex.build(tmp_path / "lamps", "en", LAMPS)
    return VersionIndex.open(tmp_path / "lamps")


def test_documents_are_found_by_title_and_text(lamps: VersionIndex) -> None:
    assert digests(lamps, "What does the keeper fill the lamps with?") == [LAMP.digest]
    assert digests(lamps, "towers of the harbour") == [BELL.digest, LAMP.digest]
    assert digests(lamps, "Orsk", k=1) == digests(lamps, "Orsk", k=9)[:1]
    assert (lamps.documents, lamps.language) == (3, "en")
    scores = [match.score for match in lamps.search("fog bell orsk lamp", 3)]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] > 0


@pytest.mark.parametrize(
    "question",
    ['c++ OR ("', "title:fog AND -bell", "fog*", "[fog TO zebra]", "fog\0", "😀 fog", "\ud83d fog", "fog " * 2500],
)
def test_a_question_is_text_and_never_syntax(lamps: VersionIndex, question: str) -> None:
    assert FOG.digest in digests(lamps, question)


@pytest.mark.parametrize("question", ["", "   ", "😀", "?!", "the of and", "zzzunknown", "\0", "x" * 10_000])
def test_a_question_without_a_known_term_has_no_matches(lamps: VersionIndex, question: str) -> None:
    assert lamps.search(question, 3) == []


def test_few_or_no_matches_are_no_error(lamps: VersionIndex, tmp_path: Path) -> None:
    assert lamps.search("fog", 0) == []
    assert lamps.search_many(["fog", "", "bell"], 1) == [lamps.search("fog", 1), [], lamps.search("bell", 1)]
    VersionIndex.build(tmp_path / "empty", "en", [])
    assert VersionIndex.open(tmp_path / "empty").search("fog", 3) == []


def test_a_long_question_is_searched_by_its_rarest_terms(tmp_path: Path) -> None:
    documents = [*invented(300), LAMP]
    VersionIndex.build(tmp_path / "index", "en", documents)
    question = " ".join(document.text for document in documents[:100])[:10_000] + " whale"
    assert LAMP.digest in digests(VersionIndex.open(tmp_path / "index"), question, k=301)


@pytest.mark.parametrize("language", ["ja", "zh"])
def test_text_without_spaces_is_found_by_parts(tmp_path: Path, language: str) -> None:
    tower = Document.of("灯台", "北の港の灯台はVelmor社が1901年に建てた。")
    cat = Document.of("猫", "港の猫は魚を食べる。")
    VersionIndex.build(tmp_path / "index", language, [tower, cat])
    index = VersionIndex.open(tmp_path / "index")
    assert digests(index, "灯台はいつ建てた?", k=1) == [tower.digest]
    assert digests(index, "velmor") == digests(index, "1901") == [tower.digest]
    assert digests(index, "魚") == [cat.digest]
    assert set(digests(index, "港")) == {tower.digest, cat.digest}


def test_ties_are_broken_by_digest_in_any_order_of_building(tmp_path: Path) -> None:
    documents = [
        Document.of("", f"lamp {word}") for word in dict.fromkeys(" ".join(d.text for d in invented(5)).split())
    ]
    expected = sorted(document.digest for document in documents)
    for number, order in enumerate((documents, documents[::-1], sorted(documents, key=lambda d: d.digest))):
        VersionIndex.build(tmp_path / str(number), "en", order)
        index = VersionIndex.open(tmp_path / str(number))
        for k in (1, 3, 20, len(documents)):
            assert digests(index, "lamp", k) == expected[:k]


def test_building_twice_answers_the_same(tmp_path: Path) -> None:
    documents = invented(400)
    VersionIndex.build(tmp_path / "a", "en", documents)
    VersionIndex.build(tmp_path / "b", "en", documents[::-1])
    a, b = VersionIndex.open(tmp_path / "a"), VersionIndex.open(tmp_path / "b")
    assert a.search_many(questions(documents), 5) == b.search_many(questions(documents), 5)


def test_additions_answer_as_if_built(tmp_path: Path) -> None:
    documents = invented(400)
    VersionIndex.build(tmp_path / "built", "en", documents)
    VersionIndex.build(tmp_path / "v0", "en", documents[:300])
    for number in range(10):
        added = documents[300 + 10 * number : 310 + 10 * number]
        VersionIndex.derive(tmp_path / f"v{number}", tmp_path / f"v{number + 1}", added, [])
    derived, built = VersionIndex.open(tmp_path / "v10"), VersionIndex.open(tmp_path / "built")
    assert derived.documents == 400
    asked = questions(documents[::-1])
    assert derived.search_many(asked, 5) == built.search_many(asked, 5)
    assert len(list((tmp_path / "v10").glob("*.idx"))) < 10


def test_removals_are_never_found_and_leave_the_parent_alone(tmp_path: Path) -> None:
    documents = invented(300)
    VersionIndex.build(tmp_path / "parent", "en", documents)
    parent = VersionIndex.open(tmp_path / "parent")
    asked = questions(documents)
    before, files = parent.search_many(asked, 5), content_of(tmp_path / "parent")

    gone = {document.digest for document in documents[:20]}
    VersionIndex.derive(tmp_path / "parent", tmp_path / "child", [LAMP], gone)
    child = VersionIndex.open(tmp_path / "child")
    found = {match.document_digest for matches in child.search_many(asked, 300) for match in matches}
    assert child.documents == 281
    assert not found & gone
    assert digests(child, "whale oil") == [LAMP.digest]
    assert any(path.stat().st_nlink > 1 for path in (tmp_path / "child").iterdir())

    assert content_of(tmp_path / "parent") == files
    assert parent.search_many(asked, 5) == before
    assert VersionIndex.open(tmp_path / "parent").search_many(asked, 5) == before
    VersionIndex.build(tmp_path / "parent", "en", [])
    assert parent.search_many(asked, 5) == before
    assert digests(VersionIndex.open(tmp_path / "child"), "whale oil") == [LAMP.digest]


def test_scores_after_removals_stay_close_to_built_ones(tmp_path: Path) -> None:
    documents = invented(1100)
    VersionIndex.build(tmp_path / "parent", "en", documents)
    gone = [document.digest for document in documents[1000:]]
    assert VersionIndex.can_derive(tmp_path / "parent", "en", len(gone))
    VersionIndex.derive(tmp_path / "parent", tmp_path / "derived", [], gone)
    VersionIndex.build(tmp_path / "built", "en", documents[:1000])
    derived, built = VersionIndex.open(tmp_path / "derived"), VersionIndex.open(tmp_path / "built")
    for question in questions(documents):
        ours, theirs = derived.search(question, 1)[0], built.search(question, 1)[0]
        assert ours.document_digest == theirs.document_digest
        assert ours.score == pytest.approx(theirs.score, rel=0.05)


def test_deriving_is_refused_where_building_is_better(tmp_path: Path) -> None:
    VersionIndex.build(tmp_path / "large", "en", invented(1200))
    VersionIndex.build(tmp_path / "small", "en", invented(50))
    assert VersionIndex.can_derive(tmp_path / "large", "en-GB", 100)
    assert not VersionIndex.can_derive(tmp_path / "large", "en", 200)
    assert not VersionIndex.can_derive(tmp_path / "large", "de", 0)
    assert not VersionIndex.can_derive(tmp_path / "small", "en", 0)
    assert not VersionIndex.can_derive(tmp_path / "missing", "en", 0)


def test_a_parent_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    VersionIndex.build(tmp_path / "parent", "en", LAMPS[:2])
    with pytest.raises(IntegrityError, match="does not hold what its version does"):
        VersionIndex.derive(tmp_path / "parent", tmp_path / "child", [], [FOG.digest])
    with pytest.raises(IntegrityError, match="missing or damaged"):
        VersionIndex.derive(tmp_path / "nowhere", tmp_path / "child", LAMPS, [])
    assert [path.name for path in tmp_path.iterdir()] == ["parent"]


@pytest.mark.parametrize("suffix", ["idx", "store", "term"])
def test_changed_bytes_never_end_in_a_panic(tmp_path: Path, suffix: str) -> None:
    documents = invented(200)
    VersionIndex.build(tmp_path / "index", "en", documents)
    expected = VersionIndex.open(tmp_path / "index").search_many(questions(documents), 3)
    (path,) = (tmp_path / "index").glob(f"*.{suffix}")
    whole = path.read_bytes()
    damaged = 0
    for offset in range(0, len(whole), max(1, len(whole) // 20)):
        changed = bytes(byte ^ 0xFF for byte in whole[offset : offset + 64])
        # A new file in its place: the old one is still mapped, and cutting it would end this process by a bus error.
        other = tmp_path / "changed"
        other.write_bytes(whole[:offset] + changed + whole[offset + 64 :])
        other.replace(path)
        try:
            found = VersionIndex.open(tmp_path / "index").search_many(questions(documents), 3)
        except IntegrityError as error:
            damaged += "is damaged" in error.message
        else:
            damaged += found != expected
    assert damaged


def test_threads_share_an_index(tmp_path: Path) -> None:
    documents = invented(200)
    VersionIndex.build(tmp_path / "index", "en", documents)
    index = VersionIndex.open(tmp_path / "index")
    asked = questions(documents)
    expected = index.search_many(asked, 3)
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(index.search_many(asked, 3))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4


def test_importing_the_index_is_cheap() -> None:
    code = (
        "import sys, registry.retrieval; print(sorted({'torch', 'numpy', 'sqlalchemy', 'click'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert result.stdout.strip() == "[]"
