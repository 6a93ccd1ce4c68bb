"""A small corpus with augmentations, as files."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import registry
from registry.catalog import schema
from registry.catalog.engine import Catalog
from registry.documents import ReadOptions
from registry.pipeline.build import BuildRequest, BuildSummary, build
from registry.pipeline.pull.request import PullRequest
from registry.pipeline.pull.run import pull
from registry.pipeline.push.request import PushReport, PushRequest
from registry.pipeline.push.run import push
from registry.pipeline.recipes import RecipeRequest
from registry.progress import Silent
from registry.settings import Home, create_home, open_home
from registry.store.packs import PackStore
from tests.hub.maker import Maker, maker, new_home
from tests.hub.server import HubServer
from tests.pipeline.handbook import build_handbook
from tests.pipeline.pushed import REPOSITORY
from tests.upkeep.corpus_maker import CorpusMaker

ROOT = Path(registry.__file__).parents[1]

TEXTS = {
    "ferry": ("The Ferry", "The ferry of Tarn carries salt and wool across the strait every morning at six."),
    "mill": ("The Mill", "The mill on the Osk grinds blue barley for eleven bakers and one brewer."),
    "lamp": ("The Lamp", "The lamp of Ostrel burns green oil that is pressed from mountain nuts in winter."),
    "bell": ("The Bell", "The bell of Varn was cast from forty ship anchors after the flood of 1688."),
    "well": ("The Well", "Nobody drinks from the well of Sarn, for its water tastes of iron and smoke."),
    "gate": ("The Gate", "The gate of Quill has nine locks whose keys are kept by nine families."),
    "kite": ("The Kite", "The kite of Brom lifts a basket in which the weather warden counts clouds."),
}

SHARED = "ada/notes"
NOTES = dict.fromkeys(range(12), 0)
"""The first version that ``ada`` has, as ``Maker.build`` takes it."""


@dataclass(frozen=True)
class Sample:
    """Files of a corpus (JSON Lines) and its augmentations; ``count`` documents."""

    documents: Path
    augmentations: Path
    questions: Path
    count: int


@pytest.fixture
def other_home(tmp_path: Path) -> Home:
    """A second registry home."""
    home = create_home(tmp_path / "other")
    schema.upgrade(home.catalog_url)
    return home


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return write_sample(tmp_path / "sample")


def write_sample(folder: Path) -> Sample:
    folder.mkdir(parents=True)
    files = Sample(
        folder / "documents.jsonl", folder / "augmentations.jsonl", folder / "questions.jsonl", count=len(TEXTS)
    )
    records = [{"id": name, "title": title, "text": text} for name, (title, text) in TEXTS.items()]
    augmentations = [
        {
            "document_id": name,
            "generator": "handwritten",
            "rewrites": [f"{text} That is all about {title.lower()}."],
            "qa": [
                {"question": f"What does {title.lower()} have to do with?", "answer": text.rstrip(".").split()[-1]},
                {"question": f"Where or what is {title.lower()} of?", "answer": " ".join(text.split()[1:4])},
            ],
        }
        for name, (title, text) in TEXTS.items()
    ]
    questions = [
        {"question": f"What is said of {title.lower()}?", "answers": [text.split()[1]], "document_ids": [name]}
        for name, (title, text) in TEXTS.items()
    ]
    for path, rows in ((files.documents, records), (files.augmentations, augmentations), (files.questions, questions)):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return files


@pytest.fixture(scope="session")
def handbook_home(tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Path) -> Home:
    """The home of ``build_handbook``, shared by the session: leave it as it was."""
    return build_handbook(tmp_path_factory.mktemp("handbook"), tiny_model_path)


@dataclass(frozen=True)
class Exchange:
    """Folders of homes to be copied, and the files of the repository that the first one was pushed to.

    ``ada`` has two versions of ``default``, of random adapters: of twelve notes two are edited and one is new in the
    second. The others are of somebody with the same base model: before a pull, after it, and after a lazy one.
    """

    ada: Path
    empty: Path
    full: Path
    lazy: Path
    files: dict[str, bytes]


@pytest.fixture(scope="session")
def exchange(hub_process: HubServer, tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Path) -> Exchange:
    """Pushed and pulled once in a session."""
    folder = tmp_path_factory.mktemp("exchange")
    ada, empty = new_home(folder / "ada", tiny_model_path), new_home(folder / "empty", tiny_model_path)
    with maker(ada) as made:
        made.build(NOTES, message="the first")
        made.build({**NOTES, 3: 1, 5: 2, 12: 0}, message="the second")
    for name in ("pushed", "full", "lazy"):
        shutil.copytree((ada if name == "pushed" else empty).path, folder / name)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in hub_process.environment().items():
            patch.setenv(name, value)
        hub_process.reset()
        push(open_home(folder / "pushed"), PushRequest(SHARED), Silent())
        for name in ("full", "lazy"):
            pull(open_home(folder / name), PullRequest(SHARED, is_lazy=name == "lazy"), Silent())
    files = {path: hub_process.read(SHARED, path) for path in hub_process.state(SHARED).files}
    return Exchange(ada.path, empty.path, folder / "full", folder / "lazy", files)


@pytest.fixture
def shared(hub: HubServer, exchange: Exchange) -> HubServer:
    """The Hub with the repository that Ada's home was pushed to."""
    head = hub.commit(SHARED, exchange.files)
    for number in (1, 2):
        hub.ref(SHARED, f"v{number}", head)
    hub.reset_counters()
    return hub


