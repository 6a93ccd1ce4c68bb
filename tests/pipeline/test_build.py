"""Building: what is trained, what is reused, what a bad input costs, who may build."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.catalog.builds import begin_build
from registry.catalog.members import members
from registry.errors import BusyError, InputError, Interrupted, NotFoundError, StorageError, UsageError
from registry.pipeline.build import BuildSummary
from registry.pipeline.opened import opened
from registry.pipeline.search import search
from registry.progress import Silent
from registry.settings import Home
from tests.pipeline.conftest import TEXTS, Sample

Builder = Callable[..., BuildSummary]


def adapters_of(home: Home, reference: str = "default") -> dict[str, str]:
    with opened(home) as registry, registry.catalog.read() as session:
        return {document.digest: adapter for document, adapter in members(session, registry.version(reference))}


def test_the_first_build_trains_every_document(home: Home, run_build: Builder, sample: Sample) -> None:
    summary = run_build()
    assert (summary.documents, summary.trained, summary.reused) == (sample.count, sample.count, 0)
    assert summary.created
    assert summary.version.number == 1
    assert summary.first_loss is not None
    assert summary.last_loss is not None
    assert summary.last_loss < summary.first_loss
    assert len(adapters_of(home)) == sample.count
    _, hits = search(home, "default", "Who grinds blue barley?", 2)
    assert hits[0].document.title == "The Mill"


def test_an_unchanged_corpus_trains_nothing_and_makes_no_version(run_build: Builder, sample: Sample) -> None:
    first, again = run_build(), run_build()
    assert (again.trained, again.reused, again.created) == (0, sample.count, False)
    assert again.version.digest == first.version.digest


def test_an_edited_document_is_the_only_one_trained(home: Home, run_build: Builder, sample: Sample) -> None:
    run_build()
    before = adapters_of(home)
    records = [json.loads(line) for line in sample.documents.read_text().splitlines()]
    records[2]["text"] = "The lamp of Ostrel burns red oil now, since the nut trees froze."
    sample.documents.write_text("".join(json.dumps(record) + "\n" for record in records))
    summary = run_build()
    assert (summary.trained, summary.reused, summary.version.number) == (1, sample.count - 1, 2)
    after = adapters_of(home)
    assert len(set(before.items()) & set(after.items())) == sample.count - 1
    assert adapters_of(home, "default@v1") == before
    _, hits = search(home, "default", "What colour is the oil of the lamp?", 1)
    assert "red oil" in hits[0].document.text
    _, old_hits = search(home, "default@v1", "What colour is the oil of the lamp?", 1)
    assert "green oil" in old_hits[0].document.text


def test_two_homes_give_the_same_digests(home: Home, other_home: Home, run_build: Builder) -> None:
    assert run_build().version.digest == run_build(home=other_home).version.digest
    assert adapters_of(home) == adapters_of(other_home)


def test_workers_give_the_same_digests_as_one_process(home: Home, other_home: Home, run_build: Builder) -> None:
    run_build()
    run_build(home=other_home, workers=2)
    assert adapters_of(home) == adapters_of(other_home)


def test_another_recipe_trains_anew_and_the_old_version_stays(home: Home, run_build: Builder, sample: Sample) -> None:
    first = run_build()
    second = run_build(settings={"rank": 3})
    assert second.trained == sample.count
    assert second.version.number == 2
    assert adapters_of(home, "default@v1").values() != adapters_of(home).values()
    back = run_build(settings={"rank": 2})
    assert (back.trained, back.reused) == (0, sample.count)
    assert back.version.digest == first.version.digest


def test_small_packs_are_combined(home: Home, run_build: Builder) -> None:
    run_build()
    with opened(home) as registry:
        assert len(list(registry.packs.list())) == 1
        registry.adapters(adapters_of(home).values())


def test_a_lost_pack_is_trained_again(home: Home, run_build: Builder, sample: Sample) -> None:
    first = run_build()
    for file in Path(home.packs_url).rglob("*.safetensors"):
        file.unlink()
    again = run_build()
    assert again.trained == sample.count
    assert again.version.digest == first.version.digest
    with opened(home) as registry:
        registry.adapters(adapters_of(home).values())


def test_a_store_that_is_not_mounted_costs_nothing(home: Home, run_build: Builder, tmp_path: Path) -> None:
    first = run_build()
    mounted, away = Path(home.packs_url), tmp_path / "away"
    mounted.rename(away)
    mounted.mkdir()
    with pytest.raises(StorageError, match="nothing at all"):
        run_build()
    mounted.rmdir()
    away.rename(mounted)
    again = run_build()
    assert (again.trained, again.version.digest) == (0, first.version.digest)


def test_the_same_text_twice_is_one_document_with_two_places(run_build: Builder, sample: Sample) -> None:
    sample.documents.write_text(sample.documents.read_text() * 2)
    summary = run_build()
    assert (summary.documents, summary.places, summary.trained) == (sample.count, 2 * sample.count, sample.count)


def test_a_document_without_augmentation_is_still_encoded(home: Home, run_build: Builder, sample: Sample) -> None:
    lines = sample.augmentations.read_text().splitlines()
    sample.augmentations.write_text("\n".join(lines[1:]) + "\n")
    summary = run_build()
    assert summary.documents_without_pairs == 1
    assert summary.trained == sample.count
    assert len(adapters_of(home)) == sample.count


@pytest.mark.parametrize(
    ("line", "wrong"),
    [("{broken", "JSON"), ('{"id": "x", "title": "No text"}', "text"), ('{"text": "   "}', "empty")],
)
def test_bad_input_is_named_and_nothing_is_trained(
    home: Home, run_build: Builder, sample: Sample, line: str, wrong: str
) -> None:
    with sample.documents.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=rf"documents\.jsonl.*{sample.count + 1}") as raised:
        run_build()
    assert wrong.lower() in (raised.value.message + (raised.value.hint or "")).lower()
    with pytest.raises(NotFoundError), opened(home) as registry:
        registry.version("default")
    summary = run_build(skip_invalid=True)
    assert summary.documents == sample.count
    assert [skipped.line for skipped in summary.skipped] == [sample.count + 1]


def test_a_bad_input_leaves_the_last_version(home: Home, run_build: Builder, sample: Sample) -> None:
    version = run_build().version
    sample.documents.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError):
        run_build()
    with opened(home) as registry:
        assert registry.version("default") == version


def test_a_running_build_keeps_others_out_and_a_dead_one_does_not(
    home: Home, run_build: Builder, sample: Sample
) -> None:
    summary = run_build()
    with opened(home) as registry:
        recipe = summary.version.recipe_digest

        def hold(pid: int) -> None:
            with registry.catalog.write() as session:
                begin_build(
                    session,
                    "default",
                    recipe_digest=recipe,
                    who="someone",
                    host=os.uname().nodename,
                    pid=pid,
                    is_alive=lambda *_: True,
                )

        hold(os.getppid())
        with pytest.raises(BusyError, match="someone"):
            run_build()
        with registry.catalog.write() as session:
            from registry.catalog.builds import BuildCounts, finish_build

            finish_build(session, summary.build_id + 1, status="failed", counts=BuildCounts(), error=None)
        hold(2**22 - 3)
    assert not run_build().created


def test_stopping_keeps_what_was_finished(home: Home, run_build: Builder, sample: Sample) -> None:
    class Stopping(Silent):
        def advance(self, count: int = 1, *, note: str = "") -> None:
            if note.startswith("loss"):
                raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        run_build(progress=Stopping())
    summary = run_build()
    assert 2 <= summary.reused < sample.count
    assert summary.trained == sample.count - summary.reused


def test_an_imported_corpus_asks_for_its_file_again(run_build: Builder) -> None:
    run_build()
    with pytest.raises(UsageError) as raised:
        run_build(augmenter=None)
    assert "import:FILE" in (raised.value.hint or "")


def test_sources_that_hold_nothing_are_refused(run_build: Builder, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run_build(sources=(str(tmp_path / "missing"),))


def test_every_title_is_found_by_its_own_words(home: Home, run_build: Builder) -> None:
    run_build()
    for title, text in TEXTS.values():
        _, hits = search(home, "default", f"{title}: {text}", 1)
        assert hits[0].document.title == title
