import copy
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

from registry.base_model import LoadedModel, linear_shapes, load, locate
from registry.errors import BaseModelError, IntegrityError, Interrupted
from registry.generation.merged import merged_into_weights
from registry.generation.requests import Term
from registry.generation.runners.library import LibraryRunner
from registry.generation.runners.processor.runner import ProcessorRunner
from registry.store.layout import AdapterLayout
from tests.generation.sums import dense

MakeBody = Callable[[AdapterLayout, int], bytes]
AnyRunner = LibraryRunner | ProcessorRunner
SCALE = 16.0
FACTORS = (1.0, 0.6, -0.3)
PROMPTS = [[5, 17, 203, 88, 41, 300], [9, 9, 120]]
SIZES: dict[str, int] = {"rows": 2, "context": 32, "most_terms": 3}


def library(loaded: LoadedModel, layout: AdapterLayout) -> LibraryRunner:
    return LibraryRunner(loaded, layout, SCALE, cache_bytes=0, **SIZES)


def processor(loaded: LoadedModel, layout: AdapterLayout) -> ProcessorRunner:
    return ProcessorRunner(loaded, layout, SCALE, entries=3, **SIZES)


@pytest.fixture(params=[library, processor])
def kind(request: pytest.FixtureRequest) -> Any:
    """A function to a runner of either kind."""
    return request.param


@pytest.fixture(params=["float32", "bfloat16"])
def loaded(request: pytest.FixtureRequest, tiny_model_path: Path, tmp_path: Path) -> LoadedModel:
    """A model of the test's own: a failed test leaves it changed."""
    return load(locate(str(tiny_model_path), models_path=tmp_path), device="cpu", dtype=request.param)


@pytest.fixture
def runner(loaded: LoadedModel, layout: AdapterLayout, kind: Any) -> Iterator[AnyRunner]:
    runner = kind(loaded, layout)
    yield runner
    if isinstance(runner, LibraryRunner):
        runner.close()


@pytest.fixture
def terms(layout: AdapterLayout, make_body: MakeBody) -> list[Term]:
    return [Term(str(seed), factor, make_body(layout, seed)) for seed, factor in enumerate(FACTORS)]


def answers(runner: AnyRunner) -> Tensor:
    """Logits after prompts and after a token more."""
    first = runner.prefill([0, 1], PROMPTS).clone()
    return torch.cat([first, runner.decode([0, 1], [7, 8])])


def weights_of(runner: AnyRunner, layout: AdapterLayout) -> list[Tensor]:
    return [runner.weight(path).clone() for path in layout.modules]


def is_same(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


def test_it_computes_what_the_sum_in_the_weights_computes(
    runner: AnyRunner, loaded: LoadedModel, layout: AdapterLayout, terms: list[Term]
) -> None:
    bodies = [bytes(term.body) for term in terms]
    model = dense(loaded.model, layout, list(zip(bodies, FACTORS, strict=True)), SCALE)
    exact = dense(copy.deepcopy(loaded.model).float(), layout, list(zip(bodies, FACTORS, strict=True)), SCALE)
    before, bare = weights_of(runner, layout), answers(runner)
    with merged_into_weights(runner, layout, terms, SCALE):
        merged = answers(runner)
        for path, was in zip(layout.modules, before, strict=True):
            weight = runner.weight(path)
            assert weight.dtype == was.dtype
            # In float32 sums may be added up in another order.
            torch.testing.assert_close(weight, model.get_submodule(path).weight, rtol=0.02, atol=1e-3)
            assert not torch.equal(weight, was)
    with torch.no_grad():
        expected = [exact(input_ids=torch.tensor([ids])).logits[0, -1] for ids in PROMPTS]
        expected += [
            exact(input_ids=torch.tensor([[*ids, token]])).logits[0, -1]
            for ids, token in zip(PROMPTS, (7, 8), strict=True)
        ]
    wanted = torch.stack(expected)
    limit = 1e-5 if loaded.dtype == "float32" else 0.05
    assert (merged - wanted).norm() / wanted.norm() < limit
    assert (bare - wanted).norm() / wanted.norm() > 0.2


def test_it_computes_what_slots_compute(runner: AnyRunner, layout: AdapterLayout, terms: list[Term]) -> None:
    for entry, term in enumerate(terms):
        runner.put(entry, term.body)
    for row in range(2):
        runner.inject(row, [0, 1, 2], FACTORS)
    slots = answers(runner)
    for row in range(2):
        runner.inject(row, [], [])
    bare = answers(runner)
    with merged_into_weights(runner, layout, terms, SCALE):
        merged = answers(runner)
    limit = 1e-5 if runner.weight(next(iter(layout.modules))).dtype == torch.float32 else 0.05
    assert (merged - slots).norm() / slots.norm() < limit
    assert (bare - slots).norm() / slots.norm() > 0.2


def test_afterwards_every_bit_is_as_before(runner: AnyRunner, layout: AdapterLayout, terms: list[Term]) -> None:
    before, bare = weights_of(runner, layout), answers(runner)
    for count in (3, 1):
        with merged_into_weights(runner, layout, terms[:count], SCALE):
            assert not is_same(weights_of(runner, layout), before)
        assert is_same(weights_of(runner, layout), before)
        assert torch.equal(answers(runner), bare)


def test_an_error_in_the_block_puts_the_weights_back(
    runner: AnyRunner, layout: AdapterLayout, terms: list[Term]
) -> None:
    before, bare = weights_of(runner, layout), answers(runner)
    with pytest.raises(ZeroDivisionError), merged_into_weights(runner, layout, terms, SCALE):
        raise ZeroDivisionError
    assert is_same(weights_of(runner, layout), before)
    assert torch.equal(answers(runner), bare)


class Stopping:
    """A runner's weights, and a signal with the change of a number of the test's choice."""

    def __init__(self, runner: AnyRunner, at: int, number: int) -> None:
        self.runner, self.left, self.number = runner, at, number
        self.arrived = False

    def weight(self, path: str) -> Tensor:
        return self.runner.weight(path)

    def set_weight(self, path: str, weight: Tensor) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)
            self.arrived = True
        self.runner.set_weight(path, weight)


