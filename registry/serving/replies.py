"""Bodies of replies: answers as OpenAI's interface has them, with what they came from, and all others."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from registry.pipeline.retrievals import retrieval_name
from registry.records import Answer, Hit, Version


class Usage(BaseModel):
    """Numbers of tokens; the prompt's count once, however many answers there are."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class HitBody(BaseModel):
    """A document that was found; ``weight`` is its adapter's in the merge, null where none is merged."""

    rank: int
    score: float
    title: str
    digest: str
    adapter_digest: str
    weight: float | None = None


class FoundDocument(BaseModel):
    """A document that was found, with its text."""

    rank: int
    score: float
    title: str
    text: str
    digest: str
    adapter_digest: str


class Explanation(BaseModel):
    """What an answer came from; ``retrieval`` names the documents that counted, for other engines (docs/engines.md)."""

    version: str
    version_digest: str
    mode: str
    hits: list[HitBody]
    common_weight: float
    recipe_digest: str
    base_model: str
    retrieval: str | None
    milliseconds: dict[str, float]


class AnswerMessage(BaseModel):
    """An answer as a message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One of the answers."""

    index: int
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """Answers to a question, and what they came from."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    pragreg: Explanation


class TextChoice(BaseModel):
    """One of the ways to go on."""

    index: int
    text: str
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    """What comes after a text, and what it came from."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    pragreg: Explanation


class ModelDetail(BaseModel):
    """What a model's name stands for at the moment."""

    corpus: str
    version: str
    version_digest: str
    documents: int
    recipe_digest: str
    base_model: str


class Model(BaseModel):
    """A corpus, alias or version as a model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "pragreg"
    pragreg: ModelDetail


class ModelList(BaseModel):
    """The models that there are."""

    object: Literal["list"] = "list"
    data: list[Model]


class SearchAnswer(BaseModel):
    """The documents that fit a question best; ``retrieval`` is the digest by which other engines find them."""

    model: str
    version: str
    version_digest: str
    hits: list[FoundDocument]
    retrieval: str | None
    milliseconds: float


class PlaceBody(BaseModel):
    """Where a document stands, in every version from ``from_version`` to before ``to_version`` (null: on)."""

    corpus: str
    source_uri: str
    ordinal: int
    record_id: str | None
    from_version: int
    to_version: int | None


class DocumentBody(BaseModel):
    """A document; of one that is ``withheld`` title and text are not here."""

    digest: str
    title: str
    text: str
    withheld: bool
    places: list[PlaceBody]


class Health(BaseModel):
    """Whether the server takes requests."""

    status: Literal["ready", "draining"]
    running: int
    waiting: int


class ErrorDetail(BaseModel):
    """What went wrong; ``param`` names the parameter, ``code`` is for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every error."""

    error: ErrorDetail


def explanation(answer: Answer) -> Explanation:
    """Return what an answer came from."""
    weights: tuple[float | None, ...] = answer.weights or (None,) * len(answer.hits)
    counted = [hit.document.digest for hit, weight in zip(answer.hits, weights, strict=True) if weight]
    retrieval = retrieval_name(answer.version, counted) if counted else None
    return Explanation(
        version=answer.version,
        version_digest=answer.version_digest,
        mode=answer.mode,
        hits=[_hit(hit, weight) for hit, weight in zip(answer.hits, weights, strict=True)],
        common_weight=answer.common_weight,
        recipe_digest=answer.recipe_digest,
        base_model=answer.base_model,
        retrieval=retrieval,
        milliseconds=answer.milliseconds,
    )


def _hit(hit: Hit, weight: float | None) -> HitBody:
    return HitBody(
        rank=hit.rank,
        score=hit.score,
        title=hit.document.title,
        digest=hit.document.digest,
        adapter_digest=hit.adapter_digest,
        weight=weight,
    )


def model_body(name: str, version: Version, base_model: str) -> Model:
    """Return a model as it is listed."""
    return Model(
        id=name,
        created=int(version.created_at.timestamp()),
        pragreg=ModelDetail(
            corpus=version.corpus,
            version=version.reference,
            version_digest=version.digest,
            documents=version.documents,
            recipe_digest=version.recipe_digest,
            base_model=base_model,
        ),
    )
