"""Workers: what each of them may be, what is ready ahead of them, and how one that fails or dies is told of."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest

from registry.base_model import LoadedModel, ModelFiles
from registry.encoding.examples import build_examples, prepare
from registry.encoding.pool import Group, Work, ahead, encode_groups
from registry.errors import EncodingError
from registry.recipe import Recipe
from registry.records import EncodedAdapter, EncodingInput
from tests.encoding.conftest import layout_of, make_input


@pytest.fixture
def work(tiny_files: ModelFiles, tiny_model: LoadedModel, recipe: Recipe) -> Work:
    return Work(tiny_files, recipe, layout_of(tiny_model, recipe), "cpu")


def digests(finished: Iterator[list[EncodedAdapter]]) -> dict[str, str]:
    return {adapter.document_digest: adapter.digest for adapters in finished for adapter in adapters}


def test_processes_with_a_device_each_give_what_one_process_gives(work: Work, inputs: list[EncodingInput]) -> None:
    groups = [inputs[:2], inputs[2:4], inputs[4:]]
    alone = digests(encode_groups(work, groups, 1))
    assert len(alone) == len(inputs)
    assert digests(encode_groups(work, groups, 2, devices=("cpu", "cpu"))) == alone


def test_every_worker_gets_its_device(work: Work, inputs: list[EncodingInput]) -> None:
    with pytest.raises(Exception, match="mars"):
        list(encode_groups(work, [inputs[:1]] * 4, 2, devices=("cpu", "mars")))


def test_a_worker_that_is_killed_is_told_of(work: Work, inputs: list[EncodingInput]) -> None:
    finished = encode_groups(work, ([given] for given in inputs * 200), 2)
    next(finished)
    workers = [process for process in psutil.Process().children() if "spawn_main" in " ".join(process.cmdline())]
    assert len(workers) == 2
    os.kill(workers[0].pid, signal.SIGKILL)
    with pytest.raises(EncodingError, match="died"):
        list(finished)
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


def test_an_error_in_a_worker_comes_out_whole(work: Work, inputs: list[EncodingInput]) -> None:
    diverging = replace(work, recipe=replace(work.recipe, learning_rate=1e30))
    with pytest.raises(EncodingError, match="Lamp") as raised:
        list(encode_groups(diverging, [inputs[:1]] * 2, 2))
    assert "learning_rate" in (raised.value.hint or "")


def test_closing_stops_the_workers(work: Work, inputs: list[EncodingInput]) -> None:
    finished = encode_groups(work, ([given] for given in inputs * 200), 2)
    next(finished)
    workers = [process for process in psutil.Process().children() if "spawn_main" in " ".join(process.cmdline())]
    started = time.perf_counter()
    finished.close()
    assert time.perf_counter() - started < 5
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert workers
    assert not alive


def test_the_next_group_is_read_while_one_is_trained(work: Work, inputs: list[EncodingInput]) -> None:
    taken: list[tuple[int, str]] = []

    def groups() -> Iterator[Group]:
        for number in range(4):
            taken.append((number, threading.current_thread().name))
            yield inputs[number : number + 1]

    finished = encode_groups(work, groups(), 1)
    next(finished)
    deadline = time.monotonic() + 10
    while len(taken) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [number for number, _ in taken] == [0, 1]
    assert {name for _, name in taken}.isdisjoint({threading.current_thread().name})
    finished.close()


def test_reading_ahead_is_in_order_and_bounded() -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    items = ahead(source(), 2)
    assert next(items) == 0
    time.sleep(0.05)
    assert len(taken) <= 3
    assert list(items) == list(range(1, 10))


def test_an_error_while_reading_ahead_is_raised_in_its_turn() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise EncodingError("lost")

    items = ahead(source(), 3)
    assert next(items) == 1
    with pytest.raises(EncodingError, match="lost"):
        next(items)


def test_prepared_inputs_have_the_same_examples(tiny_model: LoadedModel, recipe: Recipe) -> None:
    given = make_input("Lamp", "the lamp of Ostrel burns green oil every winter night", pairs=3)
    prepared = prepare(tiny_model.tokenizer, recipe, given)
    assert build_examples(None, recipe, prepared) == build_examples(tiny_model.tokenizer, recipe, given)
