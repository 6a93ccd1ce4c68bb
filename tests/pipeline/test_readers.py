"""Leases: who reads a version is known as long as he reads it, and no longer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from threading import Thread

import pytest

from registry.catalog.models import utc_now
from registry.catalog.upkeep.retention import mark_collected
from registry.errors import NotFoundError
from registry.pipeline.build import BuildSummary
from registry.pipeline.opened import opened
from registry.pipeline.query import open_asker
from registry.records import Version
from registry.settings import Home
from registry.upkeep.readers import READERS_FOLDER, being_read, no_new_readers, reading
from tests.pipeline.conftest import ROOT

Builder = Callable[..., BuildSummary]


def version(number: int, corpus: str = "default") -> Version:
    return Version(corpus, number, "0" * 64, None, "", utc_now(), 1, "1" * 64)


def test_a_version_is_read_within_the_block(home: Home) -> None:
    assert not being_read(home, version(1))
    with reading(home, version(1)), reading(home, version(1)):
        assert being_read(home, version(1))
        assert not being_read(home, version(2))
        assert not being_read(home, version(1, corpus="another"))
    assert not being_read(home, version(1))


READER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from registry.records import Version
from registry.settings import open_home
from registry.upkeep.readers import reading
with reading(open_home(Path(sys.argv[1])), Version("default", 1, "", None, "", datetime.now(UTC), 1, "")):
    print("reading", flush=True)
    input()
"""


def test_a_killed_reader_reads_no_more(home: Home) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", READER, str(home.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "reading\n"
        assert being_read(home, version(1))
        child.kill()
        child.wait()
        assert not being_read(home, version(1))


def test_where_no_lease_can_be_kept_reading_works_without(home: Home) -> None:
    # A file where the folder should be: like a home that may only be read, also for root, who may write everywhere.
    (home.path / READERS_FOLDER).write_text("")
    with reading(home, version(1)), no_new_readers(home):
        assert not being_read(home, version(1))


def test_nobody_begins_to_read_while_it_is_decided_what_goes(home: Home) -> None:
    seen: list[bool] = []

    def read() -> None:
        with reading(home, version(1)):
            seen.append(being_read(home, version(1)))

    with no_new_readers(home):
        reader = Thread(target=read)
        reader.start()
        reader.join(0.2)
        assert reader.is_alive()
        assert not being_read(home, version(1))
    reader.join(10)
    assert seen == [True]


def test_a_query_session_reads_its_version(home: Home, run_build: Builder) -> None:
    built = run_build().version
    with open_asker(home, "default", device="cpu") as asker:
        assert being_read(home, asker.version)
    assert not being_read(home, built)


def test_a_collected_version_cannot_be_asked(home: Home, run_build: Builder) -> None:
    built = run_build().version
    with opened(home) as registry, registry.catalog.write() as session:
        mark_collected(session, [built], utc_now())
    with pytest.raises(NotFoundError, match="collected"), open_asker(home, "default", device="cpu"):
        pass
    assert not being_read(home, built)
