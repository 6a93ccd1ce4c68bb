"""The official openai client against a real server, as anybody has it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from registry.catalog.aliases import set_alias
from registry.catalog.engine import open_catalog
from registry.catalog.references import resolve
from registry.pipeline.retrievals import retrieval_name
from registry.settings import Home
from tests.pipeline.conftest import TEXTS
from tests.serving.conftest import Guarded, Served

QUESTION = "What does the bell of Varn have to do with?"
OTHERS = [f"What is said of {title.lower()}?" for title, _ in TEXTS.values()]

LONG = 200


def messages(question: str = QUESTION) -> Any:
    return [{"role": "user", "content": question}]


@pytest.fixture
def client(served: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=served.openai_url, api_key="not needed", max_retries=0) as client:
        yield client


def extra(answer: ChatCompletion | ChatCompletionChunk) -> dict[str, Any]:
    """Return the field that OpenAI does not have."""
    assert answer.model_extra is not None
    return dict(answer.model_extra["pragreg"])


def test_models_are_corpora_aliases_and_versions(client: OpenAI) -> None:
    found = {model.id: model for model in client.models.list()}
    assert {"default", "default@latest", "default@v1"} <= found.keys()
    one = client.models.retrieve("default@v1")
    assert one.owned_by == "pragreg"
    assert one.model_extra == found["default@v1"].model_extra


def test_an_answer_explains_itself(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="default", messages=messages(), max_tokens=8)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    told = extra(answer)
    assert told["version"] == "default@v1"
    assert told["mode"] == "prag"
    assert told["hits"][0]["title"] == "The Bell"
    assert told["retrieval"] == retrieval_name("default@v1", [hit["digest"] for hit in told["hits"]])


def test_a_stream_says_the_same_in_pieces(client: OpenAI) -> None:
    # What a reader has not taken yet is joined, so a few tokens may come in one piece.
    # Text that a reader has not taken yet is joined: a few tokens may come in one piece.
    whole = client.chat.completions.create(model="default", messages=messages(), max_tokens=LONG)
    stream = client.chat.completions.create(
        model="default", messages=messages(), max_tokens=LONG, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert sum(map(bool, pieces)) > 1
    assert chunks[-1].usage == whole.usage
    assert extra(chunks[-1])["hits"] == extra(whole)["hits"]
    assert len({chunk.id for chunk in chunks}) == 1
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == whole.choices[0].finish_reason
    assert set(reasons[:-1]) == {None}


def test_the_async_client_asks_many_at_once(served: Served, client: OpenAI) -> None:
    alone = [
        client.chat.completions.create(model="default", messages=messages(question), max_tokens=8).choices[0].message
        for question in OTHERS
    ]

    async def ask(client: AsyncOpenAI, question: str, *, streamed: bool) -> str:
        if not streamed:
            answer = await client.chat.completions.create(model="default", messages=messages(question), max_tokens=8)
            return answer.choices[0].message.content or ""
        stream = await client.chat.completions.create(
            model="default", messages=messages(question), max_tokens=8, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    async def ask_all() -> list[str]:
        async with AsyncOpenAI(base_url=served.openai_url, api_key="not needed", max_retries=0) as client:
            asked = [ask(client, question, streamed=streamed) for question in OTHERS for streamed in (False, True)]
            return await asyncio.gather(*asked)

    together = asyncio.run(ask_all())
    assert together == [message.content for message in alone for _ in range(2)]
    assert len(set(together)) > 1


def test_a_text_is_gone_on_with(client: OpenAI) -> None:
    whole = client.completions.create(model="default", prompt="The bell of Varn was", max_tokens=6, n=2)
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert whole.choices[0].text == whole.choices[1].text  # nothing is drawn at a temperature of 0
    stream = client.completions.create(model="default", prompt="The bell of Varn was", max_tokens=6, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == whole.choices[0].text


def test_parameters_have_their_meaning(client: OpenAI) -> None:
    def text(**more: Any) -> str:
        answer = client.chat.completions.create(model="default", messages=messages(), **({"max_tokens": 12} | more))
        return answer.choices[0].message.content or ""

    drawn = [text(temperature=2.0, seed=seed, max_tokens=24) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    plain = text()
    assert text(max_completion_tokens=12, max_tokens=None, user="me", top_p=0.5) == plain
    stop = plain[2:4]
    assert text(stop=stop) == plain[: plain.index(stop)].strip()


def test_the_extra_field_of_a_request_chooses_mode_and_hits(client: OpenAI) -> None:
    asked = {"messages": messages(), "max_tokens": 4}
    one = client.chat.completions.create(model="default", **asked, extra_body={"pragreg": {"k": 1, "mode": "rag"}})
    assert extra(one)["mode"] == "rag"
    (hit,) = extra(one)["hits"]
    assert hit["weight"] is None
    named = client.chat.completions.create(model="default@v1+combined", **asked)
    plain = client.chat.completions.create(model="default", **asked)
    assert extra(named)["mode"] == "combined"
    assert named.usage is not None
    assert plain.usage is not None
    assert named.usage.prompt_tokens > plain.usage.prompt_tokens


@pytest.mark.parametrize(
    ("changed", "kind", "status", "param"),
    [
        ({"model": "nothing"}, openai.NotFoundError, 404, "model"),
        ({"model": "default@v9"}, openai.NotFoundError, 404, "model"),
        ({"max_tokens": 0}, openai.BadRequestError, 400, "max_tokens"),
        ({"max_tokens": 10**9}, openai.BadRequestError, 400, "max_tokens"),
        ({"temperature": -1}, openai.BadRequestError, 400, "temperature"),
        ({"messages": []}, openai.BadRequestError, 400, "messages"),
        ({"messages": messages("word " * 2000)}, openai.BadRequestError, 400, None),
        ({"tools": [{"type": "function", "function": {"name": "now"}}]}, openai.BadRequestError, 400, "tools"),
        ({"logprobs": True}, openai.BadRequestError, 400, "logprobs"),
        ({"presence_penalty": 0.5}, openai.BadRequestError, 400, "presence_penalty"),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, 400, "response_format"),
        ({"extra_body": {"colour": "blue"}}, openai.BadRequestError, 400, "colour"),
        ({"extra_body": {"pragreg": {"merge": "sideways"}}}, openai.BadRequestError, 400, "pragreg.merge"),
    ],
)
def test_what_cannot_be_is_the_clients_own_exception(
    client: OpenAI, changed: dict[str, Any], kind: type[openai.APIStatusError], status: int, param: str | None
) -> None:
    asked = {"model": "default", "messages": messages(), "max_tokens": 4} | changed
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**asked)
    assert caught.value.status_code == status
    assert caught.value.message
    if param is not None:
        assert str(caught.value.param).startswith(param)


def test_a_wrong_key_and_a_key_for_something_else(guarded: Guarded) -> None:
    for key, kind in (
        ("pragreg-" + "A" * 43, openai.AuthenticationError),
        (guarded.search_key, openai.PermissionDeniedError),
    ):
        with OpenAI(base_url=guarded.openai_url, api_key=key, max_retries=0) as client, pytest.raises(kind) as caught:
            client.chat.completions.create(model="default", messages=messages(), max_tokens=4)
        assert key not in str(caught.value)
    with OpenAI(base_url=guarded.openai_url, api_key=guarded.key) as client:
        assert client.chat.completions.create(model="default", messages=messages(), max_tokens=4).choices


def test_a_full_queue_is_told_and_waited_for(guarded: Guarded) -> None:
    with OpenAI(base_url=guarded.openai_url, api_key=guarded.key, max_retries=0) as client:
        # It takes all places: rows and queue together.
        long = client.chat.completions.create(
            model="default", messages=messages(), max_tokens=guarded.longest, n=guarded.places, stream=True
        )
        next(iter(long))
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="default", messages=messages(), max_tokens=4)
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
        patient = client.with_options(max_retries=9)
        assert patient.chat.completions.create(model="default", messages=messages(), max_tokens=4).choices
        long.close()


def test_an_alias_moves_between_two_requests_of_one_client(guarded: Guarded, guarded_home: Home) -> None:
    with (
        open_catalog(guarded_home.catalog_url) as catalog,
        OpenAI(base_url=guarded.openai_url, api_key=guarded.key, max_retries=0) as client,
    ):
        seen = []
        for version in ("default@v1", "default@v2", "default@v1"):
            with catalog.write() as session:
                set_alias(session, resolve(session, version), "moving")
            answer = client.chat.completions.create(model="default@moving", messages=messages(), max_tokens=8)
            direct = client.chat.completions.create(model=version, messages=messages(), max_tokens=8)
            assert answer.choices[0].message == direct.choices[0].message
            seen.append(extra(answer)["version"])
    assert seen == ["default@v1", "default@v2", "default@v1"]
