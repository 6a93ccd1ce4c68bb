"""Rebase: both homes went on from a common version, and ours goes on top of theirs; nothing of either is lost."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from registry.catalog.aliases import aliases, rollback
from registry.catalog.differences import compare, list_changes
from registry.catalog.engine import open_catalog
from registry.catalog.members import members
from registry.catalog.references import list_versions, resolve
from registry.errors import DivergedError, UsageError
from registry.pipeline.opened import opened
from registry.pipeline.pull.rebase import followed
from registry.progress import Silent
from registry.published import Standing, VersionDelta
from registry.records import Place
from registry.settings import Home
from registry.upkeep.verify.run import VerifyRequest, verify
from tests.hub.maker import Maker, maker
from tests.hub.server import HubServer
from tests.pipeline.conftest import NOTES, SHARED
from tests.pipeline.pulled import bring, corpus_of, publish

COMMON = {**NOTES, 3: 1, 5: 2, 12: 0}
"""The second version that ``ada`` has."""


def content(home: Home, reference: str = "default") -> dict[str, str]:
    """The documents of a version with their adapters."""
    with open_catalog(home.catalog_url) as catalog, catalog.read() as session:
        return {document.digest: adapter for document, adapter in members(session, resolve(session, reference))}


def expected(made: Maker, takes: Mapping[int, int]) -> set[str]:
    return {made.document(number, take).digest for number, take in takes.items()}


def messages(home: Home) -> list[str]:
    with open_catalog(home.catalog_url) as catalog, catalog.read() as session:
        return [version.message for version in list_versions(session, "default")]


def is_sound(home: Home) -> bool:
    with opened(home) as registry:
        report = verify(home, registry.catalog, registry.packs, VerifyRequest(deep=True), Silent())
    # Versions that the tests make themselves have no index.
    assert [finding for finding in report.findings if finding.kind not in ("index-missing", "adapter-unused")] == []
    return True


def test_ours_on_top_of_theirs(shared: HubServer, ada: Maker, full: Home) -> None:
    ada.build({**COMMON, 1: 1, 20: 0}, message="theirs one")
    theirs = {**COMMON, 1: 1, 20: 0, 2: 1}
    del theirs[4]
    ada.build(theirs, message="theirs two")
    publish(ada.home)
    ours = {**COMMON, 7: 1, 21: 0}
    del ours[8]
    with maker(full) as mine:
        mine.build({**COMMON, 7: 1}, message="ours one")
        before = content(full, "default@v3")
        mine.build(ours, message="ours two")
    report = bring(full, rebase=True)
    assert (report.outcome, report.version, report.conflicts) == ("rebased", "default@v7", ())
    assert report.versions == ("default@v5", "default@v6", "default@v7")
    both = {**theirs, 7: 1, 21: 0}
    del both[8]
    assert content(full).keys() == expected(ada, both)
    # The versions of both are there, each as it was.
    assert content(full, "default@v3") == before
    assert content(full, "default@v4").keys() == expected(ada, ours)
    assert content(full, "default@v6") == content(ada.home)
    assert messages(full)[2:] == [
        "ours one", "ours two", "theirs one", "theirs two", f"rebase of default@v4 on {SHARED}@v4"
    ]  # fmt: skip
    with open_catalog(full.catalog_url) as catalog, catalog.read() as session:
        assert aliases(session, "default")["latest"] == 7
        versions = list_versions(session, "default")
        assert [version.parent for version in versions] == [None, 1, 2, 3, 2, 5, 6]
        # Edits stay edits: along the lines, not one gone and one come.
        changes = compare(session, versions[5], versions[6])
        assert (changes.changed, changes.added, changes.removed) == (1, 1, 1)
        (edit, *_) = list_changes(session, changes)
        assert edit.old is not None
        assert edit.old.digest == ada.document(7, 0).digest
    assert is_sound(full)


def test_what_was_rebased_can_be_pushed_and_pulled_back(shared: HubServer, ada: Maker, full: Home) -> None:
    ada.build({**COMMON, 1: 1})
    publish(ada.home)
    with maker(full) as mine:
        mine.build({**COMMON, 7: 1})
    with pytest.raises(DivergedError):
        publish(full)
    bring(full, rebase=True)
    assert bring(full).outcome == "ahead"
    pushed = publish(full)
    assert (pushed.versions, pushed.references) == ((4,), ("default@v5",))
    assert bring(ada.home).versions == ("default@v4",)
    assert content(ada.home) == content(full)
    assert content(ada.home).keys() == expected(ada, {**COMMON, 1: 1, 7: 1})
    # And on: what comes from there now follows on ours.
    ada.build({**COMMON, 1: 1, 7: 1, 30: 0})
    publish(ada.home)
    assert bring(full).versions == ("default@v6",)
    assert content(full) == content(ada.home)
    assert is_sound(full)
    assert is_sound(ada.home)


def test_where_both_changed_a_line_ours_stays(shared: HubServer, ada: Maker, full: Home) -> None:
    theirs = {**COMMON, 1: 1, 2: 1, 6: 1}
    del theirs[9]
    ada.build(theirs)
    publish(ada.home)
    ours = {**COMMON, 1: 2, 9: 1, 6: 1}
    del ours[2]
    with maker(full) as mine:
        mine.build(ours)
    report = bring(full, rebase=True)
    # Of 1 both made another edit, 2 is gone here and edited there, 9 the other way round, 6 is the same edit.
    assert content(full).keys() == expected(ada, ours)
    assert set(report.conflicts) == {ada.document(1, 1).digest, ada.document(2, 1).digest}
    assert is_sound(full)


def test_theirs_may_hold_all_that_ours_does(shared: HubServer, ada: Maker, full: Home) -> None:
    ada.build({**COMMON, 1: 1, 7: 1})
    publish(ada.home)
    with maker(full) as mine:
        mine.build({**COMMON, 7: 1})
    report = bring(full, rebase=True)
    assert (report.outcome, report.versions, report.version) == ("rebased", ("default@v4",), "default@v4")
    assert content(full) == content(ada.home)
    assert bring(full, rebase=True).outcome == "equal"


def test_of_a_rolled_back_corpus_nothing_is_replayed(shared: HubServer, ada: Maker, full: Home) -> None:
    ada.build({**COMMON, 1: 1})
    publish(ada.home)
    with maker(full) as mine:
        mine.build({**COMMON, 7: 1})
    with open_catalog(full.catalog_url) as catalog, catalog.write() as session:
        rollback(session, "default@v2")
    assert bring(full, rebase=True).versions == ("default@v4",)
    assert content(full) == content(ada.home)
    assert content(full, "default@v3").keys() == expected(ada, {**COMMON, 7: 1})
    assert is_sound(full)


def test_another_recipe_cannot_be_rebased(shared: HubServer, ada: Maker, full: Home) -> None:
    ada.build({**COMMON, 1: 1})
    publish(ada.home)
    with maker(full, rank=2) as mine:
        mine.build({**COMMON, 7: 1})
    shared.reset_counters()
    with pytest.raises(UsageError, match="different recipes"):
        bring(full, rebase=True)
    assert shared.counters()["requests"] <= 2


def test_a_lazy_rebase(shared: HubServer, ada: Maker, full: Home) -> None:
    ada.build({**COMMON, 1: 1})
    publish(ada.home)
    with maker(full) as mine:
        mine.build({**COMMON, 7: 1})
    report = bring(full, rebase=True, is_lazy=True)
    assert (report.outcome, report.remote_adapters) == ("rebased", 1)
    assert len(corpus_of(full).versions) == 5
    assert is_sound(full)


def standing(document: str, adapter: str) -> Standing:
    return Standing(document, adapter, document, False, (Place("notes", 0),))


@pytest.mark.parametrize("seed", range(40))
def test_two_deltas_as_one(seed: int) -> None:
    """Whatever three contents follow each other, the delta from the first to the last is the same."""
    import random

    draw = random.Random(seed)

    def some() -> dict[str, str]:
        return {f"d{number}": draw.choice("xyz") for number in range(9) if draw.random() < 0.6}

    def between(old: dict[str, str], new: dict[str, str]) -> VersionDelta:
        other = [key for key in sorted(new) if old.get(key) != new[key]]
        return VersionDelta(
            frozenset(key for key in old if new.get(key) != old[key]),
            tuple(standing(key, new[key]) for key in other),
            {},
        )

    first, second, third = some(), some(), some()
    held = {one.document_digest: one for one in between(second, first).opened}
    found = followed(between(first, second), between(second, third), held)
    wanted = between(first, third)
    assert (found.closed, found.opened) == (wanted.closed, wanted.opened)
    # What came back as it was may have moved.
    assert found.moved.keys() <= {key for key in first if third.get(key) == first[key]}
