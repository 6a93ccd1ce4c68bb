"""Kinds of hostile repositories: task adapters, from which a recipe starts, that are not what they should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from registry.digests import json_digest, sha256_hex
from registry.hub.names import pack_path
from registry.store.layout import AdapterLayout, read_layout
from tests.hub.hostile import Forgery, Row, kind, pack_of, places_of, rebody


def with_task_adapter(forgery: Forgery, change: Callable[[bytes], bytes] = bytes) -> Row:
    """No kind: let the recipe start from a task adapter, which was trained by another recipe, and return its entry."""
    ((_, settings),) = forgery.root["recipes"].items()
    trained_by = settings | {"epochs": 9, "augmenter": "import"}
    data = change(forgery.packs[forgery.newest()["pack"].hex()][0][1])
    digest = sha256_hex(data)
    forgery.change_recipe(task_adapter=digest)
    forgery.root["recipes"][json_digest(trained_by)] = trained_by
    pack = pack_of([(digest, data)])
    record = forgery.record_of(forgery.newest())
    training = ("examples", "tokens", "steps", "first_loss", "last_loss", "elapsed_seconds", "device", "dtype")
    entry = {
        "digest": digest,
        "recipe_digest": json_digest(trained_by),
        "name": "questions",
        "questions_digest": "c" * 64,
        "question_digests": ["d" * 64],
        "questions": 1,
        "parameters": record["parameters"],
        "size_bytes": len(data),
        "training": {name: record[name] for name in training} | {"group_size": 1, "library_versions": {}},
        "created_at": forgery.root["written_at"],
        "pack": sha256_hex(pack),
        "pack_bytes": len(pack),
        "offset": places_of(pack)[digest][0],
    }
    forgery.files[pack_path(entry["pack"])] = pack
    forgery.root["task_adapters"] = [entry]
    forgery.write_root()
    return entry


def _entry(**changes: Any) -> Callable[[Forgery], None]:
    def changed(forgery: Forgery) -> None:
        with_task_adapter(forgery).update(changes)
        forgery.write_root()

    return changed


@kind("holds a number that is not finite")
def task_adapter_that_is_no_number(forgery: Forgery) -> None:
    with_task_adapter(forgery, rebody(lambda vector, _: vector.fill(float("nan"))))


@kind("its recipe")
def task_adapter_of_other_shapes(forgery: Forgery) -> None:
    def change(data: bytes) -> bytes:
        layout = AdapterLayout.of(read_layout(data).shapes, 3, "float32")
        return layout.serialise(np.ones(layout.elements, dtype="<f4").data)

    with_task_adapter(forgery, change)


@kind("arrived with bytes of another digest")
def task_adapter_of_another_digest(forgery: Forgery) -> None:
    entry = with_task_adapter(forgery)
    pack = pack_of([(entry["digest"], bytes(entry["size_bytes"]))])
    del forgery.files[pack_path(entry["pack"])]
    entry["pack"] = sha256_hex(pack)
    forgery.files[pack_path(entry["pack"])] = pack
    forgery.write_root()


@kind("has 'name'")
def control_characters_in_the_name_of_a_task_adapter(forgery: Forgery) -> None:
    _entry(name="q\x1b[2J")(forgery)


@kind("a task adapter is called '../../etc'")
def path_in_place_of_the_name_of_a_task_adapter(forgery: Forgery) -> None:
    _entry(name="../../etc")(forgery)


@kind("are not given by their digests, in order")
def questions_that_are_no_digests(forgery: Forgery) -> None:
    _entry(question_digests=["../../etc/passwd"])(forgery)


@kind("the numbers of a task adapter contradict each other")
def task_adapter_behind_the_end_of_its_pack(forgery: Forgery) -> None:
    _entry(offset=10**9)(forgery)


@kind("it lacks the recipe of the task adapter")
def task_adapter_without_a_recipe(forgery: Forgery) -> None:
    _entry(recipe_digest="e" * 64)(forgery)


@kind("there is no such file", status=12)
def task_adapter_that_is_not_there(forgery: Forgery) -> None:
    entry = with_task_adapter(forgery)
    del forgery.files[pack_path(entry["pack"])]
