"""One merge for many questions: it is added to the model's weights, and answers then cost what the bare model's do.

They are those of the same adapters in a slot, but for the rounding of the sum to the model's dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from registry.catalog.queries import log_query
from registry.errors import NotFoundError, UsageError
from registry.generation.batcher import Batcher
from registry.generation.merged import merged_into_weights
from registry.generation.runners.choosing import make_runner
from registry.generation.text import Stripped
from registry.pipeline.base_models import token_limit
from registry.pipeline.open_versions import Turns, several
from registry.pipeline.query import LEAST_CONTEXT, Asker, Asking, Prepared
from registry.records import Answer


class MergedCorpus:
    """A merge that is in the model's weights; get one from ``OpenCorpus.merged``. It ends with its block.

    ``hits`` are the documents, ``weights`` what each counts.
    """

    def __init__(self, asker: Asker, basis: Prepared, batcher: Batcher) -> None:
        """Take what was merged, and a batcher of the model that has the merge in its weights."""
        self._asker, self._basis = asker, basis
        self._batcher: Batcher | None = batcher
        self._turns = Turns()
        self.hits = basis.hits
        self.weights = basis.coefficients.hits

    def ask(
        self,
        question: str,
        *,
        max_new_tokens: int = 32,
        stream: Callable[[str], None] | None = None,
        log: bool = True,
    ) -> Answer:
        """Answer a question by the merge; arguments and errors are those of ``OpenCorpus.ask`` in mode prag."""
        return self._ask([question], max_new_tokens, log, None if stream is None else Stripped(stream))[0]

    def ask_many(self, questions: Iterable[str], *, max_new_tokens: int = 32, log: bool = True) -> list[Answer]:
        """Answer questions in order, a batch of them in one pass through the model."""
        return self._ask(several(questions), max_new_tokens, log, None)

    def close(self) -> None:
        """Answer no more: the merge leaves the weights."""
        with self._turns.one():
            self._batcher = None

    def _ask(
        self, questions: Sequence[str], max_new_tokens: int, log: bool, tell: Callable[[str], None] | None
    ) -> list[Answer]:
        # The prompt of mode prag is that of the bare model; the adapters are in the weights.
        bare = Asking("closed-book", max_new_tokens=max_new_tokens, log=log)
        prepared = [self._asker.prepare(question, bare) for question in questions]
        with self._turns.one():
            if self._batcher is None:
                raise UsageError("the block of merged() has ended", hint="ask the corpus, or merge again")
            answers = self._generate(self._batcher, prepared, tell)
        if log:
            with self._asker.registry.catalog.write() as session:
                for answer in answers:
                    log_query(session, answer)
        return answers

    def _generate(
        self, batcher: Batcher, prepared: Sequence[Prepared], tell: Callable[[str], None] | None
    ) -> list[Answer]:
        running = []
        try:
            for own in prepared:
                running.append(batcher.submit(own.request, tell))
            while not batcher.is_idle:
                for ended in batcher.step():
                    if ended.error is not None:
                        raise ended.error
        except BaseException:
            for one in running:
                batcher.cancel(one)
            raise
        basis = self._basis
        return [
            self._asker.answer_of(
                replace(own, mode=basis.mode, hits=basis.hits, coefficients=basis.coefficients), one.generated
            )
            for own, one in zip(prepared, running, strict=True)
            if one.generated is not None
        ]


@contextmanager
def merged_corpus(asker: Asker, basis: Prepared, *, rows: int) -> Iterator[MergedCorpus]:
    """Add the adapters of a prepared question to the model's weights for the time of a block.

    Until its end nothing else may ask this model; then the weights are what they were, bit for bit. ``rows`` questions
    share a pass.

    Raises:
        NotFoundError: the question has no adapters.
    """
    if not basis.request.terms:
        raise NotFoundError(
            f"nothing is merged: no document of {asker.version.reference} has a word of the question",
            hint="name the documents; search() finds them",
        )
    runner = make_runner(
        asker.loaded,
        asker.layout,
        asker.recipe.scale,
        rows=rows,
        context=min(token_limit(asker.loaded) or LEAST_CONTEXT, LEAST_CONTEXT),
        cache_bytes=0,
        most_terms=1,
    )
    batcher = Batcher(asker.loaded, runner)
    try:
        with merged_into_weights(runner, asker.layout, basis.request.terms, asker.recipe.scale):
            merged = MergedCorpus(asker, basis, batcher)
            try:
                yield merged
            finally:
                merged.close()
    finally:
        batcher.close()
