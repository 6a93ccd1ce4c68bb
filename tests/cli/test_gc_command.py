"""``pragreg gc`` as it is typed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import pytest

from cli.gc import parse_moment, parse_span
from registry.catalog.engine import Catalog
from registry.errors import UsageError
from registry.settings import Home
from registry.store.packs import PackStore
from tests.cli.conftest import Run
from tests.upkeep.corpus_maker import ADAPTER_BYTES, CorpusMaker


@pytest.fixture
def maker(home: Home, catalog: Catalog) -> Iterator[CorpusMaker]:
    """A registry of two versions that share no adapter."""
    packs = PackStore(home.packs_url)
    maker = CorpusMaker(home, catalog, packs)
    maker.build({0: 0, 1: 0})
    maker.build({0: 1, 1: 1})
    maker.age()
    yield maker
    packs.close()


def test_gc_shows_what_would_go_and_how_to_do_it(run: Run, maker: CorpusMaker) -> None:
    shown = run("gc", "--home", maker.home.path, "--keep-last", 1, "--grace", "30m")
    assert shown.status == 0
    lines = [line.split("\t") for line in shown.out.splitlines()]
    assert ["to free", "count", "size"] in lines
    assert ["adapters", "2", "6.00 kB"] in lines
    assert ["handbook@v1", "to be collected", ""] in lines
    assert ["handbook@v2", "kept", "alias latest, newest"] in lines
    assert "nothing was deleted" in shown.err
    assert "pragreg gc --keep-last 1 --grace 30m --yes" in shown.err
    assert len(list(maker.packs.list())) == 2


def test_gc_does_what_it_is_told(run: Run, maker: CorpusMaker) -> None:
    told = run("gc", "--home", maker.home.path, "--keep-last", 1, "--json").rows[0]
    done = run("gc", "--home", maker.home.path, "--keep-last", 1, "--yes", "--json").rows[0]
    assert (told["done"], done["done"]) == (False, True)
    assert told["freed"] == done["freed"]
    assert told["collected"] == done["collected"] == ["handbook@v1"]
    assert told["size_bytes"] == done["size_bytes"] > 2 * ADAPTER_BYTES
    assert done["kept"] == [{"version": "handbook@v2", "reasons": ["alias latest", "newest"]}]
    assert len(list(maker.packs.list())) == 1
    again = run("gc", "--home", maker.home.path, "--keep-last", 1, "--yes")
    assert "freed 0 B" in again.err


def test_without_a_policy_the_versions_are_not_listed(run: Run, maker: CorpusMaker) -> None:
    shown = run("gc", "--home", maker.home.path)
    assert (shown.status, "handbook@v1" in shown.out) == (0, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--grace", "soon"), "--grace is no span of time: 'soon'"),
        (("--grace", "5"), "--grace is no span of time: '5'"),
        (("--grace", "99999w"), "--grace is too long"),
        (("--keep-since", "yesterday"), "--keep-since is no date: 'yesterday'"),
        (("--keep-last", "0"), "--keep-last"),
    ],
)
def test_wrong_options_are_refused(run: Run, home: Home, options: tuple[str, str], message: str) -> None:
    refused = run("gc", "--home", home.path, *options)
    assert refused.status == 2
    assert message in refused.err


def test_an_unknown_corpus_is_refused(run: Run, home: Home) -> None:
    refused = run("gc", "--home", home.path, "--keep-last", 1, "--corpus", "atlas")
    assert (refused.status, "there is no corpus 'atlas'" in refused.err) == (5, True)


def test_spans_and_moments_are_read() -> None:
    spans = {"24h": 86_400, "30m": 1_800, "90 s": 90, "1.5d": 129_600, "2w": 1_209_600, "0": 0, "0h": 0}
    assert {text: parse_span(text) for text in spans} == spans
    assert parse_moment("2026-03-01T12:00+02:00") == datetime.fromisoformat("2026-03-01T10:00+00:00")
    assert parse_moment("2026-03-01").astimezone().isoformat().startswith("2026-03-01T00:00")
    for wrong in ("", "-1h", "h"):
        with pytest.raises(UsageError):
            parse_span(wrong)
