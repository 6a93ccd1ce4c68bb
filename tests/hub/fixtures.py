"""The stand-in for the Hugging Face Hub, one process for all tests of a worker, and empty for each of them.

A pytest plugin: every test may ask for these fixtures.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.server import HubServer


@pytest.fixture(scope="session")
def hub_process() -> Iterator[HubServer]:
    """The server process."""
    with HubServer() as server:
        yield server


@pytest.fixture
def hub(hub_process: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub without repositories, which the environment names: ``HF_ENDPOINT``, a token, an empty ``HF_HOME``.

    Processes that a test starts inherit that. In this process the client may be imported already, with constants of
    its own, so code under test is given the endpoint, or reads ``HF_ENDPOINT`` when it is called.
    """
    for name, value in hub_process.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    hub_process.reset()
    yield hub_process
    hub_process.clear_faults()  # whoever still waits for an answer that hangs is let go
