"""The registry from Python: what ``registry.open`` returns. Imports no torch before the first question is asked."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from os import PathLike, fspath
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from registry.catalog.documents import resolve_document
from registry.catalog.references import list_versions
from registry.digests import short
from registry.errors import NotFoundError, UsageError
from registry.generation.text import Stripped
from registry.merging.methods import DEFAULT_MERGE
from registry.pipeline.adapter_memory import AdapterMemory
from registry.pipeline.base_models import BaseModels
from registry.pipeline.document_adapter import DocumentAdapter
from registry.pipeline.open_versions import OpenVersion, Turns, close_all, several
from registry.pipeline.opened import Registry, opened
from registry.pipeline.search import check_question, found_hits
from registry.progress import Silent
from registry.records import Answer, Document, Hit, Match, Mode, Version
from registry.settings import DEFAULT_CORPUS, Home, locate_home, open_home

if TYPE_CHECKING:
    from registry.pipeline.merged_asking import MergedCorpus
    from registry.pipeline.query import Asker

KEPT_VERSIONS = 4
"""So many versions stay open that nobody holds."""
OnPiece = Callable[[str], None]
"""Called with the text that an answer grew by, in whole characters."""


class OpenRegistry:
    """A registry home that is open; get one from ``registry.open``.

    A base model is loaded when its first question is asked, and shared by all corpora that have it. Threads may share
    this object and its corpora; their questions are answered one after the other.
    """

    def __init__(self, home: str | PathLike[str] | Home | None, *, device: str, dtype: str) -> None:
        """See ``registry.open``."""
        self.home = home if isinstance(home, Home) else open_home(locate_home(None if home is None else fspath(home)))
        stack = ExitStack()
        self._registry = stack.enter_context(opened(self.home))
        self._memory: AdapterMemory = stack.enter_context(closing(AdapterMemory(self._registry)))
        self._models = BaseModels(self._registry, device=device, dtype=dtype, progress=Silent())
        self._kept: OrderedDict[str, OpenVersion] = OrderedDict()
        self._lock = Lock()
        self._turns = Turns()
        self._open: WeakValueDictionary[str, OpenVersion] = WeakValueDictionary()
        stack.callback(close_all, self._open)
        self._close = weakref.finalize(self, stack.close)

    def corpus(self, reference: str = DEFAULT_CORPUS) -> OpenCorpus:
        """Return the version that ``CORPUS``, ``CORPUS@ALIAS``, ``CORPUS@vN`` or ``CORPUS@DIGEST`` names.

        The name is looked up now: what is returned stays that version to its end, wherever aliases move, and gc does
        not collect its adapters meanwhile. To follow an alias, call this again; what is open is not opened twice.

        Raises:
            NotFoundError: there is no such version, or its adapters were collected.
        """
        registry = self._open_registry()
        version = registry.version(reference)
        with self._lock:
            known = self._open.get(version.reference)
            if known is None:
                known = self._open[version.reference] = OpenVersion(registry, version)
            # So that asking `registry.corpus(NAME).ask(...)` again and again opens it once.
            self._kept[version.reference] = known
            self._kept.move_to_end(version.reference)
            if len(self._kept) > KEPT_VERSIONS:
                self._kept.popitem(last=False)
        return OpenCorpus(self, known)

    def close(self) -> None:
        """Close the catalog and let the models go; adapters and answers that were returned stay good."""
        self._close()
        with self._lock:
            self._kept.clear()
            self._models.clear()

    def __enter__(self) -> OpenRegistry:
        """Return this registry."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Name the home."""
        return f"<registry {self.home.path}{'' if self._close.alive else ', closed'}>"

    def _open_registry(self) -> Registry:
        if not self._close.alive:
            raise UsageError(f"the registry {self.home.path} was closed", hint="open it again: registry.open(home)")
        return self._registry

    @contextmanager
    def _asker(self, version: OpenVersion) -> Iterator[Asker]:
        """Lend the asker of a version to one caller at a time."""
        from registry.pipeline.query import Asker  # brings torch

        with self._turns.one():
            registry = self._open_registry()
            recipe, _ = registry.recipe_of(version.version)
            yield version.asker(lambda: Asker(registry, version.version, self._models.get(recipe), self._memory))


