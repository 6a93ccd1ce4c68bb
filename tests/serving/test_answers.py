"""Answers over HTTP: the same as the command line's, whole or in pieces, and what they came from."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from registry.pipeline.query import Asking, open_asker
from registry.records import MODES, Answer, Mode
from registry.settings import Home
from tests.serving.conftest import Served, ask, chunks

QUESTION = "Who grinds blue barley?"


@pytest.fixture(scope="module")
def expected(served_home: Home) -> dict[Mode, Answer]:
    """What the pipeline answers to ``QUESTION``, by mode."""
    with open_asker(served_home, "default", device="cpu") as asker:
        return {
            mode: next(iter(asker.ask([QUESTION], Asking(mode=mode, max_new_tokens=8, log=False)))) for mode in MODES
        }


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_is_the_command_lines(http: httpx2.Client, expected: dict[Mode, Answer], mode: Mode) -> None:
    answer, body = expected[mode], ask(http, QUESTION, f"default+{mode}").json()
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": answer.answer, "refusal": None}
    assert choice["finish_reason"] == ("length" if answer.answer_tokens == 8 else "stop")
    assert body["usage"] == {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.answer_tokens,
        "total_tokens": answer.prompt_tokens + answer.answer_tokens,
    }
    extra = body["pragreg"]
    assert (extra["version"], extra["version_digest"]) == (answer.version, answer.version_digest)
    assert (extra["recipe_digest"], extra["base_model"]) == (answer.recipe_digest, answer.base_model)
    assert extra["mode"] == mode
    assert [hit["digest"] for hit in extra["hits"]] == [hit.document.digest for hit in answer.hits]
    assert [hit["adapter_digest"] for hit in extra["hits"]] == [hit.adapter_digest for hit in answer.hits]
    assert [hit["weight"] for hit in extra["hits"]] == list(answer.weights or [None] * len(answer.hits))
    assert set(extra["milliseconds"]) >= {"prefill", "decode"} | ({"search"} if answer.hits else set())


def test_the_modes_answer_differently(expected: dict[Mode, Answer]) -> None:
    assert len({expected[mode].answer for mode in ("prag", "rag", "closed-book")}) > 1


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_is_the_answer_in_pieces(http: httpx2.Client, usage: bool) -> None:
    whole = ask(http, QUESTION, max_tokens=200).json()
    body = {
        "model": "default",
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 200,
        "stream": True,
        "stream_options": {"include_usage": usage},
    }
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        found = chunks(list(response.iter_lines()))
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    pieces = [choice["delta"].get("content", "") for chunk in found for choice in chunk["choices"]]
    assert "".join(pieces) == whole["choices"][0]["message"]["content"]
    assert len([piece for piece in pieces if piece]) > 1
    reasons = [choice["finish_reason"] for chunk in found for choice in chunk["choices"]]
    assert [each for each in reasons if each] == [whole["choices"][0]["finish_reason"]]
    assert len({chunk["id"] for chunk in found}) == 1
    # What an answer came from is in the last chunk, and only there.
    assert ["pragreg" in chunk for chunk in found] == [False] * (len(found) - 1) + [True]
    assert found[-1]["pragreg"]["hits"] == whole["pragreg"]["hits"]
    if usage:
        assert found[-1]["usage"] == whole["usage"]
        assert found[-1]["choices"] == []
        assert all(chunk["usage"] is None for chunk in found[:-1])


def test_several_answers_are_drawn_each_on_its_own(http: httpx2.Client) -> None:
    def drawn(**more: Any) -> list[str]:
        body = ask(http, QUESTION, n=4, temperature=2, seed=7, max_tokens=16, **more).json()
        assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
        assert body["usage"]["completion_tokens"] > 16
        return [choice["message"]["content"] for choice in body["choices"]]

    first = drawn()
    assert len(set(first)) == 4
    assert drawn() == first
    (alone,) = ask(http, QUESTION, temperature=2, seed=7, max_tokens=16).json()["choices"]
    assert alone["message"]["content"] == first[0]


def test_several_answers_come_in_one_stream(http: httpx2.Client) -> None:
    whole = ask(http, QUESTION, n=2, temperature=2, seed=7, max_tokens=16).json()["choices"]
    body = {"model": "default", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 16}
    with http.stream(
        "POST", "/v1/chat/completions", json={**body, "n": 2, "temperature": 2, "seed": 7, "stream": True}
    ) as response:
        found = chunks(list(response.iter_lines()))
    texts = ["", ""]
    for chunk in found:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == [choice["message"]["content"] for choice in whole]
    assert "pragreg" in found[-1]


def test_a_conversation_is_more_than_its_question(http: httpx2.Client) -> None:
    def asked(*before: dict[str, Any], question: Any = QUESTION) -> dict[str, Any]:
        body = {"model": "default", "messages": [*before, {"role": "user", "content": question}], "max_tokens": 8}
        response = http.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    alone = asked()
    again = asked({"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Yes?", "refusal": None})
    told = asked({"role": "system", "content": "Be brief."})
    assert again["usage"]["prompt_tokens"] > alone["usage"]["prompt_tokens"]
    assert told["usage"]["prompt_tokens"] != alone["usage"]["prompt_tokens"]
    # Documents are found by the question alone.
    assert again["pragreg"]["hits"] == alone["pragreg"]["hits"]
    parts = asked(question=[{"type": "text", "text": QUESTION}])
    assert parts["choices"] == alone["choices"]


def test_a_stop_string_ends_an_answer_before_it(http: httpx2.Client) -> None:
    text = ask(http, QUESTION, max_tokens=24).json()["choices"][0]["message"]["content"]
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    (choice,) = ask(http, QUESTION, max_tokens=24, stop=[stop]).json()["choices"]
    assert choice["message"]["content"] == text[: text.index(stop)].rstrip()
    assert choice["finish_reason"] == "stop"


def test_a_text_is_gone_on_with(http: httpx2.Client) -> None:
    body = {"model": "default", "prompt": "The mill on the Osk grinds", "max_tokens": 12}
    whole = http.post("/v1/completions", json=body).json()
    assert whole["object"] == "text_completion"
    assert whole["pragreg"]["hits"][0]["title"] == "The Mill"
    with http.stream("POST", "/v1/completions", json={**body, "prompt": [body["prompt"]], "stream": True}) as response:
        found = chunks(list(response.iter_lines()))
    assert "".join(chunk["choices"][0]["text"] for chunk in found) == whole["choices"][0]["text"]
    chatted = ask(http, str(body["prompt"]), max_tokens=12).json()
    assert chatted["usage"]["prompt_tokens"] > whole["usage"]["prompt_tokens"]


def test_documents_are_found_and_shown(http: httpx2.Client, expected: dict[Mode, Answer]) -> None:
    found = http.post("/search", json={"model": "default@v1", "question": QUESTION, "k": 1}).json()
    (hit,) = found["hits"]
    document = expected["prag"].hits[0].document
    assert (hit["digest"], hit["title"], hit["text"]) == (document.digest, document.title, document.text)
    shown = http.get(f"/documents/{hit['digest']}").json()
    assert (shown["title"], shown["text"], shown["withheld"]) == (document.title, document.text, False)
    (place,) = shown["places"]
    assert place["corpus"] == "default"
    assert place["source_uri"].endswith("documents.jsonl#L2")
    nothing = http.post("/search", json={"model": "default", "question": "xyzzy", "remember": True}).json()
    assert (nothing["hits"], nothing["retrieval"]) == ([], None)


def test_a_request_has_a_number_in_its_answer_and_the_log(served: Served, http: httpx2.Client) -> None:
    response = http.get("/v1/models", headers={"X-Request-Id": "mine-17"})
    assert response.headers["x-request-id"] == "mine-17"
    assert response.headers["x-content-type-options"] == "nosniff"
    served.wait_for(lambda: served.records(request_id="mine-17", path="/v1/models", status=200))
    odd = http.get("/v1/models", headers={"X-Request-Id": "a b\tc"}).headers["x-request-id"]
    assert len(odd) == 32
