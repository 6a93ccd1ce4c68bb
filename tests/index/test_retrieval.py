from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from registry.errors import IntegrityError
from registry.index import VersionIndex
from registry.records import Document, Hit
from registry.retrieval import hits_of

DOCUMENTS = [Document.of("Lamps", "lamp oil"), Document.of("Bells", "bell and lamp"), Document.of("Fog", "fog")]
MEMBERS = {document.digest: (document, document.digest[::-1]) for document in DOCUMENTS}


def look_up(digests: Sequence[str]) -> Mapping[str, tuple[Document, str]]:
    return {digest: MEMBERS[digest] for digest in digests}


@pytest.fixture
def index(tmp_path: Path) -> VersionIndex:
    VersionIndex.build(tmp_path / "index", "en", DOCUMENTS)
    return VersionIndex.open(tmp_path / "index")


def test_matches_become_ranked_hits(index: VersionIndex) -> None:
    hits, nothing = hits_of(index.search_many(["Which lamp?", "unknown"], 3), look_up)
    assert nothing == ()
    assert [hit.rank for hit in hits] == [1, 2]
    assert [hit.document for hit in hits] == DOCUMENTS[:2]
    assert hits[0] == Hit(1, hits[0].score, DOCUMENTS[0], DOCUMENTS[0].digest[::-1])
    assert hits[0].score > hits[1].score > 0


def test_nothing_is_looked_up_without_matches(index: VersionIndex) -> None:
    assert hits_of([index.search("unknown", 3)], lambda _: pytest.fail("looked up")) == [()]


def test_an_index_of_another_version_is_refused(index: VersionIndex) -> None:
    with pytest.raises(IntegrityError, match=DOCUMENTS[2].digest[:12]) as caught:
        hits_of([index.search("fog", 3)], lambda _: {})
    assert "index" in (caught.value.hint or "")
