"""Query: from questions to answers out of the adapters of the documents that they find."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from registry.base_model import LoadedModel, encode_prompt, linear_shapes, load
from registry.catalog.chunks import chunked
from registry.catalog.members import documents_by_record, member_adapters
from registry.catalog.queries import log_query
from registry.catalog.recipes import get_base_model, get_recipe
from registry.digests import short
from registry.errors import NotFoundError, UsageError
from registry.generation.generate import Generated, OnText, generate, token_limit
from registry.generation.slots import NO_ADAPTER, AdapterSlots
from registry.layout import question_prompt, titled
from registry.merging.common import FORMAT, MOST_ADAPTERS, mean_adapter, remembered, spread
from registry.merging.methods import DEFAULT_MERGE, Coefficients, Merge, parse_merge
from registry.merging.products import inner_products
from registry.pipeline.opened import Registry, Retriever, opened
from registry.pipeline.recipes import files_of, read_task_adapter
from registry.pipeline.search import check_question
from registry.progress import Progress, Silent
from registry.recipe import Recipe
from registry.records import MODES, Answer, Hit, Match, Mode, Version
from registry.settings import Home
from registry.store.layout import AdapterLayout
from registry.upkeep.readers import reading

DEFAULT_HITS = 3
DEFAULT_NEW_TOKENS = 32
DEFAULT_BATCH_SIZE = 8
SHOWN_CHARACTERS = 60
"""So much of a question is shown in a message about it."""
COMMON_FOLDER = "common"
"""The folder of the home with the common parts of versions; derived, and made again where one is missing."""
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


class Asker:
    """One version of a corpus with its model in memory; questions see that version to the end."""

    def __init__(self, registry: Registry, version: Version, device: str, dtype: str, progress: Progress) -> None:
        """Load the base model of the version's recipe; see ``open_asker``."""
        self.version = version
        self._registry = registry
        with registry.catalog.read() as session:
            self.recipe: Recipe = get_recipe(session, version.recipe_digest)
            self.base_model = get_base_model(session, self.recipe.base_model)
        files = files_of(registry, self.base_model, progress)
        self._loaded: LoadedModel = load(
            files, device=device, dtype=self.recipe.dtype if dtype == "auto" and device != "mps" else dtype
        )
        self._retriever = Retriever(registry, version)
        shapes = linear_shapes(self._loaded.model, self.recipe.targets, self.recipe.first_layer)
        self._layout = AdapterLayout.of(shapes, self.recipe.rank, self.recipe.adapter_dtype)
        self._slots: AdapterSlots | None = None
        self._common: bytes | memoryview | None = None

    def ask(
        self,
        questions: Sequence[str],
        asking: Asking = Asking(),
        *,
        gold: Sequence[Sequence[Match]] | None = None,
        on_text: OnText | None = None,
    ) -> Iterator[Answer]:
        """Yield the answers in order, a batch at a time.

        ``gold`` gives each question's documents instead of the index; ``on_text`` is told the text as it grows.

        Raises:
            UsageError: a question is empty or too long for the model, ``k`` or the merge do not fit.
            IntegrityError: an adapter's bytes are damaged.
        """
        merge = parse_merge(asking.merge, asking.k)
        for question in questions:
            check_question(question, asking.k)
        if merge.needs_common and asking.mode in ADAPTER_MODES:
            self.common()  # where it must be made, that is no question's time
        for numbers in chunked(range(len(questions)), asking.batch_size):
            part = [questions[number] for number in numbers]
            given = [gold[number] for number in numbers] if gold is not None else None
            answers = self._answer(part, asking, merge, given, on_text)
            if asking.log:
                with self._registry.catalog.write() as session:
                    for answer in answers:
                        log_query(session, answer)
            yield from answers

    @property
    def registry(self) -> Registry:
        """The registry that the version lies in."""
        return self._registry

    @property
    def device(self) -> str:
        """Where the model is, such as "cpu" or "cuda:0"."""
        return self._loaded.device

    @property
    def dtype(self) -> str:
        """The numbers that the model computes in, such as "bfloat16"."""
        return str(self._loaded.model.dtype).removeprefix("torch.")

    def retrieve(self, questions: Sequence[str], k: int) -> list[tuple[Hit, ...]]:
        """Return what the index finds for every question, at most ``k`` documents each."""
        for question in questions:
            check_question(question, k)
        return self._retriever.hits(questions, k)

    def documents_by_record(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Return document digests by record identifier, or by ``file name#ordinal`` where a source has no records."""
        with self._registry.catalog.read() as session:
            return documents_by_record(session, self.version, names)

    def common(self) -> bytes | memoryview:
        """Return the flat vector of what the version's adapters have in common.

        That is the task adapter, where they started from one; else their mean, made once and remembered.

        Raises:
            IntegrityError: an adapter's bytes are lost or damaged.
        """
        if self._common is None and self.recipe.task_adapter:
            self._common = read_task_adapter(self._registry, self.recipe)[1]
        if self._common is None:
            name = f"{self.version.digest}.mean-{MOST_ADAPTERS}-{FORMAT}"
            file = self._registry.home.path / COMMON_FOLDER / name
            self._common = remembered(file, self._layout.body_bytes, self._mean)
        return self._common

    def _mean(self) -> bytes:
        chosen = set(spread(self.version.documents))
        with self._registry.catalog.read() as session:
            every = enumerate(member_adapters(session, self.version))
            digests = [adapter for number, adapter in every if number in chosen]
        bodies = [self._layout.body(data) for data in self._registry.adapters(digests).values()]
        return mean_adapter(self._layout, bodies).body

    def _answer(
        self,
        questions: Sequence[str],
        asking: Asking,
        merge: Merge,
        gold: Sequence[Sequence[Match]] | None,
        on_text: OnText | None,
    ) -> list[Answer]:
        clock = _Clock(len(questions))
        hits = self._retrieve(questions, asking, gold, clock)
        prompts = [self._prompt(question, found, asking) for question, found in zip(questions, hits, strict=True)]
        merged = self._inject(hits, merge, asking, clock)
        rows = [row if own.hits else NO_ADAPTER for row, own in enumerate(merged)]
        generated = generate(
            self._loaded, self._slots, prompts, rows, max_new_tokens=asking.max_new_tokens, on_text=on_text
        )
        return [
            self._record(question, asking.mode, found, own, text, clock)
            for question, found, own, text in zip(questions, hits, merged, generated, strict=True)
        ]

    def _retrieve(
        self, questions: Sequence[str], asking: Asking, gold: Sequence[Sequence[Match]] | None, clock: _Clock
    ) -> list[tuple[Hit, ...]]:
        if asking.mode == "closed-book":
            return [()] * len(questions)
        with clock.step("search"):
            return self._retriever.join(gold) if gold is not None else self._retriever.hits(questions, asking.k)

    def _prompt(self, question: str, hits: Sequence[Hit], asking: Asking) -> list[int]:
        passages = _passages(hits, asking)
        ids = encode_prompt(self._loaded.tokenizer, question_prompt(self.recipe.layout, question, passages))
        limit = token_limit(self._loaded)
        if limit is not None and len(ids) + asking.max_new_tokens > limit:
            shown = question if len(question) <= SHOWN_CHARACTERS else question[: SHOWN_CHARACTERS - 3] + "..."
            raise UsageError(
                f"the base model takes {limit} tokens, but the prompt for the question {shown!r} has {len(ids)}, and "
                f"{asking.max_new_tokens} are kept for the answer",
                hint=f"ask a shorter question{', or for fewer passages with -k' if passages else ''}, or for a shorter "
                "answer with --max-tokens",
            )
        return ids

    def _inject(self, hits: Sequence[Sequence[Hit]], merge: Merge, asking: Asking, clock: _Clock) -> list[Coefficients]:
        """Merge every question's adapters and copy the result into its slot; return what each counted."""
        if asking.mode not in ADAPTER_MODES or not any(hits):
            return [Coefficients()] * len(hits)
        with clock.step("load"):
            bodies = self._bodies(hits)
            common = [self.common()] if merge.needs_common else []
        slots = self._room(len(hits), asking.k + len(common))
        merged: list[Coefficients] = []
        for row, found in enumerate(hits):
            terms = [*(bodies[hit.adapter_digest] for hit in found), *common]
            with clock.step("merge"):
                products = inner_products(self._layout, terms, self.recipe.scale) if merge.needs_products else None
                own = merge.coefficients([hit.score for hit in found], products)
                factors = (*own.hits, own.common)  # the last is 0 where there is no common part
                chosen = [(term, factor) for term, factor in zip(terms, factors, strict=False) if factor]
                sum_of = slots.merge([term for term, _ in chosen], [factor for _, factor in chosen], self.recipe.scale)
            with clock.step("inject"):
                slots.inject(row, sum_of)
            merged.append(own)
        return merged

    def _bodies(self, hits: Sequence[Sequence[Hit]]) -> Mapping[str, memoryview]:
        data = self._registry.adapters(hit.adapter_digest for found in hits for hit in found)
        return {digest: self._layout.body(one) for digest, one in data.items()}

    def _room(self, questions: int, adapters: int) -> AdapterSlots:
        """Return slots for so many questions of so many adapters; made again only when more are needed."""
        slots = self._slots
        if slots is None or slots.capacity < questions or slots.max_adapters < adapters:
            if slots is not None:
                slots.remove()
            self._slots = slots = AdapterSlots(self._loaded, self._layout, questions, adapters)
        return slots

    def _record(
        self,
        question: str,
        mode: Mode,
        hits: Sequence[Hit],
        merged: Coefficients,
        generated: Generated,
        clock: _Clock,
    ) -> Answer:
        return Answer(
            question=question,
            answer=generated.text,
            mode=mode,
            version=self.version.reference,
            version_digest=self.version.digest,
            recipe_digest=self.recipe.digest,
            base_model=self.base_model.fingerprint,
            hits=tuple(hits),
            weights=merged.hits,
            common_weight=merged.common,
            prompt_tokens=generated.prompt_tokens,
            answer_tokens=len(generated.tokens),
            milliseconds=clock.milliseconds | {"prefill": generated.prefill_ms, "decode": generated.decode_ms},
        )


class _Clock:
    """Milliseconds per step of one batch, shared evenly by its questions."""

    def __init__(self, questions: int) -> None:
        self.milliseconds: dict[str, float] = {}
        self._questions = questions

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time of the block to a step."""
        started = time.perf_counter()
        yield
        elapsed = (time.perf_counter() - started) * 1000 / self._questions
        self.milliseconds[name] = self.milliseconds.get(name, 0.0) + elapsed


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
    with opened(home) as registry:
        version = registry.version(reference)
        with reading(home, version):
            # Only now: what a garbage collection decided before is in the catalog, and the next one sees the reader.
            version = registry.version(version.reference)
            yield Asker(registry, version, device, dtype, progress or Silent())


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
