from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from registry.augmentation import AugmentationSettings, Augmenter, endpoint_augmenter
from registry.errors import AugmentationError, UsageError
from registry.records import Augmentation, Document, StagedDocument
from tests.augmentation.conftest import FakeEndpoint, Request, Response, completion, refusal

SETTINGS = AugmentationSettings(rewrites=0, pairs=1, max_attempts=2)
SECRET = "sk-very-secret-0123456789"


def towers(count: int) -> list[StagedDocument]:
    return [
        StagedDocument(Document.of(f"Tower {number}", f"Tower {number} of Harth has {100 + number} steps."))
        for number in range(count)
    ]


def pair_for(request: Request) -> dict[str, Any]:
    number = request.prompt.split("Tower ")[1].split()[0]
    return {"question": f"How many steps has Tower {number} of Harth?", "answer": f"{100 + int(number)}"}


def good(request: Request) -> Response:
    return completion(json.dumps({"rewrites": [], "qa": [pair_for(request)]}))


def augmenter(**settings: Any) -> Augmenter:
    return endpoint_augmenter(SETTINGS, **{"backoff_seconds": 0.01, **settings})


def drain(augmenter: Augmenter, documents: list[StagedDocument]) -> tuple[list[Augmentation], AugmentationError]:
    found: list[Augmentation] = []
    with pytest.raises(AugmentationError) as caught:
        found.extend(one for one in augmenter.augment(documents))
    return found, caught.value


def first_then(*responses: Response) -> Callable[[Request], Response]:
    left = list(responses)
    return lambda request: left.pop(0) if left else good(request)


def test_every_document_is_asked_about(endpoint: FakeEndpoint) -> None:
    endpoint.answer = good
    documents = towers(5)
    asking = augmenter()
    found = {one.document_digest: one for one in asking.augment(documents)}
    asking.finish()
    assert found.keys() == {staged.document.digest for staged in documents}
    for staged in documents:
        one = found[staged.document.digest]
        assert len(one.pairs) == 1
        assert one.request_digest == asking.request_digest(staged)
        assert (one.generator, one.prompts_version, one.tokens) == ("openai:scribe-1", "1", 7)
        assert one.elapsed_seconds > 0
    assert {request.authorization for request in endpoint.requests} == {f"Bearer {SECRET}"}
    assert {request.path for request in endpoint.requests} == {"/v1/chat/completions"}
    assert {request.body["model"] for request in endpoint.requests} == {"scribe-1"}


def test_rewrites_and_full_answers_are_taken(endpoint: FakeEndpoint, honey: StagedDocument) -> None:
    rewrite = (
        "Bees that feed on heather make Velka honey in the hills around Dorn. In July, eleven hundred hives are moved "
        "to the moors. Clay jars are used, since glass thickens the honey quickly. Marta Ilves got the prize in 2016."
    )
    full_answer = "In 2016 the prize of Dorn was given to Marta Ilves."
    pair = {"question": "Who was given the prize of Dorn?", "answer": "Marta Ilves", "full_answer": full_answer}
    endpoint.answer = lambda request: completion(json.dumps({"rewrites": [rewrite], "qa": [pair]}))
    [found] = endpoint_augmenter(AugmentationSettings(1, 1)).augment([honey])
    assert found.rewrites == (rewrite,)
    assert found.pairs[0].full_answer == pair["full_answer"]
    assert len(endpoint.requests) == 1


def test_at_most_so_many_are_asked_about_at_a_time(endpoint: FakeEndpoint) -> None:
    endpoint.answer = lambda request: Response(good(request).body, delay_seconds=0.05)
    assert len(list(augmenter(concurrency=3).augment(towers(9)))) == 9
    assert endpoint.most_at_once == 3


@pytest.mark.parametrize(
    "response",
    [
        refusal(429, "slow down"),
        refusal(429, "slow down", retry_after="0"),
        refusal(500, "oops"),
        Response("<html>bad gateway</html>", 502),
        Response("<html>welcome</html>", headers={"content-type": "text/html"}),
        Response("{not json"),
    ],
)
def test_a_failure_that_may_pass_is_tried_again(endpoint: FakeEndpoint, response: Response) -> None:
    endpoint.answer = first_then(response, response)
    [found] = augmenter().augment(towers(1))
    assert len(found.pairs) == 1
    assert len(endpoint.requests) == 3


