"""The point of it all: the default model answers held-out questions about documents that it never sees as text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry.base_model import ModelFiles
from registry.catalog import schema
from registry.evaluation.scores import score
from registry.pipeline.build import BuildRequest, build
from registry.pipeline.query import Asking, open_asker
from registry.pipeline.recipes import RecipeRequest
from registry.progress import Silent
from registry.settings import MODELS_VARIABLE, create_home

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.smollm2
def test_adapters_make_the_default_model_know(
    smollm2_files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(smollm2_files.folder.parent))
    home = create_home(tmp_path / "home")
    schema.upgrade(home.catalog_url)
    augmenter = f"import:{EXAMPLES / 'augmentations.jsonl'}"
    sources = (str(EXAMPLES / "corpus" / "*.txt"),)
    recipe = RecipeRequest(preset="fast")
    request = BuildRequest(sources, augmenter=augmenter, recipe=recipe, device="cpu", workers=1)
    assert build(home, request, Silent()).trained == 4
    records = [json.loads(line) for line in (EXAMPLES / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    own = [record for record in records if ".txt#" in record["document_ids"][0]]
    assert len(own) == 12
    known = {}
    with open_asker(home, "default", device="cpu") as asker:
        for mode in ("closed-book", "prag"):
            asking = Asking(mode=mode, max_new_tokens=12, log=False)
            answers = asker.ask([record["question"] for record in own], asking)
            known[mode] = sum(
                score(answer.answer, record["answers"]).contains for answer, record in zip(answers, own, strict=True)
            )
    assert known["closed-book"] <= 1
    assert known["prag"] >= 5
