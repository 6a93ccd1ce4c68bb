"""Beside each other: builds of several corpora, builds of one corpus, queries, garbage collection, lost connections."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, text

from cli.main import run as run_command
from registry.catalog import schema
from registry.catalog.adapters import pack_digests
from registry.catalog.listing import list_builds
from registry.catalog.versions import list_versions
from registry.errors import NotFoundError, StorageError
from registry.pipeline.build import BuildSummary, build
from registry.pipeline.opened import opened
from registry.pipeline.query import Asking, open_asker
from registry.progress import Silent
from registry.records import Answer
from registry.settings import Home, create_home
from registry.upkeep.gc.collect import CollectRequest, collect
from tests.pipeline.conftest import ROOT, Sample
from tests.pipeline.side_by_side import CORPORA, ROUNDS, digests, request_of, write_sources

Builder = Callable[..., BuildSummary]
PROGRAM = Path(__file__).with_name("side_by_side.py")
EVERYTHING = CollectRequest(keep_last=1, grace_seconds=0, yes=True)


@pytest.fixture(scope="module")
def one_after_the_other(tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Path) -> dict[str, list[str]]:
    """The digests of all versions of all corpora when nothing runs beside."""
    folder = tmp_path_factory.mktemp("apart")
    home = create_home(folder / "home")
    schema.upgrade(home.catalog_url)
    for number in range(ROUNDS):
        for corpus in CORPORA:
            build(home, request_of(write_sources(folder, corpus, number), corpus, str(tiny_model_path)), Silent())
    return {corpus: digests(home, corpus) for corpus in CORPORA}


@pytest.fixture(scope="module")
def beside(
    request: pytest.FixtureRequest,
    sqlite_template: Path,
    tiny_model_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[Home, Any]]:
    """Homes on SQLite and, where there is a server, on PostgreSQL, and what came of builds by several processes."""
    folder = tmp_path_factory.mktemp("beside")
    homes = {"sqlite": create_home(folder / "sqlite")}
    shutil.copyfile(sqlite_template, homes["sqlite"].path / "catalog.sqlite")
    with suppress(pytest.skip.Exception):
        url = request.getfixturevalue("module_postgres_url")
        homes["postgres"] = create_home(folder / "postgres", catalog_url=url)
    done = subprocess.run(
        [sys.executable, PROGRAM, tiny_model_path, *(home.path for home in homes.values())],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {name: (home, found[str(home.path)]) for name, home in homes.items()}


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_processes_build_beside_each_other(
    database: str,
    beside: dict[str, tuple[Home, Any]],
    one_after_the_other: dict[str, list[str]],
    request: pytest.FixtureRequest,
) -> None:
    if database not in beside:
        request.getfixturevalue("module_postgres_url")  # skips, and says why
    home, found = beside[database]
    assert found["corpora"] == one_after_the_other
    assert all(len(set(versions)) == ROUNDS for versions in found["corpora"].values())
    with opened(home) as registry, registry.catalog.read() as session:
        assert pack_digests(session) == {pack.digest for pack in registry.packs.list()}


def test_one_corpus_is_built_by_one_process_at_a_time(beside: dict[str, tuple[Home, Any]]) -> None:
    found = beside["sqlite"][1]["one_corpus"]
    refused = found["refused"]
    assert refused["error"] == "BusyError"
    holder = refused["message"].partition("is being built: ")[2]
    assert f", process {found['pid']}, since 20" in holder
    assert "--wait" in refused["hint"]
    assert found["told"] == {"said": f"waiting for the end of {holder}"}
    assert found["stopped"] == {"error": "KeyboardInterrupt"}
    # Two of its five documents are in the other corpora too.
    assert found["first"] == {"version": "lake@v1", "created": True, "trained": 3}
    assert found["waited"] == {"version": "lake@v1", "created": False, "trained": 0}
    assert found["of_killed"] is None
    assert found["after_killed"] == {"version": "lake@v2", "created": True, "trained": 1}
    assert found["builds"] == ["finished", "finished", "interrupted", "finished"]


def test_a_query_session_sees_its_version_through_builds_and_collections(
    home: Home, run_build: Builder, sample: Sample
) -> None:
    run_build()
    questions = ["Who grinds blue barley?", "What does the ferry of Tarn carry?", "Which bell?"]
    asking = Asking(k=2, max_new_tokens=6)
    finished = Event()
    failed: list[BaseException] = []

    def ten_builds() -> None:
        try:
            for number in range(10):
                rows = [json.loads(line) for line in sample.documents.read_text().splitlines()]
                rows[number % len(rows)]["text"] = f"In year {number} nobody knew of blue barley, salt or bells."
                sample.documents.write_text("".join(json.dumps(row) + "\n" for row in rows))
                assert run_build(augmenter="none", settings={"epochs": 1}).created
                with opened(home) as registry:
                    collect(home, registry.catalog, registry.packs, EVERYTHING, Silent())
        except BaseException as error:
            failed.append(error)
        finally:
            finished.set()

    with open_asker(home, "default", device="cpu") as asker:
        before = [told(answer) for answer in asker.ask(questions, asking)]
        builder = Thread(target=ten_builds)
        builder.start()
        rounds = 0
        while not finished.wait(0.05) or not rounds:
            asker.registry.packs.close()  # what is mapped would stay readable whatever becomes of its file
            assert [told(answer) for answer in asker.ask(questions, asking)] == before
            rounds += 1
        builder.join()
        assert not failed, failed
        assert [told(answer) for answer in asker.ask(questions, asking)] == before
        assert {answer[-1] for answer in before} == {"default@v1"}
    with opened(home) as registry:
        report = collect(home, registry.catalog, registry.packs, EVERYTHING, Silent())
    assert "default@v1" in report.collected
    assert "default@v11" not in report.collected
    with pytest.raises(NotFoundError, match="collected"), open_asker(home, "default@v1", device="cpu"):
        pass


def told(answer: Answer) -> tuple[object, ...]:
    """Return all of an answer but how long it took."""
    return (answer.answer, answer.hits, answer.weights, answer.answer_tokens, answer.version_digest, answer.version)


@pytest.mark.postgres
def test_a_connection_killed_in_the_middle_of_a_commit(
    postgres_url: str,
    tmp_path: Path,
    sample: Sample,
    tiny_model_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = make_url(postgres_url).set(password="lantern-41")
    home = create_home(tmp_path / "home", catalog_url=url.render_as_string(hide_password=False))
    command = [
        *("build", str(sample.documents), "--home", str(home.path), "--base-model", str(tiny_model_path)),
        *("--augmenter", "none", "--set", "epochs=1", "--set", "rank=2", "--device", "cpu", "--group-size", "4"),
        *("--dtype", "float32", "--workers", "1"),
    ]
    with killing_commits(postgres_url) as killed:
        assert run_command(command) == StorageError.exit_code
    assert killed == ["DELETE"]  # of places, after the version and its members were written
    error = capsys.readouterr().err
    assert "error: the server of the catalog" in error or "error: the connection to the catalog" in error
    assert "lantern-41" not in error
    assert "Traceback" not in error
    with opened(home) as registry, registry.catalog.read() as session:
        assert list_versions(session, "default") == []
        (line,) = list_builds(session)
        assert line.status == "failed"
        assert line.error is not None
        assert "lantern-41" not in line.error
    assert run_command([*command, "--json"]) == 0
    built = json.loads(capsys.readouterr().out)
    assert (built["version"], built["trained"], built["reused"]) == ("default@v1", 0, sample.count)
    assert digests(home, "default") == [built["digest"]]


@contextmanager
def killing_commits(url: str) -> Iterator[list[str]]:
    """Kill the connection that first waits to write places, which a commit does last; yields what it was doing."""
    engine = create_engine(url)
    killed: list[str] = []
    over = Event()
    waits = (
        "SELECT pid, query FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        " AND query LIKE '%places%'"
    )

    def kill() -> None:
        with engine.connect() as blocker, engine.connect() as killer:
            blocker.execute(text("LOCK TABLE places IN SHARE MODE"))
            locked.set()
            while not killed and not over.wait(0.02):
                killer.rollback()
                for pid, query in killer.execute(text(waits)):
                    killer.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
                    killed.append(query.split()[0])

    locked = Event()
    thread = Thread(target=kill)
    thread.start()
    assert locked.wait(30)
    try:
        yield killed
    finally:
        over.set()
        thread.join()
        engine.dispose()
