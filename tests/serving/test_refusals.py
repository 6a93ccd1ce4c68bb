"""What is wrong is answered by 4xx in OpenAI's form, which names the parameter; nothing is passed over silently."""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from typing import Any

import httpx2
import pytest

from tests.serving.conftest import Served, ask

BODY: dict[str, Any] = {"model": "default", "messages": [{"role": "user", "content": "Which bell?"}]}
JSON = {"content-type": "application/json"}


def refused(response: httpx2.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": -1}, "frequency_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"modalities": ["audio"]}, "modalities[0]"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"n": 2.5}, "n"),
        ({"n": "2"}, "n"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": 0.5}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1 << 70}, "max_tokens"),
        ({"max_completion_tokens": 1025}, "max_tokens"),
        ({"stop": ""}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": "a\0b"}, "stop"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"other": 1}}, "stream_options.other"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"x" * 5000: 1}, "x" * 200 + "..."),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": " \n "}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a\0b"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "messages"),
        ({"pragreg": {"k": 33}}, "pragreg.k"),
        ({"pragreg": {"mode": "magic"}}, "pragreg.mode"),
        ({"pragreg": {"merge": "magic"}}, "pragreg.merge"),
        ({"model": "default+rag", "pragreg": {"mode": "prag"}}, "pragreg.mode"),
        ({"model": ["default"]}, "model"),
    ],
)
def test_a_wrong_parameter_is_named(http: httpx2.Client, change: dict[str, Any], param: str) -> None:
    response = http.post("/v1/chat/completions", content=json.dumps(BODY | change), headers=JSON)
    error = refused(response, 400)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


def test_an_image_is_refused(http: httpx2.Client) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, part]}]
    error = refused(http.post("/v1/chat/completions", json=BODY | {"messages": messages}), 400)
    assert error["param"].startswith("messages[0].content[1]")


@pytest.mark.parametrize(
    "neutral",
    [
        {"tools": None, "logprobs": False, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}},
        {"response_format": {"type": "text"}, "user": "ada", "metadata": {"a": "b"}, "n": 1, "store": False},
        {"max_completion_tokens": 2, "temperature": 0, "top_p": 1, "seed": -5, "stop": None, "stream": False},
    ],
)
def test_what_asks_for_nothing_is_taken(http: httpx2.Client, neutral: dict[str, Any]) -> None:
    body = {**BODY, "max_tokens": 2, **neutral}
    assert http.post("/v1/chat/completions", json=body).status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"nul",
        b'{"\\ud800": 1}',
        b"\xff\xfe{",
        b"\0" * 100,
        b"[" * 200_000,
        b'{"model":' * 25_000,
        b'{"model": ' + b"1" * 20_000 + b"}",
        b'{"model": "default", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        b'{"model": "default", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/search"])
def test_garbage_is_refused(http: httpx2.Client, path: str, content: bytes) -> None:
    refused(http.post(path, content=content, headers=JSON), 400)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_only_json_is_read(http: httpx2.Client, kind: str) -> None:
    content = json.dumps(BODY).encode()
    error = refused(http.post("/v1/chat/completions", content=content, headers={"content-type": kind}), 400)
    assert "application/json" in error["message"]


def test_a_body_has_a_largest_size(http: httpx2.Client) -> None:
    body = json.dumps(BODY | {"user": "x" * 2_000_000})
    assert refused(http.post("/v1/chat/completions", content=body, headers=JSON), 413)["code"] == "request_too_large"
    # Without a content-length it is noticed when so much has come.
    pieces = (body[start : start + 100_000].encode() for start in range(0, 1_100_000, 100_000))
    refused(http.post("/v1/chat/completions", content=pieces, headers=JSON), 413)


@pytest.mark.parametrize(
    "name",
    "nowhere|default@v9|default@nobody|default+|default+magic|default@|a/b|a b|default@sha256:|default@sha256:ffff|@v1"
    f"|+rag|default@\0|{'x' * 200}".split("|"),
)
def test_a_model_that_is_not_there_is_not_found(http: httpx2.Client, name: str) -> None:
    error = refused(ask(http, "Which bell?", name), 400 if "\0" in name else 404)
    if "\0" not in name:
        assert (error["param"], error["code"]) == ("model", "model_not_found")


def test_a_prompt_that_is_too_long_is_refused(http: httpx2.Client) -> None:
    error = refused(ask(http, "bell " * 2000), 400)
    assert "512" in error["message"]
    refused(ask(http, "Which bell?", max_tokens=1000), 400)


def test_a_path_or_method_that_is_not_there(http: httpx2.Client) -> None:
    refused(http.get("/v2/models"), 404)
    refused(http.get("/v1/models/"), 404)
    refused(http.get("/documents/..%2f..%2fetc"), 404)
    refused(http.get("/documents/" + "f" * 64), 404)
    refused(http.get("/documents/" + "F" * 64), 400)
    response = http.delete("/v1/models")
    refused(response, 405)
    assert response.headers["allow"] == "GET"


def test_what_is_no_http_is_answered_and_survived(served: Served, http: httpx2.Client) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    for garbage in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET /\xff\xfe HTTP/1.1\r\n\r\n", b"nonsense\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(garbage)
            assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert http.get("/health").json()["status"] == "ready"


def test_a_head_has_a_largest_size(served: Served, http: httpx2.Client) -> None:
    refused(http.get("/v1/models", headers={"x-long": "y" * 70_000}), 431)
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nx-long: ")
        received = b""
        with suppress(ConnectionError):
            for _ in range(1000):
                connection.sendall(b"y" * 10_000)
                time.sleep(0.001)
        with suppress(ConnectionError):
            received = connection.recv(1000)
    assert received.startswith(b"HTTP/1.1 400") or not received
    assert http.get("/health").status_code == 200


def test_other_names_than_this_machines_are_refused(http: httpx2.Client) -> None:
    # As when a page of evil.example has its name lead to 127.0.0.1.
    refused(http.get("/v1/models", headers={"Host": "evil.example"}), 403)
    assert http.get("/v1/models", headers={"Host": "localhost:1"}).status_code == 200
    assert http.get("/v1/models", headers={"Host": "[::1]:1"}).status_code == 200
