"""The index of one version of a corpus: BM25 over titles and texts, immutable once it is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import tantivy
from tantivy import Occur, Query

from registry.errors import IntegrityError, StorageError
from registry.index.analysis import Analyser, analyser_of
from registry.index.folders import REBUILD, built_beside, describe, link_segments, read_description, writable_view
from registry.records import Document, Match

TITLE_BOOST = 1.1
"""More helps where titles name what is asked (HotpotQA), and harms where passages of many sources are mixed.

On 596 questions over a mixture of SQuAD, HotpotQA and PopQA passages, 0.75 to 1.3 were alike (a gold passage first for
.906 to .914 of them); 1.5 was worse (.894).
"""

TIE_BREAKER = 0.5
"""A document's score is that of its better field and this share of the other's."""

MAX_TERMS = 64
"""Of a longer question the rarest distinct terms are searched."""

MAX_TIED = 4096
"""Ties for the last place are broken by digest among this many documents at most."""

SCORE_DECIMALS = 4
"""Scores are rounded to these: what is finer depends on the order in which segments are added up."""

LEAST_DERIVED = 1000
"""An index of fewer documents is built anew: that takes no longer, and its statistics are exact."""

MOST_DELETED = 0.1
"""Where deleted documents would be more than this share of an index, it is built anew."""

_WRITER_BYTES = 128_000_000
_FIELDS = {"title": TITLE_BOOST, "text": 1.0}


class VersionIndex:
    """An open index. Searching is safe from many threads; the files are never changed.

    It goes on answering when its folder is deleted or replaced meanwhile.
    """

    def __init__(self, folder: Path, index: Any, analyser: Analyser, documents: int) -> None:
        """Use ``open``."""
        self._folder = folder
        self._schema = index.schema
        self._searcher = index.searcher()
        self._analyser = analyser
        self.documents = documents

    @property
    def language(self) -> str:
        """The language code that texts and questions are analysed by."""
        return self._analyser.language

    @staticmethod
    def build(folder: Path, language: str, documents: Iterable[Document]) -> None:
        """Make the index of ``documents`` (distinct, in any order, read once) in ``folder``, replacing what is there.

        Processes that build beside each other wait for one another. A killed one leaves ``<folder>.partial``, which the
        next removes.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        analyser = analyser_of(language)
        with built_beside(folder) as partial:
            with _reported(folder):
                index = tantivy.Index(_schema(), path=str(partial), reuse=False)
            count = _apply(folder, index, analyser, added=documents, removed=())
            describe(partial, language=analyser.language, documents=count, deleted=0)

    @staticmethod
    def derive(parent: Path, folder: Path, added: Iterable[Document], removed: Iterable[str]) -> None:
        """Make the index of the version that differs from ``parent``'s by ``added`` documents and ``removed`` digests.

        It costs what changed: the parent's segments are linked, not copied, and the parent stays as it is. Removed
        documents are never found, but count in the term statistics until their segment is merged, so scores may differ
        slightly from those of an index that was built; ``can_derive`` bounds by how much.

        Raises:
            IntegrityError: the parent is missing, damaged or of another analyser, or does not hold what is removed.
            StorageError: the disk is full or the folder cannot be written.
        """
        gone = list(removed)
        with built_beside(folder) as partial:
            before = read_description(parent)  # not before this had waited: the parent may be collected meanwhile
            analyser = analyser_of(before.language)
            link_segments(parent, partial)
            with _readable(parent):
                with _reported(folder):
                    index = tantivy.Index.open(str(partial))
                count = before.documents - len(gone) + _apply(folder, index, analyser, added=added, removed=gone)
                index.reload()
            if index.searcher().num_docs != count:
                raise IntegrityError(f"the index {parent} does not hold what its version does", hint=REBUILD)
            describe(partial, language=analyser.language, documents=count, deleted=before.deleted + len(gone))

    @staticmethod
    def can_derive(parent: Path, language: str, removed: int, *, documents: int | None = None) -> bool:
        """Return whether deriving from ``parent`` with that many removals is better than building.

        It is not where the parent is missing, damaged or of another language or analyser, does not hold so many
        ``documents`` (None: however many), has so few that building is as quick, or where a tenth of its documents
        would be deleted ones.
        """
        try:
            before = read_description(parent)
        except IntegrityError:
            return False
        held = before.documents + before.deleted
        same = before.language == analyser_of(language).language and documents in (None, before.documents)
        return same and before.documents >= LEAST_DERIVED and before.deleted + removed <= held * MOST_DELETED

    @classmethod
    def open(cls, folder: Path) -> VersionIndex:
        """Open an index to search it, also where this process may only read.

        Raises:
            IntegrityError: it is missing, damaged, or was made by another version of pragreg.
            StorageError: it cannot be read.
        """
        description = read_description(folder)
        try:
            with _readable(folder), writable_view(folder) as view:
                index = tantivy.Index.open(str(view))
                index.config_reader("manual")  # the version never changes, so nothing watches the folder
                opened = cls(folder, index, analyser_of(description.language), description.documents)
        except OSError as error:
            raise StorageError(f"the index {folder} cannot be opened: {error.strerror or error}") from error
        if opened._searcher.num_docs != description.documents:
            raise IntegrityError(f"the index {folder} is damaged: documents are missing", hint=REBUILD)
        return opened

    def search(self, question: str, k: int) -> list[Match]:
        """Return the ``k`` best matches, by score and then by digest; fewer where fewer share a term.

        The question is any text, never syntax. One without a term (empty, signs only, English stop words only) has no
        matches.

        Raises:
            IntegrityError: the index turns out to be damaged.
        """
        with _readable(self._folder):
            return self._search(question, k)

    def _search(self, question: str, k: int) -> list[Match]:
        k = min(k, self.documents)
        query = self._query(self._analyser.question_terms(question))
        if k < 1 or query is None:
            return []
        limit = k + 1
        while True:
            hits = self._searcher.search(query, limit, count=False).hits
            scores = [round(score, SCORE_DECIMALS) for score, _ in hits]
            if len(hits) < limit or scores[-1] < scores[k - 1] or limit >= k + MAX_TIED:
                break
            limit = min(4 * limit, k + MAX_TIED)
        matches = [
            Match(document_digest=self._searcher.doc(address)["digest"][0].hex(), score=score)
            for score, (_, address) in zip(scores, hits, strict=True)
            if score >= scores[min(k, len(scores)) - 1]
        ]
        return sorted(matches, key=lambda match: (-match.score, match.document_digest))[:k]

    def search_many(self, questions: Sequence[str], k: int) -> list[list[Match]]:
        """Return the matches of every question, in order."""
        return [self.search(question, k) for question in questions]

    def digests(self) -> Iterator[str]:
        """Yield the digest of every document that can be found, in no order.

        Raises:
            IntegrityError: the index turns out to be damaged.
        """
        with _readable(self._folder):
            hits = self._searcher.search(Query.all_query(), max(1, self.documents), count=False).hits
            for _, address in hits:
                yield self._searcher.doc(address)["digest"][0].hex()

    def _query(self, terms: list[str]) -> Query | None:
        if len(terms) > MAX_TERMS:
            terms = self._rarest(terms)
        if not terms:
            return None
        fields = []
        for field, boost in _FIELDS.items():
            each = [(Occur.Should, Query.term_query(self._schema, field, term, index_option="freq")) for term in terms]
            fields.append(Query.boost_query(Query.boolean_query(each), boost))
        return Query.disjunction_max_query(fields, TIE_BREAKER)

    def _rarest(self, terms: list[str]) -> list[str]:
        counts = {term: sum(self._searcher.doc_freq(field, term) for field in _FIELDS) for term in terms}
        found = sorted((term for term in terms if counts[term]), key=counts.__getitem__)
        return found[:MAX_TERMS]


