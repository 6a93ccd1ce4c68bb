"""A `pragreg serve` process under `benchmarks.serve`: started as a user does, watched, and ended."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

START_SECONDS = 300
SAMPLE_SECONDS = 0.5
CONNECT_SECONDS = 1.5


@dataclass(frozen=True)
class Sample:
    """What the process held at a moment; memory in bytes."""

    at: float
    rss: int
    files: int
    threads: int


class Server:
    """The process and its log, a file."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self._process, self.port, self._log = process, port, log
        self._watched = psutil.Process(process.pid)
        self.url = f"http://127.0.0.1:{port}"
        self.samples: list[Sample] = []
        self.start_seconds = 0.0

    def wait_until_ready(self) -> None:
        """Wait for the first 200 of /health."""
        started = time.perf_counter()
        while time.perf_counter() - started < START_SECONDS:
            if self._process.poll() is not None:
                raise SystemExit(f"pragreg serve ended with {self._process.returncode}\n{self.log()[-3000:]}")
            try:
                status, _ = self.get("/health")
            except (OSError, http.client.HTTPException):
                status = 0
            if status == 200:
                self.start_seconds = time.perf_counter() - started
                return
            time.sleep(0.05)
        raise SystemExit(f"pragreg serve is not ready after {START_SECONDS} s\n{self.log()[-3000:]}")

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a GET on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """Return the values of /metrics by name and labels."""
        lines = re.findall(r"^([a-zA-Z_:][^ ]*(?:\{[^}]*\})?) (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        return {name: float(value) for name, value in lines}

    def log(self) -> str:
        """Return what the process has printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    async def watch(self, seconds: float) -> None:
        """Sample for so long, once the clients have connected."""
        until = time.perf_counter() + seconds
        await asyncio.sleep(CONNECT_SECONDS)
        while time.perf_counter() < until:
            self.samples.append(self.sample())
            await asyncio.sleep(SAMPLE_SECONDS)

    def sample(self) -> Sample:
        """Return what the process holds now."""
        with self._watched.oneshot():
            return Sample(
                time.perf_counter(),
                self._watched.memory_info().rss,
                self._watched.num_fds(),
                self._watched.num_threads(),
            )

    def end(self) -> tuple[int, float]:
        """Ask the process to end (SIGTERM); return its exit status, and the seconds that it took."""
        started = time.perf_counter()
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(120)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        return status, time.perf_counter() - started


@contextmanager
def serving(home: Path, log: Path, *options: str) -> Iterator[Server]:
    """Serve a home on a free port for the time of a block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "cli.main", "serve", "--port", str(port), *options]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env={**os.environ, "PRAGREG_HOME": str(home)}, stdout=file, stderr=subprocess.STDOUT
        )
    server = Server(process, port, log)
    try:
        server.wait_until_ready()
        yield server
    finally:
        if process.poll() is None:
            server.end()
