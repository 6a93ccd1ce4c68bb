"""The identity of a base model: one digest over config, tokenizer, chat template and weights.

For a GGUF file it is the digest of the file, which holds all of these, so that the converted copies that different
versions of the libraries write are one model.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

from registry.base_model import conversion
from registry.base_model.hub import DAMAGED_HINT, weight_files
from registry.base_model.location import GGUF_REVISION, ModelFiles
from registry.base_model.memory import DIGESTS_FILE, file_digest, recall, remember
from registry.base_model.weight_shapes import tensor_shapes
from registry.digests import json_digest, sha256_hex, short
from registry.errors import BaseModelError
from registry.records import BaseModel

FORMAT = 1
"""Raised when the fingerprint is taken of other things."""

VOLATILE_CONFIG = frozenset(
    {"transformers_version", "_name_or_path", "_model_name_or_path", "dtype", "torch_dtype", "use_cache"}
    | {"_commit_hash", "_attn_implementation", "attn_implementation", "auto_map"}
)
"""Entries of config.json that say how it was saved or is run, not what the model is."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
TOKENIZER_SETTINGS = (
    *("bos_token", "eos_token", "pad_token", "unk_token"),
    *("add_bos_token", "add_eos_token", "add_prefix_space", "legacy"),
)


def fingerprint(files: ModelFiles) -> BaseModel:
    """Return the model's identity; files are hashed once and again only when their size or time has changed.

    Raises:
        BaseModelError: a file is missing or malformed.
        IntegrityError: the converted copy of a GGUF file is damaged.
    """
    try:
        config = _read_json(files.folder / "config.json")
        if files.source == "gguf":
            digest = str(files.revision).removeprefix(GGUF_REVISION)
            conversion.check_converted(files.folder, digest, files.models_path)
            identity = json_digest({"format": FORMAT, "conversion": conversion.FORMAT, "gguf": digest})
        else:
            identity = json_digest(_parts(files, config))
        return BaseModel(
            fingerprint=identity,
            reference=files.reference,
            revision=files.revision,
            architecture=_architecture(config),
            parameters=_parameters(files),
        )
    except OSError as error:
        raise BaseModelError(
            f"base model {files.reference}: {error.filename} cannot be read: {error.strerror or error}",
            hint="check the permissions of the model's files",
        ) from error


def require_same(base_model: BaseModel, expected: BaseModel) -> None:
    """Check that a model is the one that a recipe's adapters were trained for.

    Raises:
        BaseModelError: it is another; the message names both.
    """
    if base_model.fingerprint == expected.fingerprint:
        return
    if (base_model.reference, base_model.revision) == (expected.reference, expected.revision):
        raise BaseModelError(
            f"base model {base_model.reference} has changed since the adapters were trained: its fingerprint was "
            f"{short(expected.fingerprint)} and is {short(base_model.fingerprint)} now",
            hint=f"put its files back, or build into a new corpus: pragreg build SOURCE... --corpus NAME "
            f"--base-model {base_model.reference}",
        )
    revision = f" at {expected.revision}" if expected.revision else ""
    raise BaseModelError(
        f"base model {base_model.reference} has fingerprint {short(base_model.fingerprint)}, but the adapters were "
        f"trained for {expected.reference}{revision} with fingerprint {short(expected.fingerprint)}",
        hint=f"set base_model = {expected.reference!r} under [models] in pragreg.toml, or build into a new corpus",
    )


def _parts(files: ModelFiles, config: dict[str, Any]) -> dict[str, Any]:
    folder, memory = files.folder, files.models_path
    settings = _read_json(folder / "tokenizer_config.json", optional=True)
    present = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if "tokenizer.json" in present:
        present = ["tokenizer.json"]
    return {
        "format": FORMAT,
        "config": json_digest(_lasting(config)),
        "tokenizer": {name: file_digest(folder / name, memory) for name in present},
        "tokenizer_settings": {name: settings[name] for name in TOKENIZER_SETTINGS if name in settings},
        "chat_template": _chat_template_digest(folder, settings),
        "weights": [file_digest(path, memory) for path in weight_files(folder)],
    }


def _lasting(config: Any) -> Any:
    """Return the config without its volatile entries, at every depth."""
    if isinstance(config, dict):
        return {key: _lasting(value) for key, value in config.items() if key not in VOLATILE_CONFIG}
    return [_lasting(value) for value in config] if isinstance(config, list) else config


def _chat_template_digest(folder: Path, settings: dict[str, Any]) -> str | None:
    """The template's text decides, wherever this version of transformers keeps it."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        template: Any = file.read_text(encoding="utf-8")
    else:
        template = _read_json(folder / "chat_template.json", optional=True).get("chat_template")
        template = template if template is not None else settings.get("chat_template")
    if template is None:
        return None
    return sha256_hex(template.encode()) if isinstance(template, str) else json_digest(template)


def _architecture(config: dict[str, Any]) -> str:
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else str(config.get("model_type", "unknown"))


def _parameters(files: ModelFiles) -> int:
    return sum(_count(path, files.models_path) for path in weight_files(files.folder))


def _count(path: Path, models_path: Path) -> int:
    """Numbers in a safetensors file, by its header; a tied output embedding is stored and counted once."""
    key = f"parameters:{file_digest(path, models_path)}"
    known = recall(models_path, DIGESTS_FILE, key)
    if isinstance(known, int):
        return known
    count = sum(prod(shape) for shape in tensor_shapes(path).values())
    remember(models_path, DIGESTS_FILE, key, count)
    return count


def _read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    if optional and not path.is_file():
        return {}
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise BaseModelError(f"{path} is not JSON: {error}", hint=DAMAGED_HINT) from error
    if not isinstance(values, dict):
        raise BaseModelError(f"{path} is not a JSON object", hint=DAMAGED_HINT)
    return values
