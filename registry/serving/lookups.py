"""``POST /search``, ``GET /documents/{digest}`` and ``GET /v1/models``: what asks no model."""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Request

from registry.catalog.showing import DocumentDetail, show_document
from registry.errors import NotFoundError
from registry.pipeline.retrievals import remember_hits
from registry.records import Hit, Version
from registry.serving.access import ANYBODY, Caller
from registry.serving.asking import merge_method, model_errors, open_model
from registry.serving.chat import model_named
from registry.serving.description import answers_with
from registry.serving.failures import ApiError
from registry.serving.models import Versions
from registry.serving.names import LONGEST_NAME, ModelName
from registry.serving.replies import DocumentBody, FoundDocument, Model, ModelList, PlaceBody, SearchAnswer, model_body
from registry.serving.requests import SearchRequest
from registry.serving.service import caller_of, line_of, service_of
from registry.serving.streams import unless_gone

router = APIRouter()


@router.post("/search", responses=answers_with(400, 401, 403, 404, 408, 413, 429, 500, 503, 504))
async def search(body: SearchRequest, request: Request) -> SearchAnswer:
    """Find the documents of a corpus that fit a question best."""
    service, line, started = service_of(request), line_of(request), time.perf_counter()
    line.model, model = body.model, model_named(body.model)
    caller_of(request).require("search", model.corpus)
    service.lookup_places.take(1)
    try:
        work = service.look_up(partial(_found, service.versions, model, body))
        version, hits, retrieval = await unless_gone(request, work)
    finally:
        service.lookup_places.give(1)
    line.version = version.reference
    elapsed = (time.perf_counter() - started) * 1000
    service.lookup_places.measured(elapsed / 1000)
    return SearchAnswer(
        model=body.model,
        version=version.reference,
        version_digest=version.digest,
        hits=[_document_found(hit) for hit in hits],
        retrieval=retrieval,
        milliseconds=elapsed,
    )


@router.get("/documents/{digest}", responses=answers_with(400, 401, 403, 404, 500, 503, 504))
async def document(
    digest: Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="The whole digest, as hits have it.")],
    request: Request,
) -> DocumentBody:
    """Show a document and where it stands."""
    service, caller = service_of(request), caller_of(request)
    if not caller.may_somewhere("documents"):
        caller.require("documents")
    found = await service.look_up(partial(_document, service.versions, digest))
    corpora = {each.corpus for each in found.memberships}
    if not caller.may("documents") and not any(caller.may("documents", corpus) for corpus in corpora):
        # Whether it is in another corpus is nothing that this key may know.
        raise _unknown(digest)
    return DocumentBody(
        digest=found.digest,
        title=found.title,
        text=found.text,
        withheld=found.withheld,
        places=[
            PlaceBody(
                corpus=place.corpus,
                source_uri=place.source_uri,
                ordinal=place.ordinal,
                record_id=place.record_id,
                from_version=place.from_version,
                to_version=place.to_version,
            )
            for place in found.places
            if caller.may("documents", place.corpus)
        ],
    )


@router.get("/v1/models", responses=answers_with(401, 403, 500, 503, 504))
async def models(request: Request) -> ModelList:
    """List corpora, aliases and versions, the newest first; each can be asked by its name, also with +MODE."""
    service, caller = service_of(request), caller_of(request)
    return ModelList(data=await service.look_up(partial(listed_models, service.versions, caller)))


@router.get("/v1/models/{name}", responses=answers_with(400, 401, 403, 404, 500, 503, 504))
async def model(
    name: Annotated[str, Path(min_length=1, max_length=LONGEST_NAME, description="Such as handbook@v3+rag.")],
    request: Request,
) -> Model:
    """Show what a model's name stands for now."""
    service, named = service_of(request), model_named(name)
    if not caller_of(request).may("search", named.corpus):
        caller_of(request).require("ask", named.corpus)
    return await service.look_up(partial(_model, service.versions, named))


def listed_models(versions: Versions, caller: Caller = ANYBODY) -> list[Model]:
    """Return the corpora, aliases and versions that a caller may ask."""
    listed = []
    for corpus in versions.offered():
        if not (caller.may("ask", corpus.name) or caller.may("search", corpus.name)):
            continue
        served = {each.version.number: each for each in corpus.versions if versions.bases.serves(each.base_model)}
        latest = served.get(corpus.aliases.get("latest", max(served, default=0)))
        names = {corpus.name: latest}
        names |= {f"{corpus.name}@{alias}": served.get(number) for alias, number in corpus.aliases.items()}
        names |= {f"{corpus.name}@v{number}": each for number, each in served.items()}
        listed += [model_body(name, each.version, each.base_model) for name, each in names.items() if each]
    return listed


def _found(versions: Versions, model: ModelName, body: SearchRequest) -> tuple[Version, tuple[Hit, ...], str | None]:
    opened = open_model(versions, model)
    try:
        merge = merge_method(body.merge, body.k, "merge")
        (hits,) = opened.asker.retrieve([body.question], body.k)
        is_kept = body.remember and bool(hits)
        retrieval = remember_hits(versions.registry.home, opened.version, hits, merge) if is_kept else None
        return opened.version, hits, retrieval
    finally:
        versions.release(opened)


def _document(versions: Versions, digest: str) -> DocumentDetail:
    try:
        with versions.registry.catalog.read() as session:
            return show_document(session, digest)
    except NotFoundError as error:
        raise _unknown(digest) from error


def _unknown(digest: str) -> ApiError:
    return ApiError(404, f"there is no document {digest}", code="document_not_found", param="digest")


def _model(versions: Versions, model: ModelName) -> Model:
    with model_errors():
        return model_body(model.text, *versions.look_up(model.reference))


def _document_found(hit: Hit) -> FoundDocument:
    return FoundDocument(
        rank=hit.rank,
        score=hit.score,
        title=hit.document.title,
        text=hit.document.text,
        digest=hit.document.digest,
        adapter_digest=hit.adapter_digest,
    )