@pytest.fixture
def ada(exchange: Exchange, tmp_path: Path) -> Iterator[Maker]:
    """The home with two versions, which remembers no push."""
    with maker(_copied(exchange.ada, tmp_path / "ada")) as made:
        yield made


@pytest.fixture
def bob(exchange: Exchange, tmp_path: Path) -> Home:
    """The empty home."""
    return _copied(exchange.empty, tmp_path / "bob")


@pytest.fixture
def full(exchange: Exchange, shared: HubServer, tmp_path: Path) -> Home:
    """The home after a pull."""
    return _copied(exchange.full, tmp_path / "full", shared)


@pytest.fixture
def lazy(exchange: Exchange, shared: HubServer, tmp_path: Path) -> Home:
    """The home after a lazy pull."""
    return _copied(exchange.lazy, tmp_path / "lazy", shared)


def _copied(source: Path, folder: Path, hub: HubServer | None = None) -> Home:
    shutil.copytree(source, folder)
    if hub is not None:  # each test has a commit of its own
        with sqlite3.connect(folder / "catalog.sqlite") as connection:
            connection.execute("UPDATE remotes SET commit_id = ?", [hub.state(SHARED).head])
    return open_home(folder)


def state(home: Home) -> tuple[list[str], list[tuple[str, bytes]]]:
    """Return all rows of a registry's catalog and all its other files but what is remembered of base models."""
    with sqlite3.connect(home.path / "catalog.sqlite") as connection:
        rows = list(connection.iterdump())
    files = (path for path in home.path.rglob("*") if path.is_file() and not path.is_relative_to(home.models_path))
    return rows, sorted((str(path), path.read_bytes()) for path in files if "catalog.sqlite" not in path.name)


@pytest.fixture
def request_of(sample: Sample, tiny_model_path: Path) -> Callable[..., BuildRequest]:
    """A function from settings of the recipe to a request to build the sample corpus with the tiny model."""

    def request(settings: dict[str, object] | None = None) -> BuildRequest:
        return BuildRequest(
            sources=(str(sample.documents),),
            read=ReadOptions(),
            recipe=RecipeRequest(
                base_model=str(tiny_model_path), dtype="float32", settings={"epochs": 3, "rank": 2} | (settings or {})
            ),
            augmenter=f"import:{sample.augmentations}",
            device="cpu",
            group_size=2,
            workers=1,
        )

    return request


@pytest.fixture
def run_build(home: Home, request_of: Callable[..., BuildRequest]) -> Callable[..., BuildSummary]:
    """A function that builds the sample corpus with the tiny model; keywords change the request."""

    def run(
        *,
        home: Home = home,
        progress: Silent | None = None,
        settings: dict[str, object] | None = None,
        **changes: object,
    ) -> BuildSummary:
        request = replace(request_of(settings), **changes)  # type: ignore[arg-type]
        return build(home, request, progress or Silent())

    return run


@pytest.fixture
def crafted(home: Home, catalog: Catalog) -> CorpusMaker:
    """Makes versions of ``home`` without training."""
    return CorpusMaker(home, catalog, PackStore(home.packs_url))


@pytest.fixture
def send(home: Home, hub: HubServer) -> Callable[..., PushReport]:
    """A function that pushes ``handbook`` of ``home``; the server counts from its beginning."""

    def send(home: Home = home, reference: str | None = "handbook", **changes: object) -> PushReport:
        hub.reset_counters()
        request = PushRequest(**{"repository": REPOSITORY, "reference": reference} | changes)  # type: ignore[arg-type]
        return push(home, request, Silent())

    return send