@pytest.mark.parametrize("at", [1, 9, 10, 18])
def test_ctrl_c_at_any_moment_puts_the_weights_back(
    runner: AnyRunner, layout: AdapterLayout, terms: list[Term], at: int
) -> None:
    before = weights_of(runner, layout)
    stopping, is_entered = Stopping(runner, at, signal.SIGINT), False
    with pytest.raises(KeyboardInterrupt), merged_into_weights(stopping, layout, terms, SCALE):
        is_entered = True
    assert stopping.arrived
    assert is_entered == (at > 9)
    assert is_same(weights_of(runner, layout), before)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_so_does_a_signal_that_ends_the_program(runner: AnyRunner, layout: AdapterLayout, terms: list[Term]) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted("stopped")

    before, handler = weights_of(runner, layout), signal.signal(signal.SIGTERM, stop)
    try:
        stopping = Stopping(runner, 3, signal.SIGTERM)
        with pytest.raises(Interrupted), merged_into_weights(stopping, layout, terms, SCALE):
            pass
    finally:
        assert signal.signal(signal.SIGTERM, handler) is stop
    assert stopping.arrived
    assert is_same(weights_of(runner, layout), before)


def wait_for_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(10)


def test_ctrl_c_in_the_block_puts_the_weights_back(runner: AnyRunner, layout: AdapterLayout, terms: list[Term]) -> None:
    before = weights_of(runner, layout)
    with pytest.raises(KeyboardInterrupt), merged_into_weights(runner, layout, terms, SCALE):
        wait_for_ctrl_c()
    assert is_same(weights_of(runner, layout), before)


def test_other_threads_can_merge(runner: AnyRunner, layout: AdapterLayout, terms: list[Term]) -> None:
    before, seen = weights_of(runner, layout), []

    def merge() -> None:
        with merged_into_weights(runner, layout, terms, SCALE):
            seen.append(is_same(weights_of(runner, layout), before))

    thread = threading.Thread(target=merge)
    thread.start()
    thread.join()
    assert seen == [False]
    assert is_same(weights_of(runner, layout), before)


def test_what_does_not_fit_changes_nothing(runner: AnyRunner, layout: AdapterLayout, terms: list[Term]) -> None:
    before = weights_of(runner, layout)
    short = Term("short", 1.0, bytes(terms[0].body)[:-4])
    with pytest.raises(IntegrityError, match="bytes was given"), merged_into_weights(runner, layout, [short], 1.0):
        pass
    # Its last module is unknown, so that others are changed before.
    foreign = AdapterLayout.of({**layout.shapes, "model.layers.9.mlp.up_proj": (64, 32)}, layout.rank, "float32")
    term = Term("foreign", 1.0, bytes(4 * foreign.elements))
    assert [*foreign.modules][-1] == "model.layers.9.mlp.up_proj"
    with pytest.raises(BaseModelError, match=r"model\.layers\.9"), merged_into_weights(runner, foreign, [term], 1.0):
        pass
    assert is_same(weights_of(runner, layout), before)


def test_a_family_that_only_the_library_knows(
    family_path: Callable[[str], Path], make_body: MakeBody, tmp_path: Path
) -> None:
    loaded = load(locate(str(family_path("gemma2")), models_path=tmp_path), device="cpu", dtype="float32")
    layout = AdapterLayout.of(linear_shapes(loaded.model, ("q_proj", "down_proj")), 2, "float32")
    runner, body = library(loaded, layout), make_body(layout, 1)
    bare = answers(runner)
    runner.put(0, body)
    for row in range(2):
        runner.inject(row, [0], [0.5])
    slots = answers(runner)
    for row in range(2):
        runner.inject(row, [], [])
    with merged_into_weights(runner, layout, [Term("one", 0.5, body)], SCALE):
        torch.testing.assert_close(answers(runner), slots, atol=1e-4, rtol=0)
    assert torch.equal(answers(runner), bare)
    assert (slots - bare).abs().max() > 0.01
