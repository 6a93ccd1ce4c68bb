"""A small corpus with augmentations, as files."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import registry
from registry.catalog import schema
from registry.documents import ReadOptions
from registry.pipeline.build import BuildRequest, BuildSummary, build
from registry.pipeline.recipes import RecipeRequest
from registry.progress import Silent
from registry.settings import Home, create_home

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
