"""What sources are called in a repository, and what a repository's sources are called here.

A local file is published by its path below the common folder of the corpus' files, never by the whole path. Once
published it keeps that name in that repository. What is received and was not published from here is called
``hub:NAMESPACE/NAME/`` and its name there, so that it is taken neither for a local file nor for another repository's.

Files are named, not sources: where every line of a file is a source, its URI ends in ``#L`` and the line's number.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalog.chunks import chunked
from registry.catalog.dialect import insert_new
from registry.catalog.models import PlaceRow, RemoteNameRow, SourceRow
from registry.catalog.references import corpus_id
from registry.digests import sha256_hex, short
from registry.masking import MASK

HUB = "hub:"
"""How the URIs of received sources begin."""

_LINE = re.compile(r"#L[0-9]+$")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_UP = ("", ".", "..")


def split_line(uri: str) -> tuple[str, str]:
    """Cut the number of a line, ``#L7``, off the URI of its file."""
    match = _LINE.search(uri)
    return (uri, "") if match is None else (uri[: match.start()], match[0])


def published_names(session: Session, corpus: str, repository: str, remote_id: int | None) -> dict[str, str]:
    """Return what every file that a corpus' sources ever were is called in a repository, by its URI here.

    ``remote_id`` is the remote's number, None where nothing was pushed to or pulled from that repository.

    Raises:
        NotFoundError: there is no such corpus.
    """
    stood = select(PlaceRow.source_id).where(PlaceRow.corpus_id == corpus_id(session, corpus))
    uris = session.scalars(select(SourceRow.uri).where(SourceRow.id.in_(stood)))
    files = sorted({split_line(uri)[0] for uri in uris})
    names = _given(session, remote_id)
    new = [file for file in files if file not in names]
    names |= {file: _received_name(file, repository) for file in new if file.startswith(HUB)}
    names |= {file: _masked(file) for file in new if _URL.match(file) and not file.startswith("file://")}
    local = [file for file in new if file not in names]
    names |= {file: file for file in local if not _is_private(file)}
    private = [file for file in local if _is_private(file)]
    taken = {name for file, name in names.items() if not file.startswith(HUB)}
    for file, name in _below_common_folder(private).items():
        names[file] = name if name not in taken else _free_name(file, taken)
        taken.add(names[file])
    return {file: names[file] for file in files}


def save_names(session: Session, remote_id: int, names: Mapping[str, str]) -> None:
    """Remember the names that a push gave, so that they stay; call it with ``save_remote`` after the push."""
    rows = (
        {"remote_id": remote_id, "uri": uri, "name": name} for uri, name in names.items() if not uri.startswith(HUB)
    )
    insert_new(session, RemoteNameRow, rows)


def local_uris(session: Session, repository: str, remote_id: int | None, names: Iterable[str]) -> dict[str, str]:
    """Return what sources of a repository, by their whole names there, are called here."""
    wanted = {name: split_line(name) for name in names}
    own: dict[str, str] = {}
    if remote_id is not None:
        given = select(RemoteNameRow.name, RemoteNameRow.uri).where(RemoteNameRow.remote_id == remote_id)
        for chunk in chunked({file for file, _ in wanted.values()}):
            rows = session.execute(given.where(RemoteNameRow.name.in_(chunk)).order_by(RemoteNameRow.uri))
            own |= {name: uri for name, uri in rows}
    return {name: f"{own.get(file, f'{HUB}{repository}/{file}')}{line}" for name, (file, line) in wanted.items()}


def source_name(uri: str, names: Mapping[str, str]) -> str:
    """Return what a source is called by the names of files; without any names, as it is called here.

    What has no name is called by the last part of its path alone.
    """
    if not names:
        return uri
    file, line = split_line(uri)
    return names.get(file, posixpath.basename(file)) + line


def _given(session: Session, remote_id: int | None) -> dict[str, str]:
    if remote_id is None:
        return {}
    rows = session.execute(select(RemoteNameRow.uri, RemoteNameRow.name).where(RemoteNameRow.remote_id == remote_id))
    return {uri: name for uri, name in rows}


def _received_name(file: str, repository: str) -> str:
    """Return what a received source was called in its repository, this one or another."""
    whole = file.removeprefix(HUB)
    own = whole.removeprefix(f"{repository}/")
    return own if own != whole else whole.split("/", 2)[-1]


def _masked(url: str) -> str:
    """Return a URL without user, password and query; another query is told apart by its digest."""
    first, chained, rest = url.partition("::")
    parts = urlsplit(first)
    host = parts.netloc.rpartition("@")
    netloc = f"{MASK}@{host[2]}" if host[1] else host[2]
    query = f"masked-{short(sha256_hex(parts.query.encode()))}" if parts.query else ""
    masked = parts._replace(netloc=netloc, query=query).geturl()
    return masked + chained + (_masked(rest) if _URL.match(rest) else posixpath.basename(rest))


def _is_private(file: str) -> bool:
    """Return whether a path tells where on this machine it lies."""
    return file.startswith(("/", "~", "file:", "\\")) or ".." in file.split("/") or file[1:2] == ":"


def _below_common_folder(files: Sequence[str]) -> dict[str, str]:
    parts = {file: _parts(file) for file in files}
    folders = [one[:-1] for one in parts.values()]
    shared = 0
    while folders and all(len(folder) > shared and folder[shared] == folders[0][shared] for folder in folders):
        shared += 1
    return {file: "/".join(one[shared:]) for file, one in parts.items()}


def _parts(file: str) -> list[str]:
    path = file.removeprefix("file:").replace("\\", "/")
    return [part for part in path.split("/") if part not in _UP] or ["source"]


def _free_name(file: str, taken: set[str]) -> str:
    """Return as much of the end of a path as no other file is called by."""
    parts = _parts(file)
    longer = ("/".join(parts[-count:]) for count in range(2, len(parts)))
    return next((name for name in longer if name not in taken), f"{short(sha256_hex(file.encode()))}/{parts[-1]}")
