from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
from sqlalchemy import update

from registry.catalog.engine import open_catalog
from registry.catalog.history import list_version_lines, show_version
from registry.catalog.listing import list_corpora, show_corpus
from registry.catalog.models import VersionRow, utc_now
from registry.catalog.recipes import recipe_of_corpus
from registry.catalog.versions import (
    alias_history,
    aliases,
    list_aliases,
    list_pins,
    pin,
    remove_alias,
    resolve,
    rollback,
    set_alias,
    unpin,
)
from registry.errors import NotFoundError, UsageError
from registry.records import Version
from tests.catalog.workshop import Workshop, placed

MOVER = """
import sys
from registry.catalog.engine import open_catalog
from registry.catalog.versions import resolve, set_alias
url, who, first = sys.argv[1:]
with open_catalog(url) as catalog:
    with catalog.read() as session:
        versions = [resolve(session, f"handbook@v{number}") for number in (1, 2, 3)]
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(25):
        with catalog.write() as session:
            set_alias(session, versions[(number + int(first)) % 3], "production", who=who)
"""


def collect(workshop: Workshop, version: Version) -> None:
    with workshop.catalog.write() as session:
        session.execute(update(VersionRow).where(VersionRow.number == version.number).values(collected_at=utc_now()))


def test_a_rollback_moves_latest_and_keeps_history(workshop: Workshop) -> None:
    one, _ = workshop.build([placed(1)])
    two, _ = workshop.build([placed(2)])
    with workshop.catalog.write() as session:
        found = rollback(session, "handbook@v1", who="bo")
    assert (found.from_version, found.to_version) == (two, one)
    with workshop.catalog.write() as session:
        again = rollback(session, f"handbook@{one.digest[:8]}", who="bo")
    assert (again.from_version, again.to_version) == (one, one)
    with workshop.catalog.read() as session:
        assert resolve(session, "handbook") == one
        moves = alias_history(session, "handbook", "latest")
        assert [(move.from_version, move.to_version, move.who) for move in moves] == [
            (None, 1, "ada"),
            (1, 2, "ada"),
            (2, 1, "bo"),
        ]
        with pytest.raises(NotFoundError, match="no version 'v9'"):
            rollback(session, "handbook@v9")


def test_after_a_rollback_the_corpus_is_shown_as_it_was(workshop: Workshop) -> None:
    first = workshop.recipe
    workshop.build([placed(1), placed(2)])
    workshop.recipe = replace(first, epochs=9)
    workshop.__post_init__()
    two, _ = workshop.build([placed(1)])
    with workshop.catalog.read() as session:
        (line,) = list_corpora(session)
        assert (line.version, line.versions, line.documents, line.digest) == (2, 2, 1, two.digest)
    with workshop.catalog.write() as session:
        one = rollback(session, "handbook@v1").to_version
    with workshop.catalog.read() as session:
        (line,) = list_corpora(session)
        assert (line.version, line.versions, line.documents) == (1, 2, 2)
        assert (line.digest, line.recipe_digest) == (one.digest, first.digest)
        assert show_corpus(session, "handbook").digest == one.digest
        assert recipe_of_corpus(session, "handbook") == first


def test_aliases_are_removed_and_their_history_stays(workshop: Workshop) -> None:
    one, _ = workshop.build([placed(1)])
    workshop.build([placed(1)], corpus="other")
    with workshop.catalog.write() as session:
        set_alias(session, one, "production", who="ada")
        lines = list_aliases(session)
        assert [(line.corpus, line.name, line.version, line.who) for line in lines] == [
            ("handbook", "latest", 1, "ada"),
            ("handbook", "production", 1, "ada"),
            ("other", "latest", 1, "ada"),
        ]
        assert remove_alias(session, "handbook", "production", who="bo") == 1
    with workshop.catalog.read() as session:
        assert [line.name for line in list_aliases(session, "handbook")] == ["latest"]
        moves = alias_history(session, "handbook", "production")
        assert [(move.from_version, move.to_version, move.who) for move in moves] == [(None, 1, "ada"), (1, None, "bo")]
        with pytest.raises(NotFoundError, match="no version 'production'"):
            resolve(session, "handbook@production")
        with pytest.raises(NotFoundError, match="never had an alias 'staging'"):
            alias_history(session, "handbook", "staging")
    with workshop.catalog.write() as session, pytest.raises(NotFoundError, match="no alias 'production'") as caught:
        remove_alias(session, "handbook", "production")
    assert caught.value.hint == "it has latest (v1)"
    with workshop.catalog.write() as session, pytest.raises(UsageError, match="'latest' cannot be removed"):
        remove_alias(session, "handbook", "latest")


