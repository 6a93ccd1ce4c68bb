"""Query: from questions to answers out of the adapters of the documents that they find."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock

from registry.base_model import LoadedModel, encode_messages, encode_prompt, encode_text, linear_shapes
from registry.base_model.chat import Message
from registry.catalog.chunks import chunked
from registry.catalog.members import documents_by_record
from registry.catalog.queries import log_query
from registry.digests import short
from registry.errors import NotFoundError, UsageError
from registry.generation.batcher import Batcher
from registry.generation.requests import Bytes, Generated, Request, Sampling, Term
from registry.generation.runners.choosing import make_runner
from registry.layout import question_prompt, titled
from registry.merging.methods import DEFAULT_MERGE, Coefficients, Merge, parse_merge
from registry.merging.products import inner_products
from registry.pipeline.adapter_memory import DEFAULT_CACHE_BYTES, AdapterMemory
from registry.pipeline.base_models import BaseModels, token_limit
from registry.pipeline.common_part import common_part
from registry.pipeline.opened import Registry, Retriever, opened
from registry.pipeline.search import check_question
from registry.progress import Progress, Silent
from registry.records import MODES, Answer, Hit, Match, Mode, Version
from registry.settings import Home
from registry.store.layout import AdapterLayout

DEFAULT_HITS = 3
DEFAULT_NEW_TOKENS = 32
DEFAULT_BATCH_SIZE = 8
SHOWN_CHARACTERS = 60
"""So much of a question is shown in a message about it."""
LEAST_CONTEXT = 1024
LEAST_TERMS = 4
"""A runner is made with room for so many tokens and adapters a row, so that it is seldom made again."""
GREEDY = Sampling()
ADAPTER_MODES: tuple[Mode, ...] = ("prag", "combined")
PASSAGE_MODES: tuple[Mode, ...] = ("rag", "combined")


@dataclass(frozen=True)
class Asking:
    """How questions are answered; ``batch_size`` of them share one forward pass, ``log`` records them.

    ``merge`` is a method as ``registry.merging.methods.parse_merge`` reads it.
    """

    mode: Mode = "prag"
    k: int = DEFAULT_HITS
    merge: str = DEFAULT_MERGE
    max_new_tokens: int = DEFAULT_NEW_TOKENS
    batch_size: int = DEFAULT_BATCH_SIZE
    log: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if self.mode not in MODES:
            raise UsageError(f"there is no mode {self.mode!r}", hint=f"use one of: {', '.join(MODES)}")
        if self.batch_size < 1 or self.max_new_tokens < 1:
            raise UsageError("the batch size and the number of new tokens must be at least 1")


@dataclass(frozen=True)
class Prepared:
    """A question on its way to the model: what was found, and the ``request`` that gives the answer."""

    question: str
    mode: Mode
    hits: tuple[Hit, ...]
    coefficients: Coefficients
    request: Request
    milliseconds: Mapping[str, float]


class Asker:
    """One version of a corpus with its model in memory; questions see that version to the end.

    ``retrieve``, ``prepare`` and ``answer_of`` may be called by several threads at once, ``ask`` by one at a time.
    """

    def __init__(self, registry: Registry, version: Version, loaded: LoadedModel, memory: AdapterMemory) -> None:
        """Take the base model of the version's recipe; see ``open_asker``."""
        self.version, self.loaded = version, loaded
        self._registry, self._memory = registry, memory
        self.recipe, self.base_model = registry.recipe_of(version)
        self._retriever = Retriever(registry, version)
        shapes = linear_shapes(loaded.model, self.recipe.targets, self.recipe.first_layer)
        self.layout = AdapterLayout.of(shapes, self.recipe.rank, self.recipe.adapter_dtype)
        self._batcher: Batcher | None = None
        self._common: bytes | None = None
        self._making_common = Lock()

    def ask(
        self,
        questions: Sequence[str],
        asking: Asking = Asking(),
        *,
        gold: Sequence[Sequence[Match]] | None = None,
        on_text: Callable[[int, str], None] | None = None,
    ) -> Iterator[Answer]:
        """Yield the answers in order, a batch at a time.

        ``gold`` gives each question's documents instead of the index; ``on_text`` is told the text as it grows, by the
        place of its question in the batch.

        Raises:
            UsageError: a question is empty or too long for the model, ``k`` or the merge do not fit.
            IntegrityError: an adapter's bytes are damaged.
        """
        for question in questions:
            check_question(question, asking.k)
        if parse_merge(asking.merge, asking.k).needs_common and asking.mode in ADAPTER_MODES:
            self.common()  # where it must be made, that is no question's time
        for numbers in chunked(range(len(questions)), asking.batch_size):
            prepared = [
                self.prepare(questions[number], asking, gold=None if gold is None else gold[number])
                for number in numbers
            ]
            answers = [
                self.answer_of(own, generated)
                for own, generated in zip(prepared, self._generate(prepared, asking, on_text), strict=True)
            ]
            if asking.log:
                with self._registry.catalog.write() as session:
                    for answer in answers:
                        log_query(session, answer)
            yield from answers

    def close(self) -> None:
        """Give back what ``ask`` took of the model and its memory; it can ask again."""
        batcher, self._batcher = self._batcher, None
        if batcher is not None:
            batcher.close()

    @property
    def registry(self) -> Registry:
        """The registry that the version lies in."""
        return self._registry

    @property
    def device(self) -> str:
        """Where the model is, such as "cpu" or "cuda:0"."""
        return self.loaded.device

    @property
    def dtype(self) -> str:
        """The numbers that the model computes in, such as "bfloat16"."""
        return self.loaded.dtype

    def retrieve(self, questions: Sequence[str], k: int) -> list[tuple[Hit, ...]]:
        """Return what the index finds for every question, at most ``k`` documents each."""
        for question in questions:
            check_question(question, k)
        return self._retriever.hits(questions, k)

    def documents_by_record(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return document digests by record identifier, or by ``file name#ordinal`` where a source has no records."""
        with self._registry.catalog.read() as session:
            return documents_by_record(session, self.version, names)

    def common(self) -> bytes:
        """Return the flat vector of what the version's adapters have in common.

        That is the task adapter, where they started from one; else their mean, made once and remembered.

        Raises:
            IntegrityError: an adapter's bytes are lost or damaged.
        """
        with self._making_common:
            if self._common is None:
                self._common = common_part(self._registry, self.version, self.recipe, self.layout)
            return self._common

    def prepare(
        self,
        question: str,
        asking: Asking,
        *,
        gold: Sequence[Match] | None = None,
        history: Sequence[Message] = (),
        sampling: Sampling = GREEDY,
        stop: Sequence[str] = (),
        as_text: bool = False,
    ) -> Prepared:
        """Find the question's documents, and put together what the model is asked: all but the model's own work.

        Args:
            question: any text.
            asking: mode, number of documents, merge and longest answer.
            gold: the documents, instead of what the index finds.
            history: the conversation before the question.
            sampling: how tokens are chosen.
            stop: strings that end the answer.
            as_text: go on with the question as it stands instead of answering it.

        Raises:
            UsageError: the question is empty or too long for the model, ``k`` or the merge do not fit.
            NotFoundError: texts are needed that are withheld.
            IntegrityError: an adapter's bytes are damaged.
        """
        merge = parse_merge(asking.merge, asking.k)
        check_question(question, asking.k)
        clock = _Clock()
        hits: tuple[Hit, ...] = ()
        if asking.mode != "closed-book":
            with clock.step("search"):
                found = self._retriever.hits([question], asking.k) if gold is None else self._retriever.join([gold])
                hits = found[0]
        is_adapted = asking.mode in ADAPTER_MODES and bool(hits)
        # Adapters are read and checked while the prompt is put together.
        reading = self._memory.prefetch(hit.adapter_digest for hit in hits) if is_adapted else None
        ids = self._prompt(question, hits, asking, history, as_text=as_text)
        terms, coefficients = ((), Coefficients()) if reading is None else self._terms(hits, reading, merge, clock)
        request = Request(tuple(ids), asking.max_new_tokens, terms, sampling, tuple(stop))
        return Prepared(question, asking.mode, hits, coefficients, request, clock.milliseconds)

    def answer_of(self, prepared: Prepared, generated: Generated) -> Answer:
        """Return the answer to a prepared question with all that explains it."""
        times = {"inject": generated.inject_ms} if prepared.request.terms else {}
        times |= {"prefill": generated.prefill_ms, "decode": generated.decode_ms}
        return Answer(
            question=prepared.question,
            answer=generated.text.strip(),
            mode=prepared.mode,
            version=self.version.reference,
            version_digest=self.version.digest,
            recipe_digest=self.recipe.digest,
            base_model=self.base_model.fingerprint,
            hits=prepared.hits,
            weights=prepared.coefficients.hits,
            common_weight=prepared.coefficients.common,
            prompt_tokens=generated.prompt_tokens,
            answer_tokens=len(generated.tokens),
            milliseconds={**prepared.milliseconds, **times},
        )

    def _prompt(
        self, question: str, hits: Sequence[Hit], asking: Asking, history: Sequence[Message], *, as_text: bool
    ) -> list[int]:
        tokenizer, passages = self.loaded.tokenizer, _passages(hits, asking)
        prompt = question_prompt(self.recipe.layout, question, passages)
        if as_text:
            ids = encode_text(tokenizer, "\n\n".join([*passages, question]))[:-1]  # without the end of text
        elif history:
            turns = [*history, {"role": "user", "content": prompt.user}]
            ids = encode_messages(tokenizer, turns, prompt.answer_start, prompt.with_system)
        else:
            ids = encode_prompt(tokenizer, prompt)
        limit = token_limit(self.loaded)
        if limit is not None and len(ids) + asking.max_new_tokens > limit:
            shown = question if len(question) <= SHOWN_CHARACTERS else question[: SHOWN_CHARACTERS - 3] + "..."
            raise UsageError(
                f"the base model takes {limit} tokens, but the prompt for the question {shown!r} has {len(ids)}, and "
                f"{asking.max_new_tokens} are kept for the answer",
                hint=f"ask a shorter question{', or for fewer passages with -k' if passages else ''}, or for a shorter "
                "answer with --max-tokens",
            )
        return ids

    def _terms(
        self, hits: Sequence[Hit], reading: Future[dict[str, memoryview]], merge: Merge, clock: _Clock
    ) -> tuple[tuple[Term, ...], Coefficients]:
        """Return the adapters of the sum, without those of factor 0, and the factors of all."""
        with clock.step("load"):
            data = reading.result()
            bodies: list[Bytes] = [self.layout.body(data[hit.adapter_digest]) for hit in hits]
            keys = [hit.adapter_digest for hit in hits]
            if merge.needs_common:
                bodies.append(self.common())
                keys.append(f"common of {self.version.digest}")
        with clock.step("merge"):
            products = inner_products(self.layout, bodies, self.recipe.scale) if merge.needs_products else None
            own = merge.coefficients([hit.score for hit in hits], products)
            factors = (*own.hits, own.common)  # the last is 0 where there is no common part
            every = zip(keys, factors, bodies, strict=False)
            return tuple(Term(key, factor, body) for key, factor, body in every if factor), own

    def _generate(
        self, prepared: Sequence[Prepared], asking: Asking, on_text: Callable[[int, str], None] | None
    ) -> list[Generated]:
        """Answer all of them together.

        Raises:
            IntegrityError: an adapter's bytes are damaged.
        """
        requests = [own.request for own in prepared]
        batcher = self._room(requests, asking)
        tell = [None if on_text is None else partial(on_text, place) for place in range(len(requests))]
        running = [batcher.submit(request, own) for request, own in zip(requests, tell, strict=True)]
        try:
            while not batcher.is_idle:
                for ended in batcher.step():
                    if ended.error is not None:
                        raise ended.error
        except BaseException:
            self._batcher = None  # whatever still runs in it is nobody's
            batcher.close()
            raise
        return [own.generated for own in running if own.generated is not None]

    def _room(self, requests: Sequence[Request], asking: Asking) -> Batcher:
        """Return a batcher with room for these; it is made again only when more is needed."""
        rows = min(asking.batch_size, max(len(requests), 1))
        context = max(len(request.ids) + request.max_new_tokens for request in requests)
        terms = max(len(request.terms) for request in requests)
        known = self._batcher
        if known is not None:
            runner = known.runner
            if runner.rows >= rows and runner.context >= context and runner.most_terms >= terms:
                return known
            rows, terms = max(rows, runner.rows), max(terms, runner.most_terms)
            context = max(context, runner.context)
            known.close()
        limit = token_limit(self.loaded) or context
        runner = make_runner(
            self.loaded,
            self.layout,
            self.recipe.scale,
            rows=rows,
            context=max(context, min(limit, LEAST_CONTEXT)),
            cache_bytes=DEFAULT_CACHE_BYTES,
            most_terms=max(terms, LEAST_TERMS),
            takes_weights=True,
        )
        self._batcher = Batcher(self.loaded, runner)
        return self._batcher


class _Clock:
    """Milliseconds per step."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time of the block to a step."""
        started = time.perf_counter()
        yield
        self.milliseconds[name] = self.milliseconds.get(name, 0.0) + (time.perf_counter() - started) * 1000


@contextmanager
def open_asker(
    home: Home, reference: str, *, device: str = "auto", dtype: str = "auto", progress: Progress | None = None
) -> Iterator[Asker]:
    """Open the version that ``reference`` names, and load its base model, for the time of a block.

    Whatever builds and gc do meanwhile, the version keeps its adapters: it is being read.

    Raises:
        NotFoundError: there is no such version, or its adapters were collected.
        BaseModelError: its base model is not to be had, or is another one now.
    """
    with opened(home) as registry, registry.leased(registry.version(reference)) as version:
        models = BaseModels(registry, device=device, dtype=dtype, progress=progress or Silent())
        with closing(AdapterMemory(registry)) as memory:
            recipe, _ = registry.recipe_of(version)
            with closing(Asker(registry, version, models.get(recipe), memory)) as asker:
                yield asker


def _passages(hits: Sequence[Hit], asking: Asking) -> list[str]:
    if asking.mode not in PASSAGE_MODES:
        return []
    for hit in hits:
        if not hit.document.title and not hit.document.text:
            raise NotFoundError(
                f"the document {short(hit.document.digest)} is withheld: its text is not here to be shown to the model",
                hint="ask with --mode prag, or bring the texts: pragreg build SOURCE..., or pragreg pull "
                "NAMESPACE/NAME --texts SOURCE...",
            )
    return [titled(hit.document.title, hit.document.text) for hit in hits]
