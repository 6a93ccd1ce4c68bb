"""Lazy pulls: manifest and texts here, adapters by range when they are asked for, in a cache that is bounded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from registry.catalog.engine import open_catalog
from registry.catalog.members import member_adapters
from registry.catalog.references import resolve
from registry.catalog.remotes.remotes import list_remotes
from registry.digests import sha256_hex
from registry.errors import HubError, IntegrityError, NotFoundError
from registry.pipeline.build import BuildRequest, build
from registry.pipeline.export import MergeRequest, export, merge
from registry.pipeline.opened import opened
from registry.pipeline.query import Asking, open_asker
from registry.pipeline.repair.run import RepairRequest, repair
from registry.progress import Silent
from registry.settings import Home
from registry.upkeep.verify.run import VerifyRequest, verify
from tests.hub.maker import Maker
from tests.hub.server import HubServer
from tests.pipeline.conftest import SHARED, Sample, write_sample
from tests.pipeline.pulled import bring, corpus_of, publish

QUESTION = "What grinds blue barley for bakers, burns green oil and has nine locks?"


def adapters_of(home: Home, reference: str = "default") -> list[str]:
    with open_catalog(home.catalog_url) as catalog, catalog.read() as session:
        return list(member_adapters(session, resolve(session, reference)))


def cached(home: Home) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (home.hub_path / "cache").rglob("*") if path.is_file()}


def test_a_lazy_pull_leaves_the_adapters_there(shared: HubServer, ada: Maker, bob: Home) -> None:
    shared.reset_counters()
    report = bring(bob, is_lazy=True)
    assert (report.outcome, report.documents, report.remote_adapters) == ("pulled", 13, 13)
    assert not [request for request in shared.requests() if request["path"].endswith(".safetensors")]
    with opened(bob) as registry:
        assert list(registry.packs.list()) == []
        shared.reset_counters()
        wanted = adapters_of(bob)[:3]
        data = registry.adapters(wanted)
        assert {digest: sha256_hex(view) for digest, view in data.items()} == {digest: digest for digest in wanted}
        counted = shared.counters()
        assert (counted["ranged"], counted["partial"]) == (3, 3)
        assert counted["bytes_out"]["files"] == sum(view.nbytes for view in data.values())
        registry.adapters(wanted)  # from the cache now
        assert shared.counters()["ranged"] == 3
        report = verify(registry.home, registry.catalog, registry.packs, VerifyRequest(deep=True), Silent())
        assert report.findings == ()
    assert cached(bob).keys() == set(wanted)
    # All that the catalog says is as if it had been built here; the bytes come when they are read.
    assert corpus_of(bob) == corpus_of(ada.home)


def test_a_later_pull_brings_the_packs(shared: HubServer, ada: Maker, lazy: Home) -> None:
    assert bring(lazy, is_lazy=True).outcome == "equal"
    shared.reset_counters()
    report = bring(lazy)
    assert (report.outcome, report.versions, report.remote_adapters) == ("pulled", (), 0)
    assert report.packs_fetched == 1
    assert shared.counters()["requests"] <= 3
    with open_catalog(lazy.catalog_url) as catalog, catalog.read() as session:
        assert [remote.is_lazy for remote in list_remotes(session)] == [False]
    shared.reset_counters()
    assert corpus_of(lazy) == corpus_of(ada.home)
    assert bring(lazy).outcome == "equal"
    assert shared.counters()["requests"] == 1


def test_the_cache_is_bounded(shared: HubServer, ada: Maker, lazy: Home) -> None:
    size_bytes = ada.layout.size_bytes
    small = replace(lazy, cache_bytes=4 * size_bytes + 1)
    with opened(small) as registry:
        for digest in adapters_of(small):
            registry.adapters([digest])
            assert sum(cached(small).values()) <= small.cache_bytes
        last = adapters_of(small)[-1]
        assert last in cached(small)
    # A damaged file of the cache is fetched anew.
    path = next(path for path in (lazy.hub_path / "cache").rglob(last))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    shared.reset_counters()
    with opened(small) as registry:
        assert sha256_hex(registry.adapters([last])[last]) == last
    assert shared.counters()["ranged"] == 1


def test_offline_says_what_to_do(shared: HubServer, lazy: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, *_ = adapters_of(lazy)
    with opened(lazy) as registry:
        registry.adapters([first])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with opened(lazy) as registry:
        assert registry.adapters([first]).keys() == {first}
        with pytest.raises(HubError, match=f"lies only in the repository {SHARED}") as error:
            registry.adapters([first, second])
    assert f"pragreg pull {SHARED}" in (error.value.hint or "")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        bring(lazy)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with opened(lazy) as registry, pytest.raises(HubError, match=f"lies in {SHARED} at {shared.endpoint}"):
        registry.adapters([second])


def test_what_comes_by_range_is_checked(shared: HubServer, lazy: Home) -> None:
    shared.fault("corrupt", route="object", after_fraction=0.5, times=1)
    with opened(lazy) as registry:
        (first, *_) = adapters_of(lazy)
        assert sha256_hex(registry.adapters([first])[first]) == first
    assert shared.counters()["faults"] == 1
    (pack,) = [path for path in shared.state(SHARED).files if path.startswith("packs/")]
    data = bytearray(shared.read(SHARED, pack))
    data[-1] ^= 1
    shared.replace(SHARED, pack, bytes(data), keep_claims=True)
    with opened(lazy) as registry:
        with pytest.raises(IntegrityError, match="arrived with bytes of another digest"):
            registry.adapters(adapters_of(lazy))
        assert not set(cached(lazy)) - set(adapters_of(lazy))
        with pytest.raises(NotFoundError, match="lies in no pack"):
            registry.adapters(["0" * 64])


def test_only_a_small_part_of_a_large_pack_comes_by_range(hub: HubServer, ada: Maker, bob: Home) -> None:
    """Of forty adapters in a pack two are still in the corpus."""
    ada.build(dict.fromkeys(range(100, 140), 0))
    publish(ada.home)
    ada.build(dict.fromkeys(range(138, 142), 0))
    publish(ada.home)
    hub.reset_counters()
    report = bring(bob)
    assert report.remote_adapters == 0
    assert hub.counters()["ranged"] == 2
    assert report.fetched_bytes < 10 * ada.layout.size_bytes
    with opened(bob) as registry:
        report = verify(registry.home, registry.catalog, registry.packs, VerifyRequest(deep=True), Silent())
        assert report.findings == ()
    assert corpus_of(bob) == corpus_of(ada.home)


def damage(home: Home) -> int:
    """Damage the last adapter of every pack; return how many there are."""
    packs = list(Path(home.packs_url).glob("??/*.safetensors"))
    for path in packs:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    return len(packs)


def test_repair_has_lost_adapters_from_the_repository(
    shared: HubServer, ada: Maker, full: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert damage(full) == 1
    # Offline it does what it can: nothing is lost while the repository has it.
    with monkeypatch.context() as offline:
        offline.setenv("HF_HUB_OFFLINE", "1")
        (outcome,) = repair(full, RepairRequest(), Silent()).outcomes
    assert (outcome.result, f"1 adapter of it can be had of {SHARED}" in outcome.text) == ("mended", True)
    assert bring(full).remote_adapters == 0
    assert damage(full) == 2
    report = repair(full, RepairRequest(), Silent())
    assert report.is_whole
    # The other one was sound in the file that the first repair put into quarantine.
    assert any(f"1 adapter came from the repository {SHARED}" in outcome.text for outcome in report.outcomes)
    with monkeypatch.context() as offline, opened(full) as registry:
        offline.setenv("HF_HUB_OFFLINE", "1")
        assert registry.adapters(adapters_of(full)).keys() == set(adapters_of(full))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Path) -> tuple[Home, Sample]:
    """A home with a corpus that was really trained."""
    from registry.catalog import schema
    from registry.pipeline.recipes import RecipeRequest
    from registry.settings import create_home

    folder = tmp_path_factory.mktemp("trained")
    sample = write_sample(folder / "sample")
    home = create_home(folder / "home", base_model=str(tiny_model_path))
    schema.upgrade(home.catalog_url)
    build(home, request_for(sample, tiny_model_path, RecipeRequest), Silent())
    return home, sample


def request_for(sample: Sample, model: Path, recipe: type) -> BuildRequest:
    settings = {"epochs": 8, "rank": 2, "learning_rate": 1e-2}
    return BuildRequest(
        sources=(str(sample.documents),),
        recipe=recipe(base_model=str(model), dtype="float32", settings=settings),
        augmenter=f"import:{sample.augmentations}",
        device="cpu",
        workers=1,
    )


def answer(home: Home, merge: str = "near") -> tuple[str, list[str]]:
    with open_asker(home, "default", device="cpu") as asker:
        (found,) = asker.ask([QUESTION], Asking(k=3, merge=merge, max_new_tokens=12, log=False))
    return found.answer, [hit.document.title for hit in found.hits]


ASK = """
import json, sys
from pathlib import Path
from registry.pipeline.query import Asking, open_asker
from registry.settings import open_home
with open_asker(open_home(Path(sys.argv[1])), "default", device="cpu") as asker:
    (found,) = asker.ask([sys.argv[2]], Asking(k=3, max_new_tokens=12, log=False))