def test_a_slow_answer_is_given_up_and_asked_for_again(endpoint: FakeEndpoint) -> None:
    endpoint.answer = first_then(Response("{}", delay_seconds=5))
    [found] = augmenter(timeout_seconds=0.3).augment(towers(1))
    assert len(found.pairs) == 1


@pytest.mark.parametrize(
    "content", ["I am sorry, Dave.", '{"qa": [', "", None, '{"qa": [{"question": "Why?", "answer": "42"}]}']
)
def test_a_useless_answer_is_asked_for_again_a_bounded_number_of_times(
    endpoint: FakeEndpoint, content: str | None
) -> None:
    endpoint.answer = first_then(completion(content))
    [found] = augmenter().augment(towers(1))
    assert len(found.pairs) == 1
    endpoint.requests.clear()
    endpoint.answer = lambda request: completion(content)
    [nothing] = augmenter().augment(towers(1))
    assert (nothing.pairs, nothing.tokens, len(endpoint.requests)) == ((), 14, 2)


def test_what_is_missing_is_asked_for_without_what_is_there(endpoint: FakeEndpoint, honey: StagedDocument) -> None:
    pairs = [
        {"question": "Where is Velka honey made?", "answer": "in the hills around Dorn"},
        {"question": "When are the hives moved to the moors?", "answer": "July"},
    ]
    endpoint.answer = lambda request: completion(json.dumps({"qa": [pairs[len(endpoint.requests) - 1]]}))
    [found] = endpoint_augmenter(AugmentationSettings(0, 2)).augment([honey])
    assert [pair.answer for pair in found.pairs] == ["in the hills around Dorn", "July"]
    assert "- Where is Velka honey made?" in endpoint.requests[1].prompt
    assert '"qa": 1 different' in endpoint.requests[1].prompt


def test_an_endpoint_without_json_mode_is_asked_without(endpoint: FakeEndpoint) -> None:
    def answer(request: Request) -> Response:
        if "response_format" in request.body:
            return refusal(400, "response_format is not supported")
        pair = pair_for(request)
        return completion(f"Question: {pair['question']}\nAnswer: {pair['answer']}")

    endpoint.answer = answer
    found = list(augmenter(concurrency=1).augment(towers(3)))
    assert [len(one.pairs) for one in found] == [1, 1, 1]
    assert len(endpoint.requests) == 4


def test_an_endpoint_without_json_mode_may_refuse_many_at_once(endpoint: FakeEndpoint) -> None:
    all_wait = threading.Barrier(4)

    def answer(request: Request) -> Response:
        if "response_format" in request.body:
            all_wait.wait(10)
            return refusal(400, "response_format is not supported")
        return good(request)

    endpoint.answer = answer
    found = list(augmenter(concurrency=4).augment(towers(4)))
    assert [len(one.pairs) for one in found] == [1, 1, 1, 1]
    assert len(endpoint.requests) == 8


def test_the_environment_sets_budget_and_concurrency(endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint.answer = good
    monkeypatch.setenv("OPENAI_MAX_REQUESTS", "3")
    monkeypatch.setenv("OPENAI_CONCURRENCY", "1")
    found, error = drain(augmenter(), towers(5))
    assert (len(found), len(endpoint.requests), endpoint.most_at_once) == (3, 3, 1)
    assert "OPENAI_MAX_REQUESTS" in str(error.hint)


@pytest.mark.parametrize("variable", ["OPENAI_MAX_REQUESTS", "OPENAI_CONCURRENCY"])
@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_an_environment_that_says_no_number_is_refused(
    endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=variable):
        augmenter()


@pytest.mark.parametrize("key", ["sk-ab\ncd-ef", "sk-schlüssel"])
def test_a_key_that_no_header_can_hold_is_refused_at_once(
    endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(AugmentationError, match="OPENAI_API_KEY") as caught:
        augmenter()
    assert key not in caught.value.message


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (401, None, "OPENAI_API_KEY"),
        (403, None, "may use this model"),
        (404, None, "OPENAI_MODEL"),
        (400, None, "OPENAI_BASE_URL"),
        (429, "insufficient_quota", "top up"),
    ],
)
def test_a_refusal_of_everything_ends_it(
    endpoint: FakeEndpoint, status: int, code: str | None, hint: str | None
) -> None:
    endpoint.answer = lambda request: refusal(status, f"no, not with {SECRET}", code=code)
    found, error = drain(augmenter(), towers(4))
    assert found == []
    assert f"HTTP {status}" in error.message
    assert "127.0.0.1" in error.message
    assert (hint or "") in (error.hint or "")
    assert SECRET not in error.message + (error.hint or "")
    assert error.__cause__ is None
    assert len(endpoint.requests) <= 8


