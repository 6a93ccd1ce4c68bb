"""What a benchmark ran on; every one of them prints this first."""

from __future__ import annotations

import os
import platform
import sqlite3
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

PACKAGES = ("torch", "transformers", "peft", "safetensors", "tantivy", "sqlalchemy")


def header(*packages: str) -> str:
    """Return lines of Markdown: processor, cores, memory, system and the versions of libraries."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory().total / 2**30
    versions = [f"Python {platform.python_version()}", f"SQLite {sqlite3.sqlite_version}"]
    versions += [f"{name} {found}" for name in (*PACKAGES, *packages) if (found := installed(name))]
    cores = f"{usable} of {os.cpu_count()} logical cores"
    busy = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    return "\n".join(
        [
            f"- {datetime.now(UTC):%Y-%m-%d}, {cpu_model()}, {cores}, {memory:.0f} GiB",
            f"- {platform.system()} {platform.release()}, load when started: {busy}",
            f"- {', '.join(versions)}",
        ]
    )


def cpu_model() -> str:
    """Return the processor's name as the system knows it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def installed(package: str) -> str | None:
    """Return the version of an installed package without importing it, None if it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    print(header())
