"""Read sources to documents: find the files, read each by its format, cut its texts into passages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from registry.digests import normalise_text
from registry.documents.formats import format_of_content, is_json_document
from registry.documents.invalid import InvalidInput, Rejections
from registry.documents.jsonlines import read_jsonl
from registry.documents.opening import open_plain
from registry.documents.options import ReadOptions
from registry.documents.passages import cut_passages
from registry.documents.plain import read_text
from registry.documents.sections import Section
from registry.documents.source_file import SourceFile
from registry.documents.sources import expand_sources
from registry.documents.spool import all_or_none
from registry.documents.tables import read_table
from registry.errors import InputError
from registry.records import Document, Place, PlacedDocument, Skipped

_JSON_HINT = "turn a list into lines, such as with: jq -c '.[]' FILE.json > FILE.jsonl"


def read_documents(
    sources: Sequence[str],
    options: ReadOptions,
    *,
    skip_invalid: bool = False,
    on_skip: Callable[[Skipped], None] | None = None,
    on_read: Callable[[PlacedDocument], None] | None = None,
) -> Iterator[PlacedDocument]:
    """Yield the documents of all sources in their order, each with its place; memory does not grow with their number.

    Nothing is yielded before all has been read: the documents wait in a temporary file, so that whoever stores them
    stores nothing of a corpus with a broken line in it; ``on_read`` is told of each as it is read.

    A text, Markdown or HTML file is one source whose passages are numbered through. A record (a line of JSON Lines, a
    row of a table) is a source of its own, ``FILE#L12`` for the one that starts on line 12, with its passages numbered
    from 0. The same text at two places is yielded twice. With ``skip_invalid`` an invalid file or record is passed to
    ``on_skip`` and left out; a file that breaks off keeps the records before the break, but a text is read whole or
    not at all.

    Raises:
        InputError: a source or record is invalid (the message names file and line), or nothing could be read.
        StorageError: the temporary file cannot be written.
    """
    documents = _read(sources, options, skip_invalid, on_skip)
    yield from all_or_none(_told(documents, on_read) if on_read else documents)


def _told(documents: Iterator[PlacedDocument], on_read: Callable[[PlacedDocument], None]) -> Iterator[PlacedDocument]:
    for document in documents:
        on_read(document)
        yield document


def _read(
    sources: Sequence[str], options: ReadOptions, skip_invalid: bool, on_skip: Callable[[Skipped], None] | None
) -> Iterator[PlacedDocument]:
    rejections = Rejections(skip=skip_invalid, on_skip=on_skip)
    is_empty = True
    for file in expand_sources(sources, rejections):
        try:
            for document in _read_file(file, options, rejections):
                is_empty = False
                yield document
        except InvalidInput as error:
            rejections.reject(error)
    if not sources:
        raise InputError("no source was named", hint="name a file, a folder, a pattern, a URL, or - for standard input")
    if is_empty:
        raise InputError(
            f"no document could be read from {', '.join(sources)}: {rejections.count} invalid inputs were skipped",
            hint="see what is wrong with the first of them by leaving out --skip-invalid",
        )


def _read_file(file: SourceFile, options: ReadOptions, rejections: Rejections) -> Iterator[PlacedDocument]:
    rejected_before = rejections.count
    uri, ordinal = file.uri, 0
    found = False
    for section in _sections(file, options, rejections):
        if section.line is not None:
            uri, ordinal = f"{file.uri}#L{section.line}", 0
        for passage in cut_passages(normalise_text(section.text), options.words, options.language):
            yield PlacedDocument(Document.of(section.title, passage), Place(uri, ordinal, section.record_id))
            ordinal += 1
            found = True
    if not found and rejections.count == rejected_before:
        raise InvalidInput(file.uri, None, "holds no text")


def _sections(file: SourceFile, options: ReadOptions, rejections: Rejections) -> Iterator[Section]:
    with open_plain(file) as (head, stream):
        if file.format is None:
            file = replace(file, format=format_of_content(head))
        match file.format:
            case "jsonl":
                yield from read_jsonl(stream, file, options, rejections)
            case "csv" | "tsv":
                yield from read_table(stream, file, options, rejections)
            case "markdown":
                # The parsers of Markdown and HTML take up to half a second to import.
                from registry.documents.markdown import read_markdown

                yield from read_markdown(stream, file, options)
            case "html":
                from registry.documents.html import read_html

                yield from read_html(stream, file, options)
            case _ if is_json_document(file.uri, head):
                raise InvalidInput(file.uri, None, "is JSON, not JSON Lines (one object a line)", hint=_JSON_HINT)
            case _:
                yield from read_text(stream, file, options)
