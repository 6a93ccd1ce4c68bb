"""Requests that schemathesis makes up from the server's own description: each gets an answer that is described.

All its checks are on: no status, header or body that is not described, nothing accepted that the description refuses
and nothing refused that it accepts, no path without a key that needs one.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2

from tests.serving.conftest import Guarded, ask

BEYOND_SCHEMAS = """
[[operations]]
include-path-regex = "^/(v1/(chat/)?completions|search)$"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400"]
"""
"""What no schema can say is refused with 400: that the last message must be the user's, how a merge is written, and
that prompt and answer must fit the model."""


def requests_made(folder: Path, guarded: Guarded, description: str, *options: str) -> int:
    """Let schemathesis ask the server; return how many requests it made. All must have passed."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", description, "--url", guarded.url, "--checks", "all"]
    key = ("--header", f"Authorization: Bearer {guarded.key}")
    fixed = ("--seed", "7", "--generation-database", "none", "--no-color", "--continue-on-failure")
    ran = subprocess.run([*command, *key, *fixed, *options], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = re.search(r"(\d+) generated, (\d+) passed", ran.stdout)
    assert found is not None, ran.stdout
    assert found[1] == found[2]
    return int(found[1])


def with_real_names(description: dict[str, Any], models: list[str], documents: list[str]) -> dict[str, Any]:
    """Return the description with the models and documents that there are, so that more than 404 comes back."""
    schemas = description["components"]["schemas"]
    for name in ("ChatRequest", "CompletionRequest", "SearchRequest"):
        schemas[name]["properties"]["model"] = {"type": "string", "enum": models}
    for path, real in (("/v1/models/{name}", models), ("/documents/{digest}", documents)):
        (parameter,) = description["paths"][path]["get"]["parameters"]
        parameter["schema"] = {"type": "string", "enum": real}
    return description


def test_whatever_is_asked_the_answer_is_as_described(guarded: Guarded, tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {guarded.key}"}
    with httpx2.Client(base_url=guarded.url, headers=headers, timeout=60) as client:
        models = [model["id"] for model in client.get("/v1/models").json()["data"]][:2]
        hits = ask(client, "What does the bell of Varn have to do with?").json()["pragreg"]["hits"]
        description = with_real_names(
            client.get("/openapi.json").json(), [*models, f"{models[0]}+rag"], [hit["digest"] for hit in hits]
        )
    (tmp_path / "schemathesis.toml").write_text(BEYOND_SCHEMAS, encoding="utf-8")
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(description), encoding="utf-8")
    assert requests_made(tmp_path, guarded, str(file), "--phases", "coverage,stateful", "--max-examples", "4") > 500


def test_the_description_itself_is_what_the_server_says(guarded: Guarded, tmp_path: Path) -> None:
    found = requests_made(
        tmp_path, guarded, f"{guarded.url}/openapi.json", "--phases", "fuzzing", "--max-examples", "5"
    )
    assert found >= 30
