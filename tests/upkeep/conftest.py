"""A registry that was built once with the tiny model, and copies of it to harm."""

from __future__ import annotations

import shutil
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine

from registry.catalog import schema
from registry.catalog.aliases import set_alias
from registry.catalog.engine import open_catalog
from registry.catalog.references import resolve
from registry.catalog.task_adapters import add_task_adapter
from registry.catalog.transfer.copying import copy_catalog
from registry.digests import sha256_hex
from registry.pipeline.build import BuildRequest, build
from registry.pipeline.recipes import RecipeRequest
from registry.progress import Silent
from registry.records import TaskAdapter, Training
from registry.settings import Home, create_home, open_home
from registry.store import PackStore, read_layout
from tests.pipeline.conftest import Sample, write_sample
from tests.upkeep.faults import CORPUS, an_adapter, versions_of

SMALL_PACK_BYTES = 20_000
SQLITE_URL = "sqlite:///catalog.sqlite"


@dataclass(frozen=True)
class BuiltRegistry:
    """A registry with handbook@v1 (named production) and v2 of seven documents each, several packs, a task adapter."""

    home: Home
    sample: Sample
    model_path: Path

    def request(self, source: Path | None = None) -> BuildRequest:
        """Return what it was built with."""
        return BuildRequest(
            sources=(str(source or self.sample.documents),),
            corpus=CORPUS,
            recipe=RecipeRequest(base_model=str(self.model_path), dtype="float32", settings={"epochs": 3, "rank": 2}),
            augmenter=f"import:{self.sample.augmentations}",
            device="cpu",
            group_size=2,
            workers=1,
        )


@pytest.fixture(scope="session")
def built_registry(tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Path) -> BuiltRegistry:
    """Built once in a session: do not change it."""
    folder = tmp_path_factory.mktemp("built")
    home = replace(create_home(folder / "home"), pack_size_bytes=SMALL_PACK_BYTES)
    schema.upgrade(home.catalog_url)
    built = BuiltRegistry(home, write_sample(folder / "sample"), tiny_model_path)
    build(home, built.request(), Silent())
    changed = folder / "sample" / "changed.jsonl"
    lines = built.sample.documents.read_text(encoding="utf-8").splitlines(keepends=True)
    changed.write_text("".join([*lines[1:], lines[0].replace("salt and wool", "tin and glass")]), encoding="utf-8")
    build(home, built.request(changed), Silent())
    with open_catalog(home.catalog_url) as catalog, catalog.write() as session:
        set_alias(session, resolve(session, f"{CORPUS}@v1"), "production")
    _add_task_adapter(home)
    return built


def _add_task_adapter(home: Home) -> None:
    layout = read_layout(an_adapter(home)[1])
    data = layout.serialise(struct.pack("<f", 0.25) * layout.elements)
    questions = (sha256_hex(b"a question"),)
    task = TaskAdapter(
        digest=sha256_hex(data),
        recipe_digest=versions_of(home)[-1].recipe_digest,
        name="warm",
        questions_digest=sha256_hex(b"questions"),
        question_digests=questions,
        questions=1,
        parameters=layout.elements,
        size_bytes=len(data),
        training=Training(1, 1, 1, 1.0, 1.0, 1.0, "cpu", "float32", 1),
        created_at=datetime.now(UTC),
    )
    with open_catalog(home.catalog_url) as catalog, catalog.write() as session:
        add_task_adapter(session, task, PackStore(home.packs_url).write([(task.digest, data)]))


@pytest.fixture(scope="session")
def built_postgres(built_registry: BuiltRegistry, postgres_server: URL, postgres_template: str) -> tuple[URL, str]:
    """The server, and the name of a database with the catalog of ``built_registry``, to be copied."""
    name = f"pragreg_built_{uuid.uuid4().hex[:8]}"
    _execute(postgres_server, f"CREATE DATABASE {name} TEMPLATE {postgres_template}")
    url = postgres_server.set(database=name).render_as_string(hide_password=False)
    copy_catalog(built_registry.home.catalog_url, url, Silent())
    return postgres_server, name


@pytest.fixture
def copy_registry(
    request: pytest.FixtureRequest, built_registry: BuiltRegistry, tmp_path: Path
) -> Callable[[str], Home]:
    """A function that copies the built registry, with its catalog on "sqlite" or "postgres"."""

    def copy(database: str) -> Home:
        folder = tmp_path / f"copy-{uuid.uuid4().hex[:6]}"
        shutil.copytree(built_registry.home.path, folder)
        if database == "postgres":
            server, template = request.getfixturevalue("built_postgres")
            name = f"pragreg_{uuid.uuid4().hex[:12]}"
            _execute(server, f"CREATE DATABASE {name} TEMPLATE {template}")
            request.addfinalizer(lambda: _execute(server, f"DROP DATABASE {name} WITH (FORCE)"))
            url = server.set(database=name).render_as_string(hide_password=False)
            settings = folder / "pragreg.toml"
            settings.write_text(settings.read_text().replace(SQLITE_URL, url))
        return replace(open_home(folder), pack_size_bytes=SMALL_PACK_BYTES)

    return copy


@pytest.fixture
def copied(copy_registry: Callable[[str], Home]) -> Home:
    """A copy of the built registry, on SQLite."""
    return copy_registry("sqlite")


def _execute(server: URL, statement: str) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
    finally:
        engine.dispose()
