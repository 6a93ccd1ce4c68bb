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
_NAME_HINT = "check how it is written and that you may read it, or leave it out with --skip-invalid"


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
    if not source.strip():
        raise InvalidInput(repr(source), None, "is not the name of a source", hint=_NAME_HINT)
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
    if sys.stdin is None:
        raise InvalidInput(
            STANDARD_INPUT, None, "standard input is closed", hint="pipe text into the command, or name a file"
        )
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
            raise InvalidInput(uri, None, failure_reason(error), hint=_NAME_HINT) from error
    return SourceFile(uri, format_of_name(uri), partial(_open_local, path))


def _match(pattern: str, rejections: Rejections) -> Iterator[SourceFile]:
    suffix = PurePath(pattern).suffix
    named_suffix = "" if glob.has_magic(suffix) else suffix
    for path in sorted(_matches(pattern, rejections), key=lambda match: PurePath(match).parts):
        if os.path.isdir(path):
            # `**` matches every folder on the way down, and their files as well.
            if "**" not in pattern:
                yield from _walk(path, rejections)
        elif os.path.exists(path) and not os.path.isfile(path):
            continue  # a named pipe without a writer would be waited for
        elif format_of_name(path) or (named_suffix and path.endswith(named_suffix)):
            yield from _accepted(path, rejections)


def _matches(pattern: str, rejections: Rejections) -> set[str]:
    """Return the paths that match; glob's own ``**`` follows links in circles, which takes exponential time."""
    parts = pattern.split("/")
    parts = [part for at, part in enumerate(parts) if part != "**" or parts[at - 1 : at] != ["**"]]
    if "**" not in parts:
        return set(glob.glob(pattern))
    at = parts.index("**")
    head, rest = "/".join(parts[:at]), "/".join(parts[at + 1 :]) or "*"
    starts = glob.glob(head + "/") if at else [""]
    folders = {
        path
        for start in starts
        for path, status in _below(start, rejections)
        if status and stat.S_ISDIR(status.st_mode)
    }
    return {match for folder in folders for match in _matches(os.path.join(glob.escape(folder), rest), rejections)}


def _walk(folder: str, rejections: Rejections) -> Iterator[SourceFile]:
    """Yield the files of known suffix below ``folder``."""
    for path, status in _below(folder, rejections):
        if status is None:
            if format_of_name(path) or not os.path.islink(path):
                yield from _accepted(path, rejections, must_be_readable=True)
        elif stat.S_ISREG(status.st_mode) and format_of_name(path):
            yield from _accepted(path, rejections)


def _below(folder: str, rejections: Rejections) -> Iterator[tuple[str, os.stat_result | None]]:
    """Yield ``folder`` ("" is the working folder) and all that is below it and not hidden, with what stat says.

    Links to folders are followed unless they lead back up. A dangling link has no status.
    """
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while pending:
        path, above = pending.pop()
        try:
            status = os.stat(path or os.curdir)
        except OSError:
            yield path, None
            continue
        identity = (status.st_dev, status.st_ino)
        if not stat.S_ISDIR(status.st_mode):
            yield path, status
        elif identity not in above:
            try:
                names = os.listdir(path or os.curdir)
            except OSError as error:
                rejections.reject(InvalidInput(PurePath(path).as_posix(), None, failure_reason(error)))
                continue
            yield path, status
            visible = sorted((name for name in names if not name.startswith(".")), reverse=True)
            pending.extend((os.path.join(path, name), above | {identity}) for name in visible)


def _accepted(path: str, rejections: Rejections, *, must_be_readable: bool = False) -> Iterator[SourceFile]:
    try:
        file = _local_file(path, must_be_readable=must_be_readable)
    except InvalidInput as error:
        rejections.reject(error)
        return
    yield file
