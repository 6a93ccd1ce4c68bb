"""Dry runs: what is said is what a build then does, and nothing is left behind."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from registry.catalog.members import member_digests
from registry.catalog.versions import set_alias
from registry.errors import InputError, NotFoundError, UsageError
from registry.pipeline.build import BuildRequest, BuildSummary
from registry.pipeline.dry_run import LISTED, DryRun, Some, dry_run
from registry.pipeline.opened import opened
from registry.pipeline.recipes import RecipeRequest
from registry.progress import Silent
from registry.settings import Home
from tests.pipeline.conftest import TEXTS, Sample, state

Builder = Callable[..., BuildSummary]
Look = Callable[..., DryRun]


@pytest.fixture
def look(home: Home, request_of: Callable[..., BuildRequest]) -> Look:
    """A function that dry-runs the build that ``run_build`` runs with the same keywords."""

    def look(*, settings: dict[str, object] | None = None, **changes: object) -> DryRun:
        return dry_run(home, replace(request_of(settings), **changes), Silent())  # type: ignore[arg-type]

    return look


def members_of(home: Home, reference: str | None) -> dict[str, str]:
    if reference is None:
        return {}
    with opened(home) as registry, registry.catalog.read() as session:
        return dict(member_digests(session, registry.version(reference)))


def titles(some: Some) -> list[str]:
    return [named.title for named in some.first]


def edit(sample: Sample, **texts: str | None) -> None:
    """Give records another text, or take them out where it is None; a record that is not there is added."""
    records = {row["id"]: row for row in map(json.loads, sample.documents.read_text().splitlines())}
    for name, text in texts.items():
        if text is None:
            del records[name]
        else:
            records[name] = {"id": name, "title": f"The {name.title()}", "text": text}
    sample.documents.write_text("".join(json.dumps(row) + "\n" for row in records.values()))


def check(said: DryRun, built: BuildSummary, home: Home) -> None:
    """Check that what a dry run said is what the build after it did."""
    before, after = members_of(home, said.against), members_of(home, built.version.reference)
    assert (said.version, said.created) == (built.version.reference, built.created)
    assert (said.documents, said.places, said.skipped) == (built.documents, built.places, built.skipped)
    assert (said.to_train.count, said.reused) == (built.trained, built.reused)
    assert {named.digest for named in said.added.first} == after.keys() - before.keys()
    assert {named.digest for named in said.removed.first} == before.keys() - after.keys()
    assert said.kept == len(before.keys() & after.keys())
    assert said.recipe_digest == built.version.recipe_digest


def test_a_first_build(home: Home, look: Look, run_build: Builder, sample: Sample) -> None:
    said = look()
    assert (said.against, said.version, said.created) == (None, "default@v1", True)
    assert (said.added.count, said.kept, said.removed.count) == (sample.count, 0, 0)
    assert sorted(titles(said.added)) == sorted(title for title, _ in TEXTS.values())
    assert said.recipe_changes == {}
    check(said, run_build(), home)


def test_an_unchanged_corpus_is_nothing_to_do(home: Home, look: Look, run_build: Builder, sample: Sample) -> None:
    run_build()
    said = look()
    assert said.is_nothing_to_do
    assert (said.kept, said.to_train, said.to_augment) == (sample.count, Some(0, ()), Some(0, ()))
    check(said, run_build(), home)


def test_edits_and_removed_and_new_documents(home: Home, look: Look, run_build: Builder, sample: Sample) -> None:
    run_build()
    edit(sample, lamp="The lamp of Ostrel burns red oil now.", well=None, quay="The quay of Lorn floats.")
    said = look()
    assert not said.is_nothing_to_do
    assert sorted(titles(said.added)) == ["The Lamp", "The Quay"]
    assert sorted(titles(said.removed)) == ["The Lamp", "The Well"]
    assert sorted(titles(said.to_train)) == ["The Lamp", "The Quay"]
    check(said, run_build(), home)


def test_another_recipe_keeps_documents_and_trains_all(
    home: Home, look: Look, run_build: Builder, sample: Sample
) -> None:
    run_build()
    said = look(settings={"rank": 3})
    assert (said.kept, said.to_train.count, said.created) == (sample.count, sample.count, True)
    assert {name: (change.before, change.after) for name, change in said.recipe_changes.items()} == {"rank": (2, 3)}
    check(said, run_build(settings={"rank": 3}), home)
    # Back again all is there, and yet it is a new version.
    said = look(settings={"rank": 2})
    assert (said.to_train.count, said.version, said.created) == (0, "default@v3", True)
    check(said, run_build(settings={"rank": 2}), home)


def test_what_latest_was_moved_away_from(home: Home, look: Look, run_build: Builder, sample: Sample) -> None:
    first = run_build().version
    edit(sample, lamp="The lamp of Ostrel burns red oil now.")
    run_build()
    with opened(home) as registry, registry.catalog.write() as session:
        set_alias(session, first, "latest")
    said = look()
    assert (said.against, said.version, said.created) == ("default@v1", "default@v2", False)
    assert not said.is_nothing_to_do
    check(said, run_build(), home)


def test_lost_adapters_leave_open_whether_a_version_is_new(
    home: Home, look: Look, run_build: Builder, sample: Sample
) -> None:
    run_build()
    for file in Path(home.packs_url).rglob("*.safetensors"):
        file.unlink()
    said = look()
    assert (said.created, said.version, said.to_train.count) == (None, "default@v1", sample.count)
    assert not said.is_nothing_to_do
    assert not run_build().created
    assert look().is_nothing_to_do


def test_augmentations_that_a_model_writes_are_to_be_written(home: Home, look: Look, run_build: Builder) -> None:
    run_build()
    said = look(augmenter="self", settings={"pairs": 1})
    assert said.augmenter == "self"
    assert said.to_augment.count == said.to_train.count == said.documents
    assert sorted(said.recipe_changes) == ["augmenter", "pairs"]


def test_nothing_is_changed(
    home: Home, look: Look, run_build: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    empty = state(home)
    look()
    assert state(home) == empty
    run_build()
    full = state(home)
    assert full != empty
    look(settings={"rank": 3}, corpus="another")
    look()
    assert state(home) == full
    assert list((tmp_path / "temporary").iterdir()) == []


def test_what_stops_a_build_stops_its_dry_run(home: Home, look: Look, run_build: Builder, sample: Sample) -> None:
    run_build(language="en")
    with pytest.raises(UsageError, match="language 'en', not 'de'"):
        look(language="de")
    with pytest.raises(UsageError, match="no file is named"):
        look(augmenter=None)
    with sample.documents.open("a") as file:
        file.write("{broken\n")
    with pytest.raises(InputError, match="JSON"):
        look()
    said = look(skip_invalid=True)
    assert said.is_nothing_to_do
    assert [skipped.line for skipped in said.skipped] == [sample.count + 1]


def test_of_many_documents_the_first_are_named(home: Home, look: Look, sample: Sample) -> None:
    edit(sample, **{f"stone {number}": f"Stone number {number} of the wall." for number in range(LISTED)})
    said = look(augmenter="none")
    assert said.added.count == sample.count + LISTED
    assert len(said.added.first) == LISTED


def test_the_recipe_is_completed_as_for_a_build(home: Home, look: Look, run_build: Builder) -> None:
    built = run_build(settings={"rank": 3})
    assert look(recipe=RecipeRequest()).recipe_digest == built.version.recipe_digest
    with pytest.raises(NotFoundError, match="no task adapter"):
        look(settings={"task_adapter": "missing"})
