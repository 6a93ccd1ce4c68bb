"""What a server is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True)
class ServeSettings:
    """How to serve; see ``pragreg serve --help``.

    ``corpora`` says whose base models are loaded, those of all corpora where it is empty. ``rows`` answers are computed
    at once, and ``queue`` more may wait. ``context`` bounds prompt and answer together, in tokens; ``max_tokens`` the
    answer. ``timeout_seconds`` is for a whole request, ``drain_seconds`` for what runs when the server is told to
    stop. ``cache_bytes`` bounds the adapters that are kept on the device, and as many again in memory.
    """

    corpora: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    rows: int = 16
    queue: int = 256
    max_tokens: int = 1024
    context: int = 4096
    timeout_seconds: float = 300.0
    drain_seconds: float = 30.0
    max_request_bytes: int = MIB // 4
    cache_bytes: int = 512 * MIB
    device: str = "auto"
    dtype: str = "auto"
    insecure: bool = False
    log_questions: bool = False
