"""Whether the process that holds a corpus still runs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

from registry.upkeep.processes import is_alive

HERE = socket.gethostname()


def test_a_running_process_is_alive() -> None:
    assert is_alive(HERE, os.getpid(), datetime.now(UTC))


def test_a_process_that_is_younger_than_the_build_is_another_one() -> None:
    assert not is_alive(HERE, os.getpid(), datetime.now(UTC) - timedelta(days=400))


def test_a_process_that_ended_is_dead_even_if_nobody_asked_how() -> None:
    started_at = datetime.now(UTC)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdin is not None
    assert is_alive(HERE, child.pid, started_at)
    child.stdin.close()
    deadline = time.monotonic() + 20
    while is_alive(HERE, child.pid, started_at) and time.monotonic() < deadline:  # a zombie until it is waited for
        time.sleep(0.02)
    assert not is_alive(HERE, child.pid, started_at)
    child.wait()
    assert not is_alive(HERE, child.pid, started_at)


def test_of_another_host_nothing_is_known() -> None:
    assert is_alive("another.example", 2**22 - 3, datetime.now(UTC) - timedelta(days=400))
