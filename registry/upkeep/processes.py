"""Whether a process that was recorded somewhere is still there."""

from __future__ import annotations

import socket
from datetime import datetime

import psutil

CLOCK_SECONDS = 5.0
"""How much the start of a process and the clock may differ."""


def is_alive(host: str, pid: int, started_at: datetime) -> bool:
    """Return whether the process that began a build at ``started_at`` may still run; of another host it may."""
    if host != socket.gethostname():
        return True
    try:
        process = psutil.Process(pid)
        # A process that is younger than the build only has the same number: numbers are used again.
        is_older = process.create_time() <= started_at.timestamp() + CLOCK_SECONDS
        return is_older and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
