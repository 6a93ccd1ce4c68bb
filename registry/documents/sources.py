"""Find the files that the sources named on the command line stand for.

A file's URI is what the documents in it are catalogued under: the path as it was named, joined with the path inside
the named folder, with ``/`` and without ``.`` parts; a URL as it was named, without a password; ``-`` for standard
input. So it is the same on every machine on which the same command is typed in the same place.
"""

from __future__ import annotations

import glob
import os
import posixpath
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import chain
from pathlib import PurePath
from typing import IO

from registry.documents.failures import failure_reason
from registry.documents.formats import SUFFIXES, format_of_name
from registry.documents.invalid import InvalidInput, Rejections
from registry.documents.source_file import SourceFile

STANDARD_INPUT = "-"
_KINDS_HINT = f"known suffixes: {', '.join(SUFFIXES)}, each with or without .gz; name other files one by one"


def expand_sources(sources: Sequence[str], rejections: Rejections | None = None) -> Iterator[SourceFile]:
    """Yield the files of all sources, in the order named, each once.

    A source is a file (of any suffix), a folder (all files of known suffix in it and below, without hidden ones),
    a glob pattern (``**`` for any folders; files of unknown suffix only where the pattern ends in that suffix), ``-``
    for standard input, or a URL that fsspec can open, which may again be a folder or a glob. Files of a folder or
    glob come in the order of their paths, by code point, parts compared from the left. All sources are looked at
    before the first file is yielded; where ``rejections`` skips, a source that has nothing is passed over.

    Raises:
        InvalidInput: a source does not exist, cannot be listed, or holds no file that could be read.
    """
    rejections = rejections or Rejections(skip=False)
    found: list[Iterator[SourceFile]] = []
    for source in sources:
        rejected_before = rejections.count
        try:
            files = _expand(source, rejections)
            # The first file of each shows that there is one; the others are listed when their turn comes.
            found.append(chain([next(files)], files))
        except StopIteration:
            if rejections.count == rejected_before:
                rejections.reject(InvalidInput(source, None, "matches no file of a known kind", hint=_KINDS_HINT))
        except InvalidInput as error:
            rejections.reject(error)
    seen: set[str] = set()
    for file in chain.from_iterable(found):
        if file.uri not in seen:
            seen.add(file.uri)
            yield file


def _expand(source: str, rejections: Rejections) -> Iterator[SourceFile]:
    if source == STANDARD_INPUT:
        return iter([SourceFile(source, None, _open_standard_input)])
    if "://" in source or "::" in source:
        # fsspec takes a fifth of a second to import.
        from registry.documents.remote import expand_url

        return expand_url(source)
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        return _walk(path, rejections)
    if glob.has_magic(path) and not os.path.lexists(path):
        return _match(path, rejections)
    return iter([_local_file(path, must_be_readable=True)])


def _open_standard_input() -> AbstractContextManager[IO[bytes]]:
    return nullcontext(sys.stdin.buffer)


def _open_local(path: str) -> AbstractContextManager[IO[bytes]]:
    return open(path, "rb")


def _local_file(path: str, *, must_be_readable: bool = False) -> SourceFile:
    uri = posixpath.normpath(PurePath(path).as_posix())
    try:
        uri.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(uri).decode(errors="backslashreplace")
        raise InvalidInput(shown, None, "has a name that is not UTF-8", hint="rename it") from error
    if must_be_readable:
        try:
            os.stat(path)
            if not os.access(path, os.R_OK):
                raise PermissionError
        except (OSError, ValueError) as error:
            raise InvalidInput(uri, None, failure_reason(error)) from error
    return SourceFile(uri, format_of_name(uri), partial(_open_local, path))


def _match(pattern: str, rejections: Rejections) -> Iterator[SourceFile]:
    suffix = PurePath(pattern).suffix
    named_suffix = "" if glob.has_magic(suffix) else suffix
    for path in sorted(glob.iglob(pattern, recursive=True), key=lambda match: PurePath(match).parts):
        if os.path.isdir(path):
            # `**` matches every folder on the way down, and their files as well.
            if "**" not in pattern:
                yield from _walk(path, rejections)
        elif format_of_name(path) or (named_suffix and path.endswith(named_suffix)):
            yield from _accepted(path, rejections)


def _walk(folder: str, rejections: Rejections) -> Iterator[SourceFile]:
    """Yield the files below ``folder``; links to folders are followed unless they lead back up."""
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while pending:
        path, above = pending.pop()
        try:
            status = os.stat(path)
            identity = (status.st_dev, status.st_ino)
            is_folder = stat.S_ISDIR(status.st_mode)
            names = os.listdir(path) if is_folder and identity not in above else []
        except OSError as error:
            if format_of_name(path) or not os.path.islink(path):
                rejections.reject(InvalidInput(PurePath(path).as_posix(), None, failure_reason(error)))
            continue
        if stat.S_ISREG(status.st_mode) and format_of_name(path):
            yield from _accepted(path, rejections)
        visible = sorted((name for name in names if not name.startswith(".")), reverse=True)
        pending.extend((os.path.join(path, name), above | {identity}) for name in visible)


def _accepted(path: str, rejections: Rejections) -> Iterator[SourceFile]:
    try:
        file = _local_file(path)
    except InvalidInput as error:
        rejections.reject(error)
        return
    yield file