def test_pins(workshop: Workshop) -> None:
    one, _ = workshop.build([placed(1)])
    workshop.build([placed(2)])
    with workshop.catalog.write() as session:
        assert pin(session, one, reason="audit", who="ada")
        assert not pin(session, one, who="bo")
    with workshop.catalog.read() as session:
        (line,) = list_pins(session, "handbook")
        assert (line.corpus, line.version, line.reason, line.who) == ("handbook", 1, "audit", "ada")
        assert [shown.pinned for shown in list_version_lines(session, "handbook")] == [False, True]
        assert show_version(session, "handbook@v1").pin == line
        assert show_version(session, "handbook@v2").pin is None
    with workshop.catalog.write() as session:
        assert not pin(session, one, reason="audit of May", who="bo")
        assert [(item.reason, item.who) for item in list_pins(session)] == [("audit of May", "bo")]
        assert unpin(session, one)
        assert not unpin(session, one)
        assert list_pins(session) == []


def test_a_collected_version_is_named_by_nothing(workshop: Workshop) -> None:
    one, _ = workshop.build([placed(1)])
    workshop.build([placed(2)])
    collect(workshop, one)
    uses = (
        lambda session: rollback(session, "handbook@v1"),
        lambda session: set_alias(session, one, "production"),
        lambda session: pin(session, one),
    )
    for use in uses:
        with workshop.catalog.write() as session, pytest.raises(NotFoundError, match="handbook@v1 was collected on"):
            use(session)
    with workshop.catalog.read() as session:
        assert aliases(session, "handbook") == {"latest": 2}
        assert list_pins(session) == []
        assert show_version(session, "handbook@v1").line.collected_at is not None


def test_versions_are_listed_and_shown(workshop: Workshop) -> None:
    one, _ = workshop.build([placed(1), placed(2)])
    workshop.build([placed(5)], corpus="other")
    two, _ = workshop.build([placed(2), placed(3, source="b.jsonl"), placed(4)])
    with workshop.catalog.write() as session:
        set_alias(session, one, "production")
        set_alias(session, one, "best")
    with workshop.catalog.read() as session:
        lines = list_version_lines(session)
        assert [(line.corpus, line.version, line.aliases) for line in lines] == [
            ("handbook", 2, ("latest",)),
            ("other", 1, ("latest",)),
            ("handbook", 1, ("best", "production")),
        ]
        assert [line.version for line in list_version_lines(session, "handbook", limit=1, offset=1)] == [1]
        shown = show_version(session, "handbook")
    assert (shown.line.digest, shown.line.parent, shown.line.documents) == (two.digest, 1, 3)
    assert (shown.line.size_bytes, shown.line.message, shown.sources) == (3_000, "a build", 2)
    assert shown.base_model == workshop.recipe.base_model
    assert shown.difference is not None
    assert (shown.difference.added, shown.difference.removed, shown.difference.kept) == (2, 1, 1)


def test_two_processes_that_move_an_alias_follow_each_other(any_url: str) -> None:
    with open_catalog(any_url) as catalog:
        workshop = Workshop(catalog)
        for number in range(3):
            workshop.build([placed(number)])
        movers = [
            subprocess.Popen(
                [sys.executable, "-c", MOVER, any_url, who, str(first)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for first, who in enumerate(("ada", "bo"))
        ]
        for mover in movers:
            assert mover.stdout is not None
            assert mover.stdout.readline() == "ready\n"
        for mover in movers:
            assert mover.stdin is not None
            mover.stdin.write("go\n")
            mover.stdin.flush()
        for mover in movers:
            _, errors = mover.communicate(timeout=60)
            assert (mover.returncode, errors) == (0, "")
        with catalog.read() as session:
            moves = alias_history(session, "handbook", "production")
            assert aliases(session, "handbook")["production"] == moves[-1].to_version
    assert {move.who for move in moves} == {"ada", "bo"}
    for before, after in pairwise(moves):
        assert before.to_version == after.from_version != after.to_version
