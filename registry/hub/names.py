"""How repositories, their revisions and the files in them are named. Paths are computed from digests, never read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from registry.errors import UsageError

ROOT = "pragreg.json"
SIGNATURE = "pragreg.json.sig"
CARD = "README.md"

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_REVISION_LENGTH = 128
_VERSION_TAG = re.compile(r"v([1-9][0-9]{0,8})")
_SHAPE = "NAMESPACE/NAME, NAMESPACE/NAME@TAG, NAMESPACE/NAME@vN or NAMESPACE/NAME@COMMIT"


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of an endpoint; as text ``NAMESPACE/NAME``."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """Return ``NAMESPACE/NAME``."""
        return f"{self.namespace}/{self.name}"


def parse_repository(text: str) -> tuple[Repository, str | None]:
    """Take ``NAMESPACE/NAME[@REVISION]`` apart; the revision is a tag, ``vN`` or a commit, None where there is none.

    Raises:
        UsageError: it is no such name; the Hub's own rules for names hold.
    """
    identifier, at, revision = text.partition("@")
    namespace, slash, name = identifier.partition("/")
    sound = slash and _is_part(namespace) and _is_part(name) and not name.endswith(".git")
    if not sound:
        raise UsageError(f"{text!r} is no repository on the Hub", hint=f"name it as {_SHAPE}")
    if at:
        check_tag(revision)
    return Repository(namespace, name), revision if at else None


def check_tag(name: str) -> None:
    """Check that a tag may have this name.

    Raises:
        UsageError: git or the Hub would refuse it.
    """
    sound = _REVISION.fullmatch(name) and len(name) <= _REVISION_LENGTH and ".." not in name
    if not sound or any(part.endswith((".", ".lock")) for part in name.split("/")):
        raise UsageError(
            f"{name!r} cannot be a tag",
            hint=f"use up to {_REVISION_LENGTH} letters, digits, dots, dashes and underscores",
        )


def version_tag(number: int) -> str:
    """Return the tag of a version of a repository."""
    return f"v{number}"


def tagged_version(name: str) -> int | None:
    """Return the number of the version whose tag is called ``name``; None for any other name."""
    match = _VERSION_TAG.fullmatch(name)
    return int(match[1]) if match else None


def pack_path(digest: str) -> str:
    """Return where a pack lies in a repository."""
    return _path("packs", digest, "safetensors")


def shard_path(digest: str) -> str:
    """Return where a shard of the manifest lies in a repository."""
    return _path("shards", digest, "parquet")


def records_path(digest: str) -> str:
    """Return where a file of records lies in a repository."""
    return _path("records", digest, "parquet")


def _path(folder: str, digest: str, suffix: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"{digest!r} is no digest")
    return f"{folder}/{digest[:2]}/{digest}.{suffix}"


def _is_part(text: str) -> bool:
    return _PART.fullmatch(text) is not None and "--" not in text and ".." not in text
