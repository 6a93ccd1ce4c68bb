"""A server that is told to stop finishes what runs; told twice, it goes at once. And what it wrote down."""

from __future__ import annotations

import json
import signal
import time
from contextlib import suppress
from typing import Any

import httpx2
import pytest

from registry.catalog.engine import open_catalog
from registry.catalog.listing import QueryLine, list_queries
from registry.settings import Home
from tests.serving.conftest import Served, ask, chunks, client_of, running, stoppable

QUESTION = "Who grinds blue barley?"
SECRET = "zanzibar"
LONG: dict[str, Any] = {"n": 4, "temperature": 2, "seed": 1, "max_tokens": 200}
STREAM = {"model": "default", "messages": [{"role": "user", "content": QUESTION}], "stream": True, **LONG}


def test_it_drains_and_has_told_nothing_it_should_not(own_home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    with stoppable(own_home, rows=1) as (url, stop), client_of(url) as client:
        asked = ask(client, f"{QUESTION} {SECRET}", max_tokens=4).json()
        assert ask(client, QUESTION, "nowhere").status_code == 404
        assert client.post("/v1/chat/completions", json={"model": SECRET, "prompt": SECRET}).status_code == 400
        with client.stream("POST", "/v1/chat/completions", json=STREAM) as stream:
            lines = stream.iter_lines()
            begun = next(lines)
            stop()
            health = client.get("/health")
            assert (health.status_code, health.json()["status"]) == (503, "draining")
            refused = ask(client, QUESTION)
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "stopping"
            found = chunks([begun, *lines])
        assert "pragreg" in found[-1]
    written = capfd.readouterr().err
    records = [json.loads(line) for line in written.splitlines()]
    (line,) = [each for each in records if each.get("answer_tokens") == asked["usage"]["completion_tokens"]]
    assert line["status"] == 200
    assert line["prompt_tokens"] == asked["usage"]["prompt_tokens"]
    assert (line["model"], line["version"], line["mode"]) == ("default", "default@v1", "prag")
    assert {"queue", "search", "prefill", "decode", "first_token", "total"} <= set(line["milliseconds"])
    assert [each["model"] for each in records if each.get("error") == "model_not_found"] == ["nowhere"]
    assert SECRET not in written
    assert logged(own_home) == []


def test_questions_are_written_down_where_that_is_asked_for(own_home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    with stoppable(own_home, log_questions=True) as (url, _), client_of(url) as client:
        whole = ask(client, QUESTION, n=2, temperature=2, max_tokens=4).json()
        with client.stream("POST", "/v1/chat/completions", json=STREAM | {"n": 1, "max_tokens": 4}) as stream:
            chunks(list(stream.iter_lines()))
    answers = [choice["message"]["content"] for choice in whole["choices"]]
    kept = logged(own_home)
    assert [query.question for query in kept] == [QUESTION] * 3
    assert [query.answer for query in kept[1:]] == answers[::-1]
    (line, _) = [each for each in map(json.loads, capfd.readouterr().err.splitlines()) if "question" in each]
    assert (line["question"], line["answer"]) == (QUESTION, answers[0])


def logged(home: Home) -> list[QueryLine]:
    with open_catalog(home.catalog_url) as catalog, catalog.read() as session:
        return list_queries(session)


def test_it_does_not_drain_for_ever(served_home: Home) -> None:
    with stoppable(served_home, rows=1, drain_seconds=0.1) as (url, stop), client_of(url) as client:
        with client.stream("POST", "/v1/chat/completions", json=STREAM | {"n": 8}) as stream:
            lines = stream.iter_lines()
            begun = next(lines)
            stop()
            found = chunks([begun, *lines])
        assert found[-1]["error"]["code"] == "stopping"
        assert "stopping" in found[-1]["error"]["message"]


def test_a_second_signal_ends_it_at_once(served_home: Home) -> None:
    with (
        running(served_home, "--batch-size", "1", "--drain", "60") as served,
        client_of(served.url) as client,
        client.stream("POST", "/v1/chat/completions", json=STREAM | {"n": 8}) as stream,
        suppress(httpx2.HTTPError),
    ):
        check_start(served)
        lines = stream.iter_lines()
        next(lines)
        served.process.send_signal(signal.SIGTERM)
        served.wait_for(lambda: client.get("/health").status_code == 503)
        started = time.monotonic()
        assert served.stop(signal.SIGTERM) == -signal.SIGTERM
        assert time.monotonic() - started < 5
        list(lines)


def check_start(served: Served) -> None:
    """Check what a person reads when the server starts."""
    serving, address, curl = [line for line in served.lines if not line.startswith("{")][:3]
    assert serving == "serving default, default@latest, default@v1"
    assert address == f"at {served.url} (no key is needed); Ctrl-C stops"
    assert curl.startswith(f"try: curl {served.url}/v1/chat/completions")
