"""A program that runs gc, killing it at every point in turn, and prints how often and what there is at the end.

    python killed_collections.py HOME

Every gc that is killed is a fork of this process and begins with the same registry. The points are all before which
something on the disk changes: a write, a sync, a renaming, a deletion or a commit, and after every commit.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy.engine.default import DefaultDialect

from registry.catalog import schema
from registry.catalog.builds import stage
from registry.catalog.engine import Catalog, open_catalog
from registry.catalog.models import BuildRow, utc_now
from registry.catalog.pins import pin
from registry.index import VersionIndex
from registry.settings import Home, create_home
from registry.store.packs import PackStore
from tests.catalog.workshop import document, placed
from tests.upkeep.corpus_maker import CorpusMaker, adapter_of, files_below

CHANGES = ("os.remove", "os.rename", "os.rmdir")


class Deadly:
    """Kills its own process at the n-th event."""

    def __init__(self, events: int) -> None:
        self._left = events

    def event(self, *_: object) -> None:
        self._left -= 1
        if self._left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, function: Callable[..., Any], *, after: bool = False) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.event()
            result = function(*arguments, **options)
            if after:
                self.event()
            return result

        return counted

    def arm(self) -> None:
        """From now on count whatever changes something on the disk."""
        os.write = self.before(os.write)
        os.fsync = self.before(os.fsync)
        DefaultDialect.do_commit = self.before(DefaultDialect.do_commit, after=True)  # type: ignore[method-assign]
        sys.addaudithook(lambda name, _: self.event() if name in CHANGES else None)


def fill(maker: CorpusMaker) -> None:
    """Make a registry of which gc has to take something of every kind."""
    maker.build({0: 0, 1: 0})  # all of it dies
    maker.build(dict.fromkeys(range(4), 1))  # is pinned
    maker.build(dict.fromkeys(range(10, 18), 0))  # half of it dies
    maker.build(dict.fromkeys(range(10, 22), 0))  # and half of this
    maker.build({10: 0, 11: 0, 12: 0, 20: 0, 21: 0})
    with maker.catalog.write() as session:
        pin(session, maker.version("handbook@v2"))
    for number in (1, 5):
        VersionIndex.build(maker.home.index_folder(maker.version(f"handbook@v{number}")), "en", [document(number)])
    stranger = adapter_of(99, 0, maker.recipe)
    maker.packs.write([(stranger.digest, stranger.data)])
    (Path(maker.home.packs_url) / "1-00.partial").write_bytes(b"half a pack")
    over = maker.begin("almanac")
    with maker.catalog.write() as session:
        stage(session, over, [placed(0)])
        session.get_one(BuildRow, over).status = "failed"
        session.get_one(BuildRow, over).finished_at = utc_now()
    maker.age()


def kills(maker: CorpusMaker, template: Path) -> Iterator[bool]:
    """Run gc until it gets to its end, each time killed one event later; yield after each kill whether it was."""
    for events in range(10_000):
        restore(maker, template)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                Deadly(events).arm()
                maker.collect(keep_last=1)
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
            raise SystemExit("gc failed instead of being killed")
        yield not os.WIFEXITED(status)
        if os.WIFEXITED(status):
            return


def restore(maker: CorpusMaker, template: Path) -> None:
    maker.catalog.close()  # its connections; what it has compiled stays
    maker.packs.close()
    shutil.rmtree(maker.home.path)
    shutil.copytree(template, maker.home.path, copy_function=shutil.copy2)


def ending(maker: CorpusMaker) -> dict[str, Any]:
    """What there is after a whole gc: every file but the catalog's and the readers', and the versions."""
    maker.collect(keep_last=1)
    folder = maker.home.path
    files = [str(path.relative_to(folder)) for path in files_below(folder)]
    kept = [name for name in files if not name.startswith(("catalog.sqlite", "readers/"))]
    with maker.catalog.read() as session:
        marks = sorted(row.reference for row in unmarked(session))
    return {**maker.state(), "files": kept, "open": marks}


def main() -> None:
    home: Home = create_home(Path(sys.argv[1]))
    schema.upgrade(home.catalog_url)
    catalog: Catalog = open_catalog(home.catalog_url)
    maker = CorpusMaker(home, catalog, PackStore(home.packs_url))
    fill(maker)
    catalog.close()
    template = home.path.with_name("template")
    shutil.copytree(home.path, template, copy_function=shutil.copy2)
    expected = ending(maker)
    killed, wrong = 0, []
    for was_killed in kills(maker, template):
        killed += was_killed
        whole = maker.state()["whole"]
        assert isinstance(whole, dict)
        with catalog.read() as session:
            needed = {version.reference for version in unmarked(session)} | {"handbook@v2", "handbook@v5"}
        if lost := [reference for reference in sorted(needed) if not whole[reference]]:
            wrong.append(f"after {killed} events {lost} were not whole")
        if (found := ending(maker)) != expected:
            wrong.append(f"after {killed} events the next gc ended with {found}")
    print(json.dumps({"killed": killed, "wrong": wrong, "end": expected}))


def unmarked(session: Any) -> list[Any]:
    from registry.catalog.upkeep.retention import Retention, judge_versions

    return [item.version for item in judge_versions(session, Retention(utc_now()))]


if __name__ == "__main__":
    main()
