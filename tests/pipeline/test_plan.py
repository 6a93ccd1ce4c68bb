"""Planning: what is counted is what a build then trains, and nothing is left behind."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from registry.base_model import locate, matrices_from_config
from registry.catalog.adapters import resolve_adapter
from registry.catalog.listing import list_adapters
from registry.catalog.speed import FEWEST_ADAPTERS
from registry.encoding.budget import STACK_COPIES, STEP_COPIES
from registry.errors import InputError, UsageError
from registry.pipeline.build import BuildRequest, build
from registry.pipeline.counts import SAMPLE_DOCUMENTS
from registry.pipeline.opened import opened
from registry.pipeline.plan import EFFICIENCY, Cluster, plan
from registry.pipeline.recipes import RecipeRequest
from registry.progress import Silent
from registry.settings import Home
from tests.pipeline.conftest import Sample, state

Requester = Callable[..., BuildRequest]
PAPER = Cluster(rate_tflops=0.5, devices=4)
"""Devices on paper, so that nothing is measured."""


@pytest.fixture
def requested(sample: Sample, tiny_model_path: Path) -> Requester:
    """A function that returns a request for the sample corpus and the tiny model; keywords change it."""

    def request(*, settings: dict[str, object] | None = None, **changes: object) -> BuildRequest:
        request = BuildRequest(
            sources=(str(sample.documents),),
            recipe=RecipeRequest(
                base_model=str(tiny_model_path), dtype="float32", settings={"epochs": 2, "rank": 2} | (settings or {})
            ),
            augmenter=f"import:{sample.augmentations}",
            device="cpu",
            group_size=2,
            workers=1,
        )
        return replace(request, **changes)  # type: ignore[arg-type]

    return request


def trained(home: Home) -> list[tuple[int, int, float]]:
    """Return examples, tokens and seconds of all adapters of a registry."""
    with opened(home) as registry, registry.catalog.read() as session:
        rows = [resolve_adapter(session, line.digest).training for line in list_adapters(session, limit=None)]
    return [(row.examples, row.tokens, row.elapsed_seconds) for row in rows]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"settings": {"first_layer": 2, "loss": "all", "epochs": 1}},
        {"settings": {"examples": "paper", "layout": "paper", "max_tokens": 40, "first_layer": 0}},
        {"settings": {"pairs": 1, "rewrites": 1, "examples": "qa-passage,rewrite", "adapter_dtype": "bfloat16"}},
        {"augmenter": "none"},
    ],
)
def test_the_figures_are_those_of_the_build(home: Home, requested: Requester, changes: dict[str, object]) -> None:
    request = requested(**changes)
    planned = plan(home, request, Silent(), cluster=PAPER)
    built = build(home, request, Silent())
    assert not planned.estimated
    assert (planned.documents, planned.places) == (built.documents, built.places)
    assert (planned.to_encode, planned.reused) == (built.trained, 0)
    assert (planned.examples, planned.tokens) == (built.trained_examples, built.trained_tokens)
    assert (planned.examples, planned.tokens) == tuple(map(sum, list(zip(*trained(home), strict=True))[:2]))
    assert planned.adapter_bytes == built.adapter_bytes
    assert planned.operations == built.operations
    assert planned.recipe_digest == built.version.recipe_digest
    assert built.reached_gflops == pytest.approx(built.operations / built.encode_wall_seconds / 1e9)


def test_nothing_is_left_behind(
    home: Home, requested: Requester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    empty = state(home)
    plan(home, requested(), Silent(), cluster=PAPER)
    assert state(home) == empty
    build(home, requested(), Silent())
    full = state(home)
    assert full != empty
    plan(home, requested(settings={"rank": 3}, corpus="another"), Silent(), cluster=PAPER)
    assert state(home) == full
    assert list((tmp_path / "temporary").iterdir()) == []


def test_what_has_adapters_costs_nothing(home: Home, requested: Requester, sample: Sample) -> None:
    build(home, requested(), Silent())
    again = plan(home, requested(), Silent())
    assert (again.documents, again.reused, again.to_encode) == (sample.count, sample.count, 0)
    assert (again.tokens, again.operations, again.operations_needed, again.adapter_bytes) == (0, 0, 0, 0)
    assert (again.expected_time_seconds, again.time_from) == (0.0, "nothing to encode")
    records = [json.loads(line) for line in sample.documents.read_text().splitlines()]
    records[0]["text"] += " It has a bell."
    sample.documents.write_text("".join(json.dumps(record) + "\n" for record in records))
    edited = plan(home, requested(), Silent(), cluster=PAPER)
    assert (edited.reused, edited.to_encode) == (sample.count - 1, 1)
    assert edited.tokens == build(home, requested(), Silent()).trained_tokens
    for file in Path(home.packs_url).rglob("*.safetensors"):
        file.unlink()
    assert plan(home, requested(), Silent(), cluster=PAPER).to_encode == sample.count


def test_the_recipe_is_the_corpus_last_one(home: Home, requested: Requester) -> None:
    built = build(home, requested(settings={"rank": 3}), Silent())
    request = replace(requested(), recipe=RecipeRequest())
    assert plan(home, request, Silent(), cluster=PAPER).recipe_digest == built.version.recipe_digest


def test_no_home_is_needed(home: Home, requested: Requester) -> None:
    without = plan(None, requested(), Silent(), cluster=PAPER)
    assert without == plan(home, requested(), Silent(), cluster=PAPER)


def test_unwritten_augmentations_are_estimated(home: Home, requested: Requester, sample: Sample) -> None:
    settings = {"pairs": 4, "rewrites": 2, "examples": "qa,text,rewrite"}
    request = requested(augmenter="self", settings=settings)
    planned = plan(home, request, Silent(), cluster=PAPER)
    assert planned.estimated
    assert planned.to_augment == planned.to_encode == sample.count
    assert planned.examples == sample.count * (4 + 1 + 2)
    text_tokens = plan(home, requested(augmenter="none", settings={"epochs": 1}), Silent(), cluster=PAPER).tokens
    assert planned.tokens > 2 * text_tokens * (1 + 2)
    assert planned.generated_tokens > 2 * text_tokens * 0.5
    more = plan(home, requested(augmenter="self", settings=settings | {"pairs": 9}), Silent(), cluster=PAPER)
    assert more.examples == sample.count * (9 + 1 + 2)
    assert more.generated_tokens > planned.generated_tokens


def test_written_augmentations_are_counted_as_they_are(home: Home, requested: Requester) -> None:
    settings = {"pairs": 2, "rewrites": 0}
    build(home, requested(augmenter="self", settings=settings), Silent())
    request = requested(augmenter="self", settings=settings | {"epochs": 1})
    planned = plan(home, request, Silent(), cluster=PAPER)
    assert (planned.estimated, planned.to_augment, planned.generated_tokens) == (False, 0, 0)
    assert planned.tokens == build(home, request, Silent()).trained_tokens


def test_of_many_documents_some_are_looked_at(requested: Requester, tmp_path: Path) -> None:
    many = tmp_path / "many.jsonl"
    count = 3 * SAMPLE_DOCUMENTS + 1
    many.write_text("".join(json.dumps({"text": f"The mill {n:04d} grinds barley."}) + "\n" for n in range(count)))
    settings = {"pairs": 2, "examples": "qa,text"}
    planned = plan(None, requested(sources=(str(many),), augmenter="self", settings=settings), Silent(), cluster=PAPER)
    assert planned.to_augment == count
    assert planned.examples == pytest.approx(3 * count, abs=1)
    many.write_text("".join(many.read_text().splitlines(keepends=True)[:SAMPLE_DOCUMENTS]))
    few = plan(None, requested(sources=(str(many),), augmenter="self", settings=settings), Silent(), cluster=PAPER)
    assert planned.tokens == pytest.approx(3 * few.tokens, rel=0.05)


def test_time_on_paper_is_arithmetic(requested: Requester) -> None:
    cluster = Cluster(rate_tflops=2.0, devices=5, dollars_per_device_hour=3.0)
    planned = plan(None, requested(), Silent(), cluster=cluster)
    assert planned.operations > planned.operations_needed > 0
    seconds = planned.operations_needed / (2e12 * 5 * EFFICIENCY)
    assert planned.expected_time_seconds == pytest.approx(seconds)
    assert planned.device_hours == pytest.approx(5 * seconds / 3600)
    assert planned.dollars == pytest.approx(3.0 * 5 * seconds / 3600)
    assert (planned.rate_gflops, planned.time_from, planned.devices) == (2000.0, "given rate", 5)


def test_time_here_is_measured(requested: Requester, tiny_model_path: Path, tmp_path: Path) -> None:
    planned = plan(None, requested(), Silent())
    assert planned.rate_gflops is not None
    assert planned.rate_gflops > 0
    expected = planned.operations_needed / (planned.rate_gflops * 1e9 * EFFICIENCY)
    assert planned.expected_time_seconds == pytest.approx(expected)
    assert (planned.time_from, planned.device, planned.device_hours) == ("measured rate", "cpu", None)
    matrices = matrices_from_config(locate(str(tiny_model_path), models_path=tmp_path).folder)
    assert planned.operations == 4 * matrices.parameters * planned.tokens


def test_time_of_an_earlier_build_is_believed(home: Home, requested: Requester, tmp_path: Path) -> None:
    texts = [{"text": f"The mill number {number} grinds barley."} for number in range(FEWEST_ADAPTERS + 2)]
    file = tmp_path / "mills.jsonl"
    file.write_text("".join(json.dumps(text) + "\n" for text in texts[:-2]))
    request = requested(sources=(str(file),), augmenter="none", group_size=8)
    build(home, request, Silent())
    _, tokens, seconds = zip(*trained(home), strict=True)
    file.write_text("".join(json.dumps(text) + "\n" for text in texts))
    planned = plan(home, replace(request, workers=2), Silent())
    assert (planned.to_encode, planned.time_from) == (2, "earlier builds")
    assert planned.expected_time_seconds == pytest.approx(planned.tokens * sum(seconds) / sum(tokens) / 2)


def test_memory_grows_with_the_adapters_of_a_group(requested: Requester) -> None:
    def memory(group_size: int, rank: int = 2) -> int:
        request = requested(settings={"first_layer": 0, "rank": rank}, group_size=group_size)
        return plan(None, request, Silent(), cluster=PAPER).memory_bytes

    numbers = 3 * 3 * (32 + 64)  # blocks, matrices, their sides
    copies = STACK_COPIES + STEP_COPIES
    assert memory(5) - memory(2) == pytest.approx(3 * copies * 4 * 2 * numbers)
    assert memory(5, rank=3) - memory(5) == pytest.approx(5 * copies * 4 * numbers)


@pytest.mark.parametrize(
    ("line", "wrong"), [("{broken", "JSON"), ('{"id": "x", "title": "No text"}', "text"), (None, "missing")]
)
def test_what_stops_a_build_stops_its_plan(requested: Requester, sample: Sample, line: str | None, wrong: str) -> None:
    if line is None:
        request = requested(sources=(str(sample.documents.with_name("missing.jsonl")),))
    else:
        with sample.documents.open("a") as file:
            file.write(line + "\n")
        request = requested()
    with pytest.raises(InputError) as raised:
        plan(None, request, Silent(), cluster=PAPER)
    assert wrong in raised.value.message
    if line is not None:
        skipping = plan(None, replace(request, skip_invalid=True), Silent(), cluster=PAPER)
        assert [skipped.line for skipped in skipping.skipped] == [sample.count + 1]
        assert skipping.documents == sample.count


def test_no_source_and_a_foreign_import_are_refused(requested: Requester, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no source"):
        plan(None, requested(sources=()), Silent(), cluster=PAPER)
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"document_id": "nobody", "generator": "g", "rewrites": [], "qa": []}) + "\n")
    with pytest.raises(InputError, match="none of the 7 documents"):
        plan(None, requested(augmenter=f"import:{other}"), Silent(), cluster=PAPER)


@pytest.mark.parametrize(
    ("rate", "devices", "price"),
    [(0.0, 1, None), (-1.0, 1, None), (float("nan"), 1, None), (float("inf"), 1, None), (1.0, 0, None), (1.0, 1, -2.0)],
)
def test_devices_that_cannot_be(rate: float, devices: int, price: float | None) -> None:
    with pytest.raises(UsageError):
        Cluster(rate, devices, price)
