"""Retrievals: their names, and what is remembered of them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from registry.errors import NotFoundError, StorageError
from registry.merging.methods import Coefficients, parse_merge
from registry.pipeline import retrievals
from registry.pipeline.opened import Registry
from registry.pipeline.retrievals import (
    MOST_ALIKE,
    NamedDocuments,
    Retrieval,
    Retrieved,
    parse_name,
    recall,
    remember,
    remember_hits,
    retrieval_name,
    retrieval_of,
)
from registry.pipeline.search import search
from registry.records import Document, Hit
from registry.settings import Home

A, B, C = "a" * 64, "b" * 64, "c" * 64
RETRIEVAL = Retrieval("handbook", A, (Retrieved(B, C, 0.25), Retrieved(C, B, 1 / 3)), 0.125)


@pytest.mark.parametrize(
    ("text", "reference", "documents"),
    [
        ("handbook:1f2e", "handbook", ("1f2e",)),
        ("handbook@v3:1f2e8a,77c0d1", "handbook@v3", ("1f2e8a", "77c0d1")),
        ("hand.book-2_x@production:" + A, "hand.book-2_x@production", (A,)),
        ("handbook@sha256:1f2e:77c0", "handbook@sha256:1f2e", ("77c0",)),
    ],
)
def test_names_of_documents(text: str, reference: str, documents: Sequence[str]) -> None:
    assert parse_name(text) == NamedDocuments(reference, tuple(documents))


def test_a_digest_names_a_retrieval() -> None:
    assert parse_name(A) == A


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "handbook", "handbook@v3", "handbook:", "handbook:1f2", "handbook:1F2E", "handbook:1f2e,"),
        *("handbook:1f2e,,1f2e", "handbook: 1f2e", "handbook:1f2e\n", "\nhandbook:1f2e", "handbook@:1f2e", "@v3:1f2e"),
        *("../../etc:1f2e", "handbook/../x:1f2e", "handbook@../x:1f2e", "/etc/passwd", "..", "handbook:1f2e/../.."),
        *("hand\0book:1f2e", "handbook:1f2e\0", "Hörbuch:1f2e", "handbook:１f2e", "\ud800:1f2e", A + "0", A[:-1]),
        *("A" * 64, "handbook:" + ",".join(["1f2e"] * 33), "h" * 65 + ":1f2e", "handbook:" + "a" * 65),
    ],
)
def test_everything_else_is_no_name(text: str) -> None:
    assert parse_name(text) is None


def test_a_huge_name_costs_no_time() -> None:
    started = time.perf_counter()
    for huge in ("a" * 5_000_000, "handbook:" + "1f2e," * 1_000_000, "handbook@" + "sha256:" * 500_000):
        assert parse_name(huge) is None
    assert time.perf_counter() - started < 1


def test_a_remembered_retrieval_is_found_in_another_process(home: Home) -> None:
    digest = remember(home, RETRIEVAL)
    assert digest == RETRIEVAL.digest
    code = (
        "import sys; from pathlib import Path; from registry.settings import open_home;"
        "from registry.pipeline.retrievals import recall;"
        "assert not {'torch', 'sqlalchemy', 'numpy'} & sys.modules.keys();"
        "print(recall(open_home(Path(sys.argv[1])), sys.argv[2]))"
    )
    done = subprocess.run([sys.executable, "-c", code, home.path, digest], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (repr(RETRIEVAL), "")


def test_everything_in_a_retrieval_decides_its_digest() -> None:
    one, other = RETRIEVAL.documents
    changed = [
        replace(RETRIEVAL, corpus="other"),
        replace(RETRIEVAL, version_digest=B),
        replace(RETRIEVAL, common=0.0),
        replace(RETRIEVAL, documents=(other, one)),
        replace(RETRIEVAL, documents=(one,)),
        replace(RETRIEVAL, documents=(replace(one, factor=0.25000000000000006), other)),
        replace(RETRIEVAL, documents=(replace(one, adapter=A), other)),
        replace(RETRIEVAL, documents=(replace(one, document=A), other)),
    ]
    assert len({each.digest for each in [RETRIEVAL, *changed]}) == len(changed) + 1


@pytest.mark.parametrize("damage", [b"", b"{}", b"[" * 10_000, replace(RETRIEVAL, common=0.5).encoded, None])
def test_an_altered_or_missing_one_is_not_found(home: Home, damage: bytes | None) -> None:
    digest = remember(home, RETRIEVAL)
    (file,) = (home.path / "retrievals").rglob("*.json")
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)
    assert recall(home, digest) is None
    assert remember(home, RETRIEVAL) == digest
    assert recall(home, digest) == RETRIEVAL


def test_a_file_of_its_own_digest_that_is_no_retrieval_is_not_found(home: Home) -> None:
    for data in (b"{}", b"3", b"[" * 30_000, RETRIEVAL.encoded.replace(b"handbook", b"../../etc")):
        digest = retrievals.sha256_hex(data)
        file = home.path / "retrievals" / digest[:2] / f"{digest}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        assert recall(home, digest) is None


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "x", "a" * 63, "A" * 64])
def test_only_a_digest_is_looked_for(home: Home, name: str) -> None:
    assert recall(home, name) is None


def test_the_last_used_are_kept(home: Home) -> None:
    variants = (replace(RETRIEVAL, common=float(number)) for number in itertools.count())
    alike = (each for each in variants if each.digest.startswith("7e"))
    first, second = next(alike), next(alike)
    for number, each in enumerate([first, second, *itertools.islice(alike, MOST_ALIKE - 2)]):
        remember(home, each)
        file = home.path / "retrievals" / "7e" / f"{each.digest}.json"
        os.utime(file, (number, number))
    assert recall(home, first.digest) == first  # a use
    remember(home, next(alike))
    assert recall(home, first.digest) == first
    assert recall(home, second.digest) is None
    folder = home.path / "retrievals" / "7e"
    assert len(list(folder.iterdir())) == MOST_ALIKE
    for left, age in ("old", 7200), ("new", 5):
        (folder / f"{left}.partial").touch()
        os.utime(folder / f"{left}.partial", (time.time() - age,) * 2)
    remember(home, next(alike))
    assert {path.name for path in folder.iterdir() if path.suffix != ".json"} == {"new.partial"}


def test_a_home_that_cannot_be_written_is_an_error_of_ours(home: Home) -> None:
    (home.path / "retrievals").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        remember(home, RETRIEVAL)


def test_hits_without_weight_are_left_out(engine_home: Home) -> None:
    question = "What is in Note 4?"
    version, hits = search(engine_home, "default@v1", question, 3)
    factors = Coefficients((0.75,) + (0.0,) * (len(hits) - 1), 0.25)
    retrieval = retrieval_of(version, hits, factors)
    assert retrieval.documents == (Retrieved(hits[0].document.digest, hits[0].adapter_digest, 0.75),)
    assert (retrieval.corpus, retrieval.version_digest, retrieval.common) == ("default", version.digest, 0.25)
    name = retrieval_name(version.reference, [one.document for one in retrieval.documents])
    assert name == f"default@v1:{hits[0].document.digest[:12]}"
    with pytest.raises(NotFoundError, match="nothing to merge"):
        retrieval_of(version, (), Coefficients())


@pytest.mark.parametrize("merge", ["near", "softmax:4", "uniform+common+orthogonal", "0.5,0.5,0"])
def test_a_retrieval_has_the_factors_of_its_merge(engine_home: Home, registry: Registry, merge: str) -> None:
    version, found = search(engine_home, "default@v1", "Note 4", 3)
    hits = [replace(hit, score=score) for hit, score in zip(found, (9.0, 8.0, 1.0), strict=False)]
    assert len(hits) == 3
    retrieval = recall(engine_home, remember_hits(engine_home, version, hits, parse_merge(merge, 3)))
    assert retrieval is not None
    factors = [one.factor for one in retrieval.documents]
    expected = {"near": [0.5, 0.5], "0.5,0.5,0": [0.5, 0.5]}.get(merge)
    assert expected is None or factors == expected
    assert bool(retrieval.common) == ("common" in merge)
    if merge == "softmax:4":
        assert sum(factors) == pytest.approx(1)
        assert factors == sorted(factors, reverse=True)


def test_fewer_hits_than_weights_take_the_first(engine_home: Home) -> None:
    version, _ = search(engine_home, "default@v1", "Note 4", 1)
    hit = Hit(1, 3.0, Document.of("x", "y"), A)
    retrieval = recall(engine_home, remember_hits(engine_home, version, [hit], parse_merge("0.7,0.2,0.1", 3)))
    assert retrieval is not None
    assert [one.factor for one in retrieval.documents] == [0.7]


def test_many_processes_remember_side_by_side(home: Home, tmp_path: Path) -> None:
    code = (
        "import sys; from dataclasses import replace; from pathlib import Path;"
        "from registry.settings import open_home; from registry.pipeline import retrievals as r;"
        "home = open_home(Path(sys.argv[1])); r.MOST_ALIKE = 1;"
        "one = r.Retrieval('handbook', 'a' * 64, (r.Retrieved('b' * 64, 'c' * 64, 1.0),));"
        "[r.remember(home, replace(one, common=float(n))) for n in range(400)]"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, home.path], stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert [process.communicate()[1] for process in running] == ["", "", ""]
    assert all(len(list(folder.iterdir())) <= 3 for folder in (home.path / "retrievals").iterdir())
