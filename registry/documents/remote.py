"""Find the files that a URL stands for, on any file system that fsspec knows."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import PurePosixPath
from typing import IO, cast
from urllib.parse import urlsplit

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from registry.documents.failures import failure_reason, without_password
from registry.documents.formats import format_of_name
from registry.documents.invalid import InvalidInput
from registry.documents.source_file import SourceFile
from registry.errors import PragregError

_WEB = ("http://", "https://")
_HINT = "check the URL, and that the package for it is installed: s3fs for s3://, gcsfs for gs://, adlfs for az://"


def expand_url(url: str) -> Iterator[SourceFile]:
    """Return the files of a URL: a file, all below a folder, or those that match a pattern, in order of their paths.

    A web address (http, https) is always one file. In a chained URL (``zip://*.txt::archive.zip``) the first part
    may be a folder or pattern.

    Raises:
        InvalidInput: the file system is unknown or its package not installed, or the URL cannot be listed.
    """
    first, chained, rest = url.partition("::")
    base, pattern = _split_pattern(first)
    try:
        if url.startswith(_WEB):
            form = format_of_name(urlsplit(url).path)
            return iter([SourceFile(without_password(url), form, partial(_open_web, url))])
        system, path = url_to_fs(base + chained + rest)
        if not pattern and not system.isdir(path):
            system.info(path)
            return iter([SourceFile(without_password(url), format_of_name(path), partial(system.open, path, "rb"))])
        files = _list_files(system, path, pattern)
    except PragregError:
        raise
    except Exception as error:  # file systems raise their client libraries' own errors, whatever those are
        raise InvalidInput(without_password(url), None, failure_reason(error), hint=_HINT) from error
    prefix = base if base.endswith("/") else base + "/"
    relatives = {file: file.removeprefix(path).lstrip("/") for file in files}
    return (
        SourceFile(
            uri=without_password(prefix + relative + chained + rest),
            format=format_of_name(file),
            opener=partial(system.open, file, "rb"),
        )
        for file, relative in relatives.items()
        if _is_wanted(relative, pattern)
    )


def _open_web(url: str) -> AbstractContextManager[IO[bytes]]:
    # fsspec.open would take * and ? in an address for a pattern.
    system, path = url_to_fs(url)
    return cast(AbstractContextManager[IO[bytes]], system.open(path, "rb"))


def _split_pattern(first: str) -> tuple[str, str]:
    """Split a URL before the first part with a wildcard; without one the pattern is empty."""
    if not glob.has_magic(first):
        return first, ""
    wildcard = min(first.index(character) for character in "*?[" if character in first)
    slash = first.rindex("/", 0, wildcard) + 1
    return first[:slash], first[slash:]


def _list_files(system: AbstractFileSystem, path: str, pattern: str) -> list[str]:
    if not pattern:
        files = set(system.find(path))
    else:
        matches = system.glob(f"{path}/{pattern}" if path else system.root_marker + pattern, detail=True)
        files = {name for name, info in matches.items() if info["type"] == "file"}
        if "**" not in pattern:
            folders = [name for name, info in matches.items() if info["type"] == "directory"]
            files.update(name for folder in folders for name in system.find(folder))
    return sorted(files, key=lambda name: PurePosixPath(name).parts)


def _is_wanted(relative: str, pattern: str) -> bool:
    """Return whether a listed file is read: not hidden unless the pattern says so, and of a known or named suffix."""
    parts = PurePosixPath(relative).parts
    if any(part.startswith(".") for part in parts) and not any(p.startswith(".") for p in pattern.split("/")):
        return False
    suffix = PurePosixPath(pattern).suffix
    named = bool(suffix) and not glob.has_magic(suffix) and relative.endswith(suffix)
    return named or format_of_name(relative) is not None
