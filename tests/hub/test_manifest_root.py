"""The root manifest: what is written is read back, and nothing else is believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from registry.errors import IntegrityError
from registry.hub.manifest.limits import ROOT_LIMIT_BYTES
from registry.hub.manifest.published_names import hub_id
from registry.hub.manifest.root import read_root, write_root
from registry.hub.manifest.text import plain
from registry.published import FileRef, PublishedVersion, ShardEntry
from registry.records import BaseModel
from tests.hub.manifests import BASE_MODEL, MOMENT, RECIPE, canonical, digest, small_root

Values = dict[str, Any]


def test_a_root_is_read_back_as_it_was_written() -> None:
    root = small_root()
    data = write_root(root)
    assert read_root(data, repository="ada/handbook") == root
    assert write_root(read_root(data, repository="ada/handbook")) == data


def test_a_root_has_a_line_for_every_field_and_entry() -> None:
    lines = write_root(small_root()).decode().split("\n")
    assert lines[0] == "{"
    assert lines[-2:] == ["}", ""]
    fields = [line for line in lines if line.startswith(' "')]
    assert fields == sorted(fields)
    assert sum(line.startswith('  {"created_at"') and '"number"' in line for line in lines) == 2


def test_1000_versions_and_4096_shards_make_a_root_of_700_kilobytes() -> None:
    versions = tuple(
        PublishedVersion(number, digest(number), number - 1 or None, RECIPE.digest, "", MOMENT, 10**7, 10**12)
        for number in range(1, 1001)
    )
    shards = tuple(ShardEntry(FileRef(digest("shard", number), 400_000), 5_000) for number in range(4096))
    root = small_root(versions=versions, latest=1000, shard_bits=12, shards=shards, documents=10**7, adapters=10**7)
    data = write_root(root)
    assert len(data) < 700_000
    assert read_root(data, repository="ada/handbook") == root


@pytest.mark.parametrize(
    ("reference", "revision", "published", "on_hub"),
    [
        ("ada/tiny", "c" * 40, "ada/tiny", True),
        ("ada/tiny@main", "c" * 40, "ada/tiny", True),
        ("smollm2-135m", "sha256:" + "1" * 64, "HuggingFaceTB/SmolLM2-135M-Instruct", True),
        ("/home/ada/secret project/tiny", None, "tiny", False),
        ("models/tiny", None, "tiny", False),  # a folder, though it reads as an id
        ("C:\\Users\\ada\\tiny.gguf", "sha256:" + "1" * 64, "tiny.gguf", False),
        ("published:ada/tiny", "c" * 40, "ada/tiny", True),
        ("/models/a\x1b[31mb", None, "a [31mb", False),
    ],
)
def test_base_models_are_published_under_names_that_others_find(
    reference: str, revision: str | None, published: str, on_hub: bool
) -> None:
    model = BaseModel(BASE_MODEL.fingerprint, reference, revision, "LlamaForCausalLM", 1)
    data = write_root(small_root(base_models=(model,)))
    (found,) = read_root(data, repository="ada/handbook").base_models
    assert (found.reference, found.revision) == (published, revision)
    assert (hub_id(model), hub_id(found)) == ((published, published) if on_hub else (None, None))
    assert b"secret" not in data
    assert b"Users" not in data


def test_plain_text_is_what_a_root_takes() -> None:
    message = "a\x00b\x1b[31mc\nd\u202ee\u2066f" + "x" * 5000
    root = small_root()
    versions = (*root.versions[:-1], replace(root.versions[-1], message=plain(message)))
    assert read_root(write_root(replace(root, versions=versions)), repository="r").versions[-1].message == plain(
        message
    )
    assert plain(message).startswith("a b [31mc d e fxxx")
    with pytest.raises(IntegrityError, match="message"):
        write_root(replace(root, versions=(*root.versions[:-1], replace(root.versions[-1], message="a\nb"))))


def _set(*path: Any, to: Any) -> Callable[[Values], None]:
    def change(values: Values) -> None:
        for step in path[:-1]:
            values = values[step]
        values[path[-1]] = to

    return change


def _drop(*path: Any) -> Callable[[Values], None]:
    def change(values: Values) -> None:
        for step in path[:-1]:
            values = values[step]
        del values[path[-1]]

    return change


def _recipe(**settings: Any) -> Callable[[Values], None]:
    """A recipe with other settings, and the digest that these have."""

    def change(values: Values) -> None:
        changed = canonical(RECIPE) | settings
        from registry.digests import json_digest

        values["recipes"] = {json_digest(changed): changed}
        for one in (*values["versions"], *values["task_adapters"]):
            one["recipe_digest"] = json_digest(changed)

    return change


MALFORMED: list[tuple[str, Callable[[Values], None], str]] = [
    ("no format", _drop("format"), "format"),
    ("another format", _set("format", to="pragreg-hub-2"), "pragreg-hub-2"),
    ("a field more", _set("owner", to="x"), "no meaning: 'owner'"),
    ("a field of a version more", _set("versions", 0, "x", to=1), "no meaning"),
    ("a field less", _drop("packs_bytes"), "packs_bytes"),
    ("a number as text", _set("documents", to="6"), "documents"),
    ("a truth as number", _set("has_text", to=1), "has_text"),
    ("a number as truth", _set("latest", to=True), "latest"),
    ("a fraction", _set("documents", to=6.5), "documents"),
    ("a negative number", _set("packs_bytes", to=-1), "packs_bytes"),
    ("a number that is too large", _set("packs_bytes", to=2**53), "packs_bytes"),
    ("control characters", _set("versions", 1, "message", to="a\x1b[2Jb"), "message"),
    ("bidi characters", _set("versions", 1, "message", to="a\u202eb"), "message"),
    ("half a character", _set("versions", 1, "message", to="\ud800"), "message"),
    ("a long message", _set("versions", 1, "message", to="x" * 4097), "message"),
    ("a repository that is a path", _set("repository", to="../../etc"), "repository"),
    ("a corpus that is a path", _set("corpus", to="../x"), "corpus"),
    ("versions out of order", lambda v: v["versions"].reverse(), "numbered from 1"),
    ("a version twice", lambda v: v["versions"].append(v["versions"][1]), "numbered from 1"),
    ("a gap", _drop("versions", 0), "numbered from 1"),
    ("no versions", _set("versions", to=[]), "latest"),
    ("a parent of the future", _set("versions", 0, "parent", to=2), "parent"),
    ("a parent that is itself", _set("versions", 1, "parent", to=2), "parent"),
    ("a parent that is text", _set("versions", 1, "parent", to="1"), "parent"),
    ("latest that is not there", _set("latest", to=3), "latest"),
    ("latest that is not complete", _set("versions", 1, "is_complete", to=False), "latest"),
    ("a forged recipe", lambda v: next(iter(v["recipes"].values())).update(alpha=64.0), "another digest"),
    ("a recipe of another format", _recipe(format=2), "format"),
    ("a recipe with an unknown setting", _recipe(modules_to_save=["lm_head"]), "modules_to_save"),
    ("a recipe of another type", _recipe(rank="2"), "rank"),
    ("a recipe whose number is spelt otherwise", _recipe(alpha=32), "another digest"),
    ("a recipe with a target that is an expression", _recipe(targets=["(a+)+$"]), "setting that is none"),
    ("a recipe of enormous scale", _recipe(alpha=1e9), "scale"),
    ("a recipe of enormous rank", _recipe(rank=10**6), "rank"),
    ("a recipe of another base model", _recipe(base_model="e" * 64), "base models"),
    ("a recipe that starts from nothing", _recipe(task_adapter="e" * 64), "task adapter"),
    ("a version without its recipe", _set("versions", 0, "recipe_digest", to="e" * 64), "recipe of version 1"),
    ("a task adapter without its recipe", _set("task_adapters", 0, "recipe_digest", to="e" * 64), "recipe of the task"),
    ("a task adapter twice", lambda v: v["task_adapters"].append(v["task_adapters"][0]), "twice"),
    ("questions out of order", lambda v: v["task_adapters"][0]["question_digests"].reverse(), "in order"),
    ("more questions than it says", _set("task_adapters", 0, "questions", to=2), "contradict"),
    ("a task adapter beyond its pack", _set("task_adapters", 0, "offset", to=98_000), "contradict"),
    ("a loss as text", _set("task_adapters", 0, "training", "last_loss", to="0"), "last_loss"),
    ("a base model twice", lambda v: v["base_models"].append(v["base_models"][0]), "twice"),
    ("a revision that is a branch", _set("base_models", 0, "revision", to="main"), "revision"),
    ("a digest in capitals", _set("versions", 0, "digest", to="A" * 64), "digest"),
    ("a digest that is short", _set("versions", 0, "digest", to="a" * 63), "digest"),
    ("a date without its zone", _set("written_at", to="2026-02-03T04:05:06"), "written_at"),
    ("a date that is none", _set("written_at", to="2026-02-30T04:05:06Z"), "day"),
    ("too many bits", _set("shard_bits", to=13), "shard_bits"),
    ("shards that do not fit the bits", _set("shard_bits", to=1), "1 shards by 1 bits"),
    ("more shards than bits", lambda v: v["shards"].append(v["shards"][0]), "shards"),
    ("a shard of no rows", _set("shards", 0, 2, to=0), "shard"),
    ("a shard of 1 TB", _set("shards", 0, 1, to=10**12), "shard"),
    ("a shard of 10 billion rows", _set("shards", 0, 2, to=10**10), "shard"),
    ("a shard as a path", _set("shards", 0, 0, to="../../../../etc/passwd"), "shard"),
    ("a shard of four parts", lambda v: v["shards"][0].append(1), "shard"),
    ("more documents than rows", _set("documents", to=100), "contradict"),
    ("fewer documents than a version has", _set("documents", to=1), "contradict"),
    ("more adapters than rows", _set("adapters", to=100), "contradict"),
    ("packs without adapters", _set("adapters", to=0), "packs"),
    ("adapters without packs", lambda v: v.update(packs=0, packs_bytes=0), "packs"),
    ("a card that is none", _set("card_digest", to="x"), "card_digest"),
]


@pytest.mark.parametrize(("change", "says"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
def test_a_malformed_root_is_refused_for_what_is_wrong_with_it(change: Callable[[Values], None], says: str) -> None:
    values = json.loads(write_root(small_root()))
    change(values)
    with pytest.raises(IntegrityError, match=r"^the root manifest of ada/handbook is malformed: ") as caught:
        read_root(json.dumps(values).encode(), repository="ada/handbook")
    assert says in caught.value.message
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "Expecting value"),
        (b"[]", "no object"),
        (b"null", "no object"),
        (b"\xff\xfe{\x00}\x00", "utf-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"format": "pragreg-hub-1", "format": "pragreg-hub-1"}', "a key twice"),
        (b'{"format": NaN}', "NaN"),
        (b'{"format": -Infinity}', "Infinity"),
        (b'{"format": 1e999}', "finite"),
        (b'{"format": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"format": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too deep"),
        (b"[" + b"[]," * 1_100_000 + b"1]", "too many parts"),
        (b" " * (ROOT_LIMIT_BYTES + 1), "bytes, more than"),
    ],
)
def test_bytes_that_are_no_root_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(IntegrityError, match="is malformed") as caught:
        read_root(data, repository="ada/handbook")
    assert says in caught.value.message
