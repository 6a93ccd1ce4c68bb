"""The root manifest: one readable JSON file that names all others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from registry.catalog.names import is_corpus_name
from registry.digests import json_digest
from registry.errors import IntegrityError, UsageError
from registry.hub.manifest.limits import (
    MOST_BITS,
    MOST_RECIPES,
    MOST_VERSIONS,
    PACK_LIMIT_BYTES,
    ROOT_LIMIT_BYTES,
    SHARD_LIMIT_BYTES,
    SHARD_LIMIT_ROWS,
)
from registry.hub.manifest.published_names import published_base_model
from registry.hub.manifest.root_values import (
    base_model_of,
    recipe_of,
    task_adapter_of,
    task_adapter_values,
    version_of,
    version_values,
)
from registry.hub.manifest.strict_json import Fields, is_digest, moment_text, parse
from registry.hub.names import parse_repository
from registry.published import FileRef, PublishedVersion, Root, ShardEntry
from registry.recipe import from_canonical

FORMAT = "pragreg-hub-1"
_MOST_PARTS = 2_000_000


def write_root(root: Root) -> bytes:
    """Return the bytes of pragreg.json; base models get the names under which others find them.

    Raises:
        IntegrityError: it could not be read back, such as a message with control characters (see ``text.plain``).
    """
    values = {
        "format": FORMAT,
        "repository": root.repository,
        "corpus": root.corpus,
        "language": root.language,
        "latest": root.latest,
        "has_text": root.has_text,
        "pack_size_bytes": root.pack_size_bytes,
        "base_models": [asdict(published_base_model(model)) for model in root.base_models],
        "recipes": {json_digest(recipe): recipe for recipe in root.recipes},
        "versions": [version_values(version) for version in root.versions],
        "task_adapters": [task_adapter_values(published) for published in root.task_adapters],
        "shard_bits": root.shard_bits,
        "shards": [entry and [entry.file.digest, entry.file.size_bytes, entry.rows] for entry in root.shards],
        "documents": root.documents,
        "adapters": root.adapters,
        "packs": root.packs,
        "packs_bytes": root.packs_bytes,
        "card_digest": root.card_digest,
        "written_by": root.written_by,
        "written_at": moment_text(root.written_at),
    }
    data = _text(values).encode()
    read_root(data, repository=root.repository)
    return data


def read_root(data: bytes, *, repository: str) -> Root:
    """Return what pragreg.json says; ``repository`` is named in messages.

    Raises:
        IntegrityError: it is malformed in any way, or contradicts itself; the message says what.
    """
    try:
        if len(data) > ROOT_LIMIT_BYTES:
            raise ValueError(f"it has {len(data)} bytes, more than {ROOT_LIMIT_BYTES}")
        root = _root(parse(data, most_parts=_MOST_PARTS))
        _check(root)
    except (ValueError, TypeError, ArithmeticError, MemoryError, UsageError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise IntegrityError(f"the root manifest of {repository} is malformed: {reason}") from error
    return root


def _text(values: Mapping[str, Any]) -> str:
    """Return JSON with a line for every field, and for every entry of a list or of an object in a field."""
    fields = []
    for name in sorted(values):
        value = values[name]
        if isinstance(value, list) and value:
            shown = "[\n" + ",\n".join(f"  {_compact(entry)}" for entry in value) + "\n ]"
        elif isinstance(value, dict) and value:
            shown = "{\n" + ",\n".join(f"  {_compact(k)}: {_compact(value[k])}" for k in sorted(value)) + "\n }"
        else:
            shown = _compact(value)
        fields.append(f" {_compact(name)}: {shown}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _root(value: Any) -> Root:
    fields = Fields(value, "it")
    written = fields.take("format")
    if written != FORMAT:
        raise ValueError(f"its format is {ascii(written)[:60]}; this pragreg reads {FORMAT}")
    bits = fields.integer("shard_bits", 0, MOST_BITS)
    root = Root(
        repository=fields.text("repository", 200),
        corpus=fields.text("corpus", 64),
        language=fields.text("language", 35),
        latest=fields.integer("latest", 1, MOST_VERSIONS),
        has_text=fields.truth("has_text"),
        pack_size_bytes=fields.integer("pack_size_bytes", 1, PACK_LIMIT_BYTES),
        base_models=tuple(base_model_of(one) for one in fields.items("base_models", MOST_RECIPES)),
        recipes=tuple(recipe_of(*one) for one in fields.mapping("recipes", MOST_RECIPES).items()),
        versions=tuple(version_of(one) for one in fields.items("versions", MOST_VERSIONS)),
        task_adapters=tuple(task_adapter_of(one) for one in fields.items("task_adapters", MOST_RECIPES)),
        shard_bits=bits,
        shards=tuple(_shard_of(one) for one in fields.items("shards", 1 << bits)),
        documents=fields.integer("documents"),
        adapters=fields.integer("adapters"),
        packs=fields.integer("packs"),
        packs_bytes=fields.integer("packs_bytes"),
        card_digest=_optional_digest(fields.take("card_digest")),
        written_by=fields.text("written_by", 100),
        written_at=fields.moment("written_at"),
    )
    fields.end()
    return root


def _shard_of(value: Any) -> ShardEntry | None:
    if value is None:
        return None
    if type(value) is not list or len(value) != 3 or type(value[1]) is not int or type(value[2]) is not int:
        raise ValueError("a shard is not given as digest, bytes and rows")
    digest, size_bytes, rows = value
    if not is_digest(digest) or not 0 < size_bytes <= SHARD_LIMIT_BYTES or not 0 < rows <= SHARD_LIMIT_ROWS:
        raise ValueError(f"a shard is given as {ascii(value)[:100]}")
    return ShardEntry(FileRef(digest, size_bytes), rows)


def _optional_digest(value: Any) -> str | None:
    if value is not None and not is_digest(value):
        raise ValueError("its card_digest is no digest")
    return value  # type: ignore[no-any-return]


def _check(root: Root) -> None:
    """Check what the parts of a root say of each other.

    Raises:
        ValueError: they contradict each other.
    """
    if parse_repository(root.repository)[1] is not None or not is_corpus_name(root.corpus):
        raise ValueError(f"it names the repository {root.repository!r} and the corpus {root.corpus!r}")
    if len(root.shards) != 1 << root.shard_bits:
        raise ValueError(f"it has {len(root.shards)} shards by {root.shard_bits} bits")
    models = [model.fingerprint for model in root.base_models]
    _check_unique(models, "base model")
    recipes = {recipe.digest: recipe for recipe in map(from_canonical, root.recipes)}
    if {recipe.base_model for recipe in recipes.values()} != set(models):
        raise ValueError("its recipes have other base models than it lists")
    _check_task_adapters(root, set(recipes), {recipe.task_adapter for recipe in recipes.values()} - {""})
    _check_versions(root.versions, set(recipes))
    if not root.latest <= len(root.versions) or not root.versions[root.latest - 1].is_complete:
        raise ValueError(f"its latest version is {root.latest}, which it has not, or not completely")
    _check_sums(root)


def _check_task_adapters(root: Root, recipes: set[str], started_from: set[str]) -> None:
    listed = [published.task_adapter for published in root.task_adapters]
    _check_unique([task_adapter.digest for task_adapter in listed], "task adapter")
    if missing := started_from - {task_adapter.digest for task_adapter in listed}:
        raise ValueError(f"it lacks the task adapter {min(missing)}, which a recipe starts from")
    for task_adapter in listed:
        if task_adapter.recipe_digest not in recipes:
            raise ValueError(f"it lacks the recipe of the task adapter {task_adapter.digest}")


def _check_versions(versions: Iterable[PublishedVersion], recipes: set[str]) -> None:
    for number, version in enumerate(versions, start=1):
        if version.number != number:
            raise ValueError(
                f"its versions are not numbered from 1 without a gap: {version.number} follows {number - 1}"
            )
        if version.parent is not None and not 0 < version.parent < number:
            raise ValueError(f"the parent of version {number} is {version.parent}")
        if version.recipe_digest not in recipes:
            raise ValueError(f"it lacks the recipe of version {number}")


def _check_sums(root: Root) -> None:
    rows = sum(entry.rows for entry in root.shards if entry)
    files = [entry.file.digest for entry in root.shards if entry]
    _check_unique(files, "shard")
    most = max((version.documents for version in root.versions), default=0)
    if not most <= root.documents <= rows or root.adapters > rows:
        raise ValueError(
            f"its counts contradict each other: {root.documents} documents, {root.adapters} adapters, {rows} rows, "
            f"a version of {most} documents"
        )
    if not bool(root.adapters) == bool(root.packs) == bool(root.packs_bytes) or root.packs > root.adapters:
        raise ValueError(f"it has {root.adapters} adapters in {root.packs} packs of {root.packs_bytes} bytes")


def _check_unique(digests: list[str], what: str) -> None:
    if len(set(digests)) != len(digests):
        raise ValueError(f"it lists a {what} twice")