def _schema() -> Any:
    builder = tantivy.SchemaBuilder()
    builder.add_bytes_field("digest", stored=True, indexed=True)
    for field in _FIELDS:
        builder.add_text_field(field, tokenizer_name="passage", index_option="freq")
    return builder.build()


def _apply(folder: Path, index: Any, analyser: Analyser, *, added: Iterable[Document], removed: Iterable[str]) -> int:
    with _reported(folder):
        index.register_tokenizer("passage", analyser.tantivy)
        # One thread, so that the same documents in the same order make the same segments.
        writer = index.writer(_WRITER_BYTES, 1)
        for digest in removed:
            term = Query.term_query(index.schema, "digest", bytes.fromhex(digest), index_option="basic")
            writer.delete_documents_by_query(term)
    count = 0
    try:
        for document in added:
            _add(folder, writer, analyser, document)
            count += 1
        with _reported(folder):
            writer.commit()
    finally:
        # Its threads must be gone before the folder is moved or removed. A merge that failed lost nothing.
        with suppress(ValueError):
            writer.wait_merging_threads()
    return count


def _add(folder: Path, writer: Any, analyser: Analyser, document: Document) -> None:
    title, text = analyser.prepare(document.title), analyser.prepare(document.text)
    entry = tantivy.Document(digest=bytes.fromhex(document.digest), title=title, text=text)
    try:
        writer.add_document(entry)
    except ValueError:
        with _reported(folder):
            writer.commit()  # the writer has died, and tells here why
        raise


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Say of an index whose files hold what tantivy did not write that it is damaged."""
    try:
        yield
    except ValueError as error:
        raise IntegrityError(f"the index {folder} is damaged: {error}", hint=REBUILD) from error
    except BaseException as error:
        # What tantivy does not expect in a file makes it panic, which is no Exception, so that nobody goes on.
        if type(error).__name__ != "PanicException":
            raise
        raise IntegrityError(f"the index {folder} is damaged: {error}", hint=REBUILD) from error


@contextmanager
def _reported(folder: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:  # what tantivy raises for every trouble, the operating system's too
        raise StorageError(f"the index cannot be written to {folder}: {error}") from error
