"""The frozen records that stages and stores pass to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Literal

from registry.digests import document_digest, json_digest, normalise_text

Mode = Literal["prag", "combined", "rag", "closed-book"]
MODES: tuple[Mode, ...] = ("prag", "combined", "rag", "closed-book")
CONTROLS = ("wrong-document", "task-only")
"""Further modes of evaluations: another document's adapter, and what all adapters have in common."""


@dataclass(frozen=True, slots=True)
class Document:
    """The unit that is retrieved and encoded; ``digest`` identifies its normalised title and text."""

    digest: str
    title: str
    text: str

    @classmethod
    def of(cls, title: str, text: str) -> Document:
        """Normalise title and text and take their digest."""
        title, text = normalise_text(title), normalise_text(text)
        return cls(digest=document_digest(title, text), title=title, text=text)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a document stands: the ``ordinal``-th passage (from 0) of a source.

    ``record_id`` is the identifier that the source itself gives the record, if it gives one.
    """

    source_uri: str
    ordinal: int
    record_id: str | None = None


@dataclass(frozen=True, slots=True)
class PlacedDocument:
    """A document and one place where it stands; what reading a source yields."""

    document: Document
    place: Place


@dataclass(frozen=True, slots=True)
class StagedDocument:
    """A document of a running build with the record identifiers of all its places (those that have one)."""

    document: Document
    record_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Skipped:
    """An input that was left out: where (``source_uri``, ``line`` from 1 if known) and why."""

    source_uri: str
    line: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class QAPair:
    """A question about a document; ``answer`` is short, ``full_answer`` a sentence where there is one."""

    question: str
    answer: str
    full_answer: str | None = None


@dataclass(frozen=True)
class Augmentation:
    """The rewrites and question-answer pairs of one document.

    ``request_digest`` identifies what was asked (generator, its settings, prompts version) and is looked up
    before any work; ``digest`` identifies what came. ``dropped_pairs`` and ``dropped_rewrites`` count what failed the
    grounding check. ``tokens`` were generated in ``elapsed_seconds``; both are 0 for imports.
    """

    document_digest: str
    request_digest: str
    generator: str
    prompts_version: str
    rewrites: tuple[str, ...] = ()
    pairs: tuple[QAPair, ...] = ()
    dropped_pairs: int = 0
    tokens: int = 0
    elapsed_seconds: float = 0.0
    dropped_rewrites: int = 0

    @property
    def payload(self) -> dict[str, object]:
        """The content as plain JSON values, as it is stored and digested."""
        return {
            "rewrites": list(self.rewrites),
            "qa": [{"question": p.question, "answer": p.answer, "full_answer": p.full_answer} for p in self.pairs],
        }

    @cached_property
    def digest(self) -> str:
        """Sha256 over document, generator, prompts version and payload."""
        return json_digest(
            {
                "document": self.document_digest,
                "generator": self.generator,
                "prompts_version": self.prompts_version,
                **self.payload,
            }
        )


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The identity of a frozen causal LM.

    ``reference`` is what the user named (Hub id, path, alias), ``revision`` the commit it was pinned at (``sha256:``
    and the digest of a GGUF file, None for a folder), ``fingerprint`` the digest over config, tokenizer, chat template
    and weights.
    """

    fingerprint: str
    reference: str
    revision: str | None
    architecture: str
    parameters: int


@dataclass(frozen=True, slots=True)
class Training:
    """How an adapter came to be; ``device`` and ``library_versions`` say where."""

    examples: int
    tokens: int
    steps: int
    first_loss: float
    last_loss: float
    elapsed_seconds: float
    device: str
    dtype: str
    group_size: int
    library_versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EncodingInput:
    """A document with its augmentation: all that an adapter is made from besides the recipe."""

    document: Document
    augmentation: Augmentation


@dataclass(frozen=True, slots=True)
class EncodedAdapter:
    """An adapter as bytes (``data`` is its ``adapter_model.safetensors``) and how it was trained."""

    digest: str
    document_digest: str
    augmentation_digest: str
    recipe_digest: str
    parameters: int
    data: bytes
    training: Training


@dataclass(frozen=True, slots=True)
class AdapterLocation:
    """Where an adapter's bytes lie: ``size_bytes`` from ``offset`` in the pack file (header included)."""

    adapter_digest: str
    pack_digest: str
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Pack:
    """An immutable safetensors file of adapters; ``adapters`` are in the order in which they lie."""

    digest: str
    size_bytes: int
    adapters: tuple[AdapterLocation, ...]


@dataclass(frozen=True, slots=True)
class TaskAdapter:
    """The warm-up: an adapter trained once from question-answer pairs, from which a recipe's documents start.

    ``recipe_digest`` is the recipe that it was trained by. ``questions`` counts the pairs, ``questions_digest``
    identifies them together; ``question_digests``, sorted and each once, are the sha256 of every normalised question,
    so that an evaluation on any of them can be refused. ``name`` may be empty, and need not be unique.
    """

    digest: str
    recipe_digest: str
    name: str
    questions_digest: str
    question_digests: tuple[str, ...]
    questions: int
    parameters: int
    size_bytes: int
    training: Training
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Version:
    """An immutable numbered state of a corpus."""

    corpus: str
    number: int
    digest: str
    parent: int | None
    message: str
    created_at: datetime
    documents: int
    recipe_digest: str

    @property
    def reference(self) -> str:
        """``corpus@vN``, as users type it."""
        return f"{self.corpus}@v{self.number}"


@dataclass(frozen=True, slots=True)
class Match:
    """What the index returns: a document's digest and its BM25 score, best first."""

    document_digest: str
    score: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A retrieved document with its score and the adapter that the version gives it; ``rank`` is from 1."""

    rank: int
    score: float
    document: Document
    adapter_digest: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An answered question and everything that explains it.

    ``weights`` are the factors of the hits' adapters in the merge, ``common_weight`` that of the corpus' common part.
    ``milliseconds`` is per step: search, load, merge, inject, prefill, decode (a batch's time is shared evenly).
    """

    question: str
    answer: str
    mode: Mode
    version: str
    version_digest: str
    recipe_digest: str
    base_model: str
    hits: tuple[Hit, ...]
    weights: tuple[float, ...]
    prompt_tokens: int
    answer_tokens: int
    milliseconds: dict[str, float]
    common_weight: float = 0.0
