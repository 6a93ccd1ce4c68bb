"""Which format a source has: by its name, or by its first bytes where the name does not say."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import unquote, urlsplit

Format = Literal["text", "markdown", "html", "jsonl", "csv", "tsv"]

SUFFIXES: dict[str, Format] = {
    ".txt": "text",
    ".text": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
}
_SEPARATORS: dict[str, Format] = {"\t": "tsv", ",": "csv"}
GZIP_SUFFIX = ".gz"

TITLE_FIELDS = ("title", "name")
TEXT_FIELDS = ("text", "contents", "content", "passage", "body", "paragraph")
ID_FIELDS = ("id", "_id")


def is_gzip_name(name: str) -> bool:
    """Return whether ``name`` says that the file is compressed."""
    return name.lower().endswith(GZIP_SUFFIX)


def format_of_name(name: str) -> Format | None:
    """Return the format that the last suffix of ``name`` (before ``.gz``) stands for, None if it is unknown."""
    plain = name[: -len(GZIP_SUFFIX)] if is_gzip_name(name) else name
    return SUFFIXES.get(PurePosixPath(plain).suffix.lower())


def format_of_content(head: bytes) -> Format:
    """Return the format that the first bytes of a source look like: ``text`` unless they say something else.

    An HTML document begins with its doctype or ``<html``; JSON Lines with a line that is an object; a table with a
    header that has one of the usual names for the text.
    """
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "html"
    line, newline, _ = start.partition(b"\n")
    if line.startswith(b"{") and (_is_object(line) if newline else line.startswith(b'{"')):
        return "jsonl"
    header = line.decode(errors="replace").strip().lower()
    for separator, form in _SEPARATORS.items():
        columns = [column.strip(' "') for column in header.split(separator)]
        if len(columns) > 1 and any(name in columns for name in TEXT_FIELDS):
            return form
    return "text"


def is_json_document(name: str, head: bytes) -> bool:
    """Return whether a file of suffix ``.json`` holds one JSON value: it is no text, and not JSON Lines."""
    plain = name.lower().removesuffix(GZIP_SUFFIX)
    return plain.endswith(".json") and head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"[", b"{"))


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def readable_name(name: str) -> str:
    """Return a file's name as a title: no folder, no suffix, no archive, ``_`` and ``-`` as spaces."""
    if name.startswith(("http://", "https://")):
        name = unquote(urlsplit(name).path.rstrip("/")) or name
    # In a chained URL the first part with a path is the file: zip://a.txt::b.zip, simplecache::s3://bucket/a.txt.
    inner = next((part for part in name.split("::") if "://" in part), name)
    base = PurePosixPath(inner.rstrip("/")).name
    if is_gzip_name(base):
        base = base[: -len(GZIP_SUFFIX)]
    path = PurePosixPath(base)
    stem = path.stem if path.suffix.lower() in SUFFIXES else base
    return " ".join(stem.replace("_", " ").replace("-", " ").split())
