"""``POST /v1/chat/completions`` and ``/v1/completions``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from fastapi import APIRouter, Request, Response

from registry.base_model.chat import Message
from registry.generation.requests import Sampling
from registry.pipeline.query import DEFAULT_NEW_TOKENS, Asking
from registry.serving.asking import Asked, Call, Ended, model_errors
from registry.serving.description import SSE, answers_with
from registry.serving.failures import ApiError, api_error, error_body, is_trouble
from registry.serving.names import ModelName, parse_model_name
from registry.serving.replies import ChatCompletion, Completion, explanation
from registry.serving.requests import Asks, ChatRequest, CompletionRequest, PragregOptions, QuestionPart, TextPart
from registry.serving.service import Service, caller_of, line_of, service_of
from registry.serving.shapes import ChatShape, Shape, TextShape, reason_of, usage_of
from registry.serving.streams import DONE, EventStream, event, unless_gone

SENDING_SECONDS = 10.0
"""So much longer than its answer a stream may take to be read."""

router = APIRouter()


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses=answers_with(400, 401, 403, 404, 408, 413, 429, 500, 503, 504) | SSE,
)
async def chat(body: ChatRequest, request: Request) -> Response:
    """Answer the last message of a conversation out of a corpus."""
    given = [limit for limit in (body.max_tokens, body.max_completion_tokens) if limit is not None]
    messages = [_message(each.role, each.content) for each in body.messages]
    call = _call(request, body, messages, given)
    return await _answer(request, call, ChatShape(body.model), includes_usage=_includes_usage(body))


@router.post(
    "/v1/completions",
    response_model=Completion,
    responses=answers_with(400, 401, 403, 404, 408, 413, 429, 500, 503, 504) | SSE,
)
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Go on with a text, with what a corpus knows of it."""
    (prompt,) = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    given = [body.max_tokens] if body.max_tokens is not None else []
    call = _call(request, body, [{"role": "user", "content": prompt}], given, as_text=True)
    return await _answer(request, call, TextShape(body.model), includes_usage=_includes_usage(body))


def model_named(text: str) -> ModelName:
    """Take the name of a model apart.

    Raises:
        ApiError: nothing can be called so.
    """
    with model_errors():
        return parse_model_name(text)


def _call(request: Request, body: Asks, messages: list[Message], limits: list[int], *, as_text: bool = False) -> Call:
    settings = service_of(request).settings
    if limits and min(limits) > settings.max_tokens:
        message = f"an answer has at most {settings.max_tokens} tokens here, not {min(limits)}"
        raise ApiError(400, message, param="max_tokens")
    model, options = model_named(body.model), body.pragreg or PragregOptions()
    if model.mode and options.mode and model.mode != options.mode:
        message = f"the model's name says {model.mode}, but pragreg.mode is {options.mode}"
        raise ApiError(400, message, param="pragreg.mode")
    caller_of(request).require("ask", model.corpus)
    return Call(
        model=model,
        messages=messages,
        asking=Asking(
            mode=options.mode or model.mode or "prag",
            k=options.k,
            merge=options.merge,
            max_new_tokens=min(limits or [DEFAULT_NEW_TOKENS, settings.max_tokens]),
            log=False,
        ),
        sampling=Sampling(
            temperature=body.temperature or 0.0, top_p=1.0 if body.top_p is None else body.top_p, seed=body.seed
        ),
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        count=body.n or 1,
        as_text=as_text,
        streams=bool(body.stream),
    )


def _message(role: str, content: str | Sequence[TextPart | QuestionPart]) -> Message:
    text = content if isinstance(content, str) else "\n".join(part.text for part in content)
    return {"role": "system" if role == "developer" else role, "content": text}


def _includes_usage(body: Asks) -> bool:
    return bool(body.stream_options and body.stream_options.include_usage)


async def _answer(request: Request, call: Call, shape: Shape, *, includes_usage: bool) -> Response:
    service = service_of(request)
    line = line_of(request)
    line.model, line.mode = call.model.text, call.asking.mode
    deadline = asyncio.get_running_loop().time() + service.settings.timeout_seconds
    if not call.streams:
        answers = await unless_gone(request, _all(request, call, deadline))
        return Response(shape.whole(answers).model_dump_json(), media_type="application/json")
    asked = await unless_gone(request, service.answering.begin(call, deadline))
    _begun(request, asked)

    def close(is_gone: bool) -> None:
        asked.close()
        if is_gone:
            line.error = "client gone"

    events = _events(request, asked, shape, includes_usage=includes_usage)
    return EventStream(events, close, deadline + SENDING_SECONDS)


async def _all(request: Request, call: Call, deadline: float) -> list[Ended]:
    asked = await service_of(request).answering.begin(call, deadline)
    try:
        _begun(request, asked)
        answers = await asked.all()
        _ended(request, answers)
        return answers
    finally:
        asked.close()


async def _events(request: Request, asked: Asked, shape: Shape, *, includes_usage: bool) -> AsyncIterator[bytes]:
    """Yield the answers as they grow. What they came from is in the last chunk, and so is an error."""
    extra = {"usage": None} if includes_usage else {}
    answers: dict[int, Ended] = {}
    try:
        for index in range(asked.call.count):
            if (begun := shape.begin(index)) is not None:
                yield event(begun | extra)
        async for piece in asked.pieces():
            if piece.text:
                yield event(shape.grown(piece.index, piece.text) | extra)
            if piece.ended is not None:
                answers[piece.index] = piece.ended
                chunk = shape.ended(piece.index, reason_of(piece.ended)) | extra
                if len(answers) == asked.call.count and not includes_usage:
                    chunk |= _explained(answers)
                yield event(chunk)
        every = [answers[index] for index in sorted(answers)]
        _ended(request, every)
        if includes_usage:
            yield event(shape.last() | _explained(answers) | {"usage": usage_of(every).model_dump()})
    except Exception as error:
        told = api_error(error)
        _failed(request, told, error)
        yield event(error_body(told.status_code, str(told.detail), code=told.code, param=told.param))
    yield DONE


def _explained(answers: dict[int, Ended]) -> dict[str, object]:
    return {"pragreg": explanation(answers[0].answer).model_dump()}


def _begun(request: Request, asked: Asked) -> None:
    line_of(request).version = asked.version.reference
    line_of(request).prompt_tokens = asked.prompt_tokens
    service_of(request).metrics.prompted(asked.prompt_tokens)


def _ended(request: Request, answers: list[Ended]) -> None:
    service: Service = service_of(request)
    line = line_of(request)
    line.answer_tokens = sum(len(each.generated.tokens) for each in answers)
    line.milliseconds = {"queue": answers[0].generated.waiting_ms, **answers[0].answer.milliseconds}
    line.milliseconds["first_token"] = answers[0].generated.first_token_ms
    if service.journal.keeps_questions:
        line.question, line.answer = answers[0].answer.question, answers[0].text
    for each in answers:
        service.metrics.answered(each.answer, each.generated)
        service.journal.answered(each.answer)


def _failed(request: Request, told: ApiError, error: Exception) -> None:
    line_of(request).error = told.code or type(error).__name__
    if is_trouble(error, told):
        service_of(request).journal.trouble(line_of(request).request_id, error)
