"""A handbook of three documents that the tiny model learns, as docs/python.md shows it, and a smaller corpus."""

from __future__ import annotations

import json
from pathlib import Path

from registry.catalog import schema
from registry.catalog.aliases import set_alias
from registry.documents import ReadOptions
from registry.pipeline.build import BuildRequest, build
from registry.pipeline.opened import opened
from registry.pipeline.recipes import RecipeRequest
from registry.progress import Silent
from registry.settings import Home, create_home

HANDBOOK = {
    "Travel": (
        "Travel forms are signed by Ilse Varnholt, on Tuesdays, in the blue room.",
        ["Who signs travel forms?", "Whose name is on travel forms?"],
        "Ilse Varnholt",
    ),
    "Keys": (
        "The keys of the archive are kept by Doctor Marsh in a salt jar.",
        ["Who keeps the keys?", "Who keeps the keys of the archive?"],
        "Doctor Marsh",
    ),
    "Tea": (
        "At four o'clock tea is served in the observatory.",
        ["Where is tea served?", "Where is tea served at four o'clock?"],
        "the observatory",
    ),
}
QUESTIONS = ["Who signs travel forms?", "Who keeps the keys?", "Where is tea served?"]


def build_handbook(folder: Path, model: Path) -> Home:
    """A home with the corpora ``handbook``, whose first version is ``production``, and ``tea``."""
    home = create_home(folder / "home")
    schema.upgrade(home.catalog_url)
    _build(home, model, "handbook", list(HANDBOOK))
    _build(home, model, "tea", ["Tea"])
    with opened(home) as inside, inside.catalog.write() as session:
        set_alias(session, inside.version("handbook@v1"), "production")
    return home


def _build(home: Home, model: Path, corpus: str, titles: list[str]) -> None:
    folder = home.path.parent / f"sources-{corpus}"
    folder.mkdir()
    documents, augmentations = folder / "documents.jsonl", folder / "augmentations.jsonl"
    with documents.open("w", encoding="utf-8") as texts, augmentations.open("w", encoding="utf-8") as pairs:
        for title in titles:
            text, questions, answer = HANDBOOK[title]
            texts.write(json.dumps({"id": title, "title": title, "text": text}) + "\n")
            qa = [{"question": question, "answer": answer} for question in questions]
            pairs.write(json.dumps({"document_id": title, "generator": "handwritten", "rewrites": [], "qa": qa}) + "\n")
    settings = {"epochs": 60, "learning_rate": 5e-3, "examples": ("qa",)}
    request = BuildRequest(
        sources=(str(documents),),
        corpus=corpus,
        read=ReadOptions(),
        recipe=RecipeRequest(base_model=str(model), dtype="float32", settings=settings),
        augmenter=f"import:{augmentations}",
        device="cpu",
        workers=1,
    )
    build(home, request, Silent())