class OpenCorpus:
    """One version of a corpus, to be asked; get one from ``OpenRegistry.corpus``."""

    def __init__(self, owner: OpenRegistry, opened_version: OpenVersion) -> None:
        """Take an open version; ``owner`` stays open for as long as this is there."""
        self._owner = owner
        self._open = opened_version

    @property
    def version(self) -> Version:
        """The version that answers."""
        return self._open.version

    def ask(
        self,
        question: str,
        *,
        mode: Mode = "prag",
        k: int = 3,
        merge: str = DEFAULT_MERGE,
        max_new_tokens: int = 32,
        stream: OnPiece | None = None,
        log: bool = True,
    ) -> Answer:
        """Answer a question out of the adapters of the documents that it finds, as ``pragreg query`` does.

        Args:
            question: any text.
            mode: prag (adapters), combined (adapters and text), rag (text) or closed-book (neither).
            k: how many documents are looked for.
            merge: how their adapters are merged (docs/merging.md).
            max_new_tokens: the most tokens of the answer.
            stream: told of the answer while it grows; the pieces, joined, are the answer.
            log: keep question and answer in the catalog, for ``pragreg queries`` and reports.

        Raises:
            UsageError: the question is empty or too long for the model, or an argument is wrong.
            NotFoundError: texts are needed that are withheld.
            BaseModelError: the base model is not to be had, or is another one now.
            IntegrityError: an adapter's bytes are damaged.
        """
        from registry.pipeline.query import Asking

        asking = Asking(mode, k, merge, max_new_tokens, log=log)
        check_question(question, k)
        with self._owner._asker(self._open) as asker:
            tell = None if stream is None else Stripped(stream)
            on_text = None if tell is None else (lambda _number, piece: tell(piece))
            (answer,) = asker.ask([question], asking, on_text=on_text)
            return answer

    def ask_many(
        self,
        questions: Iterable[str],
        *,
        mode: Mode = "prag",
        k: int = 3,
        merge: str = DEFAULT_MERGE,
        max_new_tokens: int = 32,
        batch_size: int = 8,
        log: bool = True,
    ) -> list[Answer]:
        """Answer questions, ``batch_size`` of them in one pass through the model, each with its own documents.

        The answers are in the order of the questions, and those that ``ask`` gives. Arguments and errors are those of
        ``ask``; no question is answered if one of them is wrong.
        """
        from registry.pipeline.query import Asking

        asked = several(questions)
        asking = Asking(mode, k, merge, max_new_tokens, batch_size, log)
        for question in asked:
            check_question(question, k)
        if not asked:
            return []
        with self._owner._asker(self._open) as asker:
            return list(asker.ask(asked, asking))

    def search(self, question: str, k: int = 5) -> tuple[Hit, ...]:
        """Return the ``k`` documents that fit a question best, fewer where fewer share a word with it.

        Raises:
            UsageError: the question is empty, or ``k`` is not from 1 to 32.
            NotFoundError: nothing is found, and texts of the version are withheld.
        """
        check_question(question, k)
        return found_hits(self._owner._open_registry(), self._open.retriever, self.version, question, k)

    def adapter(self, document: str | Document | Hit) -> DocumentAdapter:
        """Return the adapter that this version gives a document: its digest or the beginning of it, a hit, a document.

        Raises:
            NotFoundError: there is no such document in this version, or its adapter lies nowhere.
            IntegrityError: the adapter's bytes are damaged.
        """
        registry = self._owner._open_registry()
        _, whole, adapter = self._member(document)
        recipe, base_model = registry.recipe_of(self.version)
        return DocumentAdapter(adapter, whole, recipe, base_model, bytes(registry.adapters([adapter])[adapter]))

    @contextmanager
    def merged(
        self,
        about: str | Sequence[str | Document | Hit],
        *,
        k: int = 3,
        merge: str = DEFAULT_MERGE,
        batch_size: int = 8,
    ) -> Iterator[MergedCorpus]:
        """Put one merge into the model's own weights for the time of a block, to ask much about a few documents.

        What is asked of the yielded object is answered by that merge, without a search and at the bare model's speed.
        Nothing else can be asked of this registry within the block; other threads wait for its end. Then the weights
        are what they were, bit for bit.

        Args:
            about: a question, whose ``k`` best documents are merged, or the documents: as ``adapter`` takes them.
            k: how many documents a question finds.
            merge: how they are merged, as in ``ask``; documents that are no hits count as equally good.
            batch_size: how many questions share a pass through the model.

        Raises:
            NotFoundError: there is no such document in this version, or the question finds none.
            UsageError: the question is empty, or an argument is wrong.
            IntegrityError: an adapter's bytes are damaged.
        """
        from registry.pipeline.merged_asking import merged_corpus
        from registry.pipeline.query import Asking

        if isinstance(about, str):
            question, gold = about, None
        else:
            question = "of the documents that are given"
            gold = [Match(self._member(one)[0], one.score if isinstance(one, Hit) else 1.0) for one in about]
        asking = Asking("prag", k if gold is None else len(gold), merge, batch_size=batch_size, log=False)
        with self._owner._asker(self._open) as asker:
            basis = asker.prepare(question, asking, gold=gold)
            with merged_corpus(asker, basis, rows=batch_size) as merged:
                yield merged

    def versions(self) -> list[Version]:
        """Return all versions of the corpus, oldest first."""
        with self._owner._open_registry().catalog.read() as session:
            return list_versions(session, self.version.corpus)

    def _member(self, document: str | Document | Hit) -> tuple[str, Document, str]:
        """Return the digest of a document of this version, the document, and its adapter's digest."""
        registry = self._owner._open_registry()
        if isinstance(document, str):
            with registry.catalog.read() as session:
                digest = resolve_document(session, document).digest
        else:
            digest = document.digest if isinstance(document, Document) else document.document.digest
        found = registry.documents(self.version, [digest])
        if digest not in found:
            raise NotFoundError(
                f"document {short(digest)} is not in {self.version.reference}",
                hint=f"search() finds those that are; `pragreg documents show {short(digest)}` says where this one is",
            )
        return digest, *found[digest]

    def __repr__(self) -> str:
        """Name the version."""
        return f"<corpus {self.version.reference}, {self.version.documents} documents>"
