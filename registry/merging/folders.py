"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from registry.errors import StorageError, UsageError

OTHER_OUT = "choose another --out, or make room there"


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder beside ``folder`` to write into; it takes that name when the block ends well.

    Raises:
        UsageError: ``folder`` exists and is not an empty folder.
        StorageError: it cannot be written.
    """
    folder = folder.expanduser().absolute()
    check_free(folder)
    try:
        partial = folder.parent / f".{folder.name}.{os.getpid()}.partial"
        partial.mkdir(parents=True)
    except OSError as error:
        raise _not_written(folder, error) from error
    try:
        yield partial
        partial.replace(folder)
    except OSError as error:
        raise _not_written(folder, error) from error
    except SafetensorError as error:
        # What safetensors raises for a full disk too; nothing else of it can fail while writing.
        raise StorageError(f"{folder} cannot be written: {error}", hint=OTHER_OUT) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(folder: Path) -> None:
    """Check that a folder of this name can be made, before the work for it is done.

    Raises:
        UsageError: it exists and is not an empty folder.
        StorageError: it cannot be looked into.
    """
    folder = folder.expanduser().absolute()
    try:
        is_taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise _not_written(folder, error) from error
    if is_taken:
        raise UsageError(f"{folder} exists and is not an empty folder", hint="choose another --out, or empty it")


def _not_written(folder: Path, error: OSError) -> StorageError:
    return StorageError(f"{folder} cannot be written: {error.strerror or error}", hint=OTHER_OUT)