def test_what_was_finished_before_a_refusal_is_kept(endpoint: FakeEndpoint) -> None:
    endpoint.answer = lambda request: good(request) if len(endpoint.requests) <= 3 else refusal(401, "key expired")
    found, error = drain(augmenter(concurrency=2), towers(6))
    assert len(found) == 3
    assert "key expired" in error.message


def test_a_refused_document_gets_nothing_and_the_others_go_on(endpoint: FakeEndpoint) -> None:
    documents = towers(4)
    endpoint.answer = lambda request: refusal(400, "content policy") if "Tower 2" in request.prompt else good(request)
    found = {one.document_digest: one for one in augmenter(concurrency=1).augment(documents)}
    assert [len(found[staged.document.digest].pairs) for staged in documents] == [1, 1, 0, 1]


def test_a_document_that_always_fails_gets_nothing_if_others_do_not(endpoint: FakeEndpoint) -> None:
    documents = towers(4)
    endpoint.answer = lambda request: refusal(500, "oops") if "Tower 1 " in request.prompt else good(request)
    found = {one.document_digest: one for one in augmenter(concurrency=1, max_retries=1).augment(documents)}
    assert [len(found[staged.document.digest].pairs) for staged in documents] == [1, 0, 1, 1]


@pytest.mark.parametrize("documents", [1, 10])
def test_an_endpoint_that_is_down_ends_it(endpoint: FakeEndpoint, documents: int) -> None:
    endpoint.answer = lambda request: refusal(503, "maintenance")
    found, error = drain(augmenter(max_retries=1, concurrency=1), towers(documents))
    assert found == []
    assert "does not answer: HTTP 503: " in error.message
    assert "maintenance" in error.message
    assert "again" in (error.hint or "")
    assert len(endpoint.requests) <= 6


def test_an_address_where_nothing_listens_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    _, error = drain(augmenter(model="m", base_url="http://127.0.0.1:9/v1", max_retries=1), towers(1))
    assert "127.0.0.1 does not answer" in error.message


def test_the_budget_of_requests_is_kept(endpoint: FakeEndpoint) -> None:
    endpoint.answer = good
    asking = augmenter(max_requests=3, concurrency=2)
    found, error = drain(asking, towers(8))
    assert len(found) == 3
    assert len(endpoint.requests) == 3
    assert "budget of 3 requests" in error.message
    again, _ = drain(asking, towers(1))
    assert again == []


def test_retries_count_against_the_budget(endpoint: FakeEndpoint) -> None:
    endpoint.answer = lambda request: refusal(500, "oops")
    _, error = drain(augmenter(max_requests=2), towers(1))
    assert "budget" in error.message
    assert len(endpoint.requests) == 2


def test_leaving_early_leaves_nothing_behind(endpoint: FakeEndpoint) -> None:
    endpoint.answer = good
    going = iter(augmenter(concurrency=2).augment(towers(8)))
    next(going)
    going.close()  # type: ignore[attr-defined]
    assert len(endpoint.requests) < 8


def test_what_is_asked_decides_the_request_but_not_the_key(
    endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch, honey: StagedDocument
) -> None:
    first = augmenter().request_digest(honey)
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    assert augmenter(concurrency=1, base_url="http://user:pass@127.0.0.1:5/v1").request_digest(honey) == first
    others = {
        augmenter(model="scribe-2").request_digest(honey),
        augmenter(base_url="http://elsewhere.example/v1").request_digest(honey),
        endpoint_augmenter(AugmentationSettings(1, 1, max_attempts=2)).request_digest(honey),
        first,
    }
    assert len(others) == 4


def test_a_model_and_a_key_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_MODEL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AugmentationError, match="no model") as caught:
        endpoint_augmenter(SETTINGS)
    assert "OPENAI_MODEL" in (caught.value.hint or "")
    with pytest.raises(AugmentationError, match="needs a key") as caught:
        endpoint_augmenter(SETTINGS, model="m")
    assert "OPENAI_API_KEY" in (caught.value.hint or "")
    endpoint_augmenter(SETTINGS, model="m", base_url="http://localhost:8000/v1")


@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": "localhost:8000"},
        {"base_url": "ftp://x/v1"},
        {"concurrency": 0},
        {"max_requests": 0},
        {"timeout_seconds": 0},
    ],
)
def test_impossible_settings_are_refused(endpoint: FakeEndpoint, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        augmenter(**settings)
