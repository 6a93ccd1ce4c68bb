"""A GGUF file becomes a folder of safetensors and tokenizer, once.

transformers needs 15 s and more to read a quantised file and under a second to map the copy. The copy is float32: that
is exactly what the quantised numbers mean, and mapping it converts nothing, whereas bfloat16 would round them and
take longer to load as float32.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from registry.base_model.hub import WEIGHTS_FILE
from registry.base_model.library import quiet, reading, require_all_weights
from registry.base_model.memory import file_digest, hash_file
from registry.digests import short
from registry.errors import BaseModelError, IntegrityError, StorageError

FORMAT = 1
"""Raised when a conversion would give other numbers; part of the fingerprint of a model from a GGUF file."""
RECORD_FILE = "conversion.json"
FOLDER_NAME_LENGTH = 16
ABANDONED_SECONDS = 3600.0
"""A partial copy older than this belongs to a process that was killed."""


def is_converted(digest: str, models_path: Path) -> bool:
    """Say whether there is a whole converted copy of the GGUF file with that sha256."""
    return (models_path / digest[:FOLDER_NAME_LENGTH] / RECORD_FILE).is_file()


def converted_folder(
    file: Path | None, digest: str, models_path: Path, *, reference: str, notify: Callable[[str], None]
) -> Path:
    """Return the folder of the converted copy of the GGUF file with that sha256; convert ``file`` if there is none.

    The copy is written beside, synced and renamed, so that there is a whole one or none; of two processes that
    convert at once the second one's work is thrown away. ``notify`` is told before the work begins.

    Raises:
        BaseModelError: there is neither copy nor ``file``, or transformers cannot read the file.
        StorageError: the copy cannot be written.
    """
    folder = models_path / digest[:FOLDER_NAME_LENGTH]
    if is_converted(digest, models_path):
        return folder
    if file is None:
        raise BaseModelError(f"base model {reference}: there is no converted copy of {short(digest)}")
    notify(f"converting base model {reference} to safetensors, once")
    partial = models_path / f"{folder.name}.{os.getpid()}.partial"
    try:
        _remove_abandoned(models_path, folder.name)
        partial.mkdir(parents=True, exist_ok=True)
        _convert(file, digest, partial)
        _sync(partial)
        _rename(partial, folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(
            f"the converted copy of {file} cannot be written to {models_path}: {reason}",
            hint="free some disk space, or set PRAGREG_MODELS to a folder with room",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def check_converted(folder: Path, digest: str, models_path: Path) -> None:
    """Check that a converted copy is of the GGUF file with that sha256 and that its weights are as they were written.

    Raises:
        IntegrityError: they are not.
    """
    try:
        record = json.loads((folder / RECORD_FILE).read_bytes())
        intact = (
            record["gguf_sha256"] == digest
            and record["format"] == FORMAT
            and record["weights_sha256"] == file_digest(folder / WEIGHTS_FILE, models_path)
        )
    except (OSError, ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise IntegrityError(f"the converted base model in {folder} is damaged", hint=f"rm -r {folder}")


def _convert(file: Path, digest: str, folder: Path) -> None:
    """Write safetensors, config, tokenizer and a record of where they came from into ``folder``."""
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise BaseModelError(f"{file} is not a GGUF file", hint="check the path, or fetch the file again")
    # Alone in a folder, so that nothing which happens to lie beside the file is read as part of the model.
    alone = folder / "source"
    alone.mkdir()
    (alone / "model.gguf").symlink_to(file.resolve())
    model, tokenizer = _read_gguf(alone, file)
    shutil.rmtree(alone)
    with quiet():
        model.save_pretrained(folder, max_shard_size="1000GB")
        tokenizer.save_pretrained(folder)
    # Readable for whoever shares the folder of models, as the other files are.
    (folder / WEIGHTS_FILE).chmod((folder / "config.json").stat().st_mode)
    record = {
        "format": FORMAT,
        "gguf": file.name,
        "gguf_sha256": digest,
        "weights_sha256": hash_file(folder / WEIGHTS_FILE),
    }
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")


def _read_gguf(folder: Path, file: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"gguf_file": "model.gguf", "local_files_only": True, "trust_remote_code": False}
    hint = "fetch the file again if it is not whole, or use the model's safetensors folder or Hub id"
    # The bar of this step knows no switch; what goes wrong comes as an exception.
    with reading(f"the GGUF file {file} cannot be converted", hint=hint), redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, **options
        )
        require_all_weights(report)
    # The weights are plain float32 now; transformers would refuse to save what still calls itself quantised.
    model.hf_quantizer = None
    del model.config.quantization_config
    model.config._name_or_path = ""
    return model, tokenizer


def _sync(folder: Path) -> None:
    for path in (*sorted(folder.iterdir()), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _rename(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError:
        if not (folder / RECORD_FILE).is_file():
            raise


def _remove_abandoned(models_path: Path, name: str) -> None:
    for path in models_path.glob(f"{name}.*.partial"):
        if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
