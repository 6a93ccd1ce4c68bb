"""Texts that a repository withholds, from sources that the user has: matched by the digests of documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from registry.catalog.builds import corpus_language
from registry.catalog.chunks import chunked
from registry.catalog.remotes.receiving import add_places, fill_documents
from registry.documents import ReadOptions, read_documents
from registry.pipeline.opened import Registry
from registry.progress import Progress

DOCUMENTS_AT_ONCE = 2_000


def fill_texts(
    registry: Registry, corpus: str, sources: Sequence[str], options: ReadOptions, progress: Progress
) -> int:
    """Read sources as a build of the corpus does, and fill in the texts that are withheld; return how many.

    Raises:
        InputError: a source is wrong.
    """
    with registry.catalog.read() as session:
        language = corpus_language(session, corpus)
    if language is not None:
        options = replace(options, language=language)
    progress.start("reading texts", None)
    filled = 0
    for chunk in chunked(read_documents(sources, options), DOCUMENTS_AT_ONCE):
        with registry.catalog.write() as session:
            filled += fill_documents(session, [placed.document for placed in chunk])
            add_places(session, corpus, chunk)  # which are withheld with the texts
        progress.advance(len(chunk))
    progress.done()
    return filled