print(json.dumps([found.answer, [hit.document.title for hit in found.hits]]))
"""


def test_a_lazy_corpus_answers_as_the_first_home_does(
    hub: HubServer, trained: tuple[Home, Sample], bob: Home, tmp_path: Path
) -> None:
    home, sample = trained
    publish(home)
    bring(bob, is_lazy=True)
    expected = answer(home)
    hub.reset_counters()
    # In a process of its own, as `pragreg query` is: three documents, three ranges, each once.
    asked = subprocess.run(
        [sys.executable, "-c", ASK, str(bob.path), QUESTION], env=os.environ, capture_output=True, text=True, check=True
    )
    assert tuple(json.loads(asked.stdout)) == expected
    assert hub.counters()["ranged"] == 3
    assert len(expected[1]) == 3
    # The common part is made of all adapters, each fetched once.
    assert answer(bob, "near+common") == answer(home, "near+common")
    assert hub.counters()["ranged"] == sample.count
    one, other = adapters_of(bob)[:2]
    (exported,) = export(bob, [one], tmp_path / "exported")
    (direct,) = export(home, [one], tmp_path / "direct")
    assert (exported.folder / "adapter_model.safetensors").read_bytes() == (
        direct.folder / "adapter_model.safetensors"
    ).read_bytes()
    assert merge(bob, MergeRequest((one, other), "default", tmp_path / "merged"), Silent()).digests == (one, other)


def test_a_build_of_the_same_sources_after_a_pull_trains_nothing(
    hub: HubServer, trained: tuple[Home, Sample], bob: Home, tiny_model_path: Path
) -> None:
    from registry.pipeline.recipes import RecipeRequest

    home, sample = trained
    publish(home)
    bring(bob, is_lazy=True)
    summary = build(bob, request_for(sample, tiny_model_path, RecipeRequest), Silent())
    assert (summary.trained, summary.reused, summary.created) == (0, sample.count, False)
    assert summary.version.reference == "default@v1"
    # Without the hub nothing else would be needed but the bytes.
    bring(bob)
    assert answer(bob) == answer(home)
