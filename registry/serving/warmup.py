"""A first question to every model before the server says that it is ready.

What is compiled, packed or allocated at the first use is so by then, and what cannot work at all is said at the start.
"""

from __future__ import annotations

import queue
from contextlib import suppress
from dataclasses import replace

from registry.catalog.listing import list_documents
from registry.errors import PragregError
from registry.generation.requests import Generated
from registry.pipeline.query import Asking
from registry.records import Match, Mode
from registry.serving.models import OpenVersion
from registry.serving.service import Service

_QUESTION = "What is this?"
_MOST_ROWS = 64


def warm_up(service: Service) -> None:
    """Ask the current version of every corpus, with an adapter and without.

    Raises:
        PragregError: the bare model cannot answer.
    """
    seen = set()
    versions = service.versions
    for corpus in versions.offered():
        if not versions.bases.serves(corpus.versions[0].base_model):
            continue
        opened = versions.acquire(corpus.versions[0].version.reference)
        try:
            if opened.lane.key not in seen:
                seen.add(opened.lane.key)
                _ask(service, opened, "closed-book", min(service.settings.rows, _MOST_ROWS))
                with suppress(PragregError):  # its adapters may lie in a repository that cannot be reached now
                    _ask(service, opened, "prag", 1)
        finally:
            versions.release(opened)


def _ask(service: Service, opened: OpenVersion, mode: Mode, rows: int) -> None:
    """Ask for so many answers at once, each a token longer than the one before: every number of rows runs once."""
    with service.versions.registry.catalog.read() as session:
        documents = [line.digest for line in list_documents(session, reference=opened.version.reference, limit=1)]
    gold = [Match(digest, 1.0) for digest in documents] if mode == "prag" else None
    prepared = opened.asker.prepare(_QUESTION, Asking(mode=mode, k=1, max_new_tokens=2, log=False), gold=gold)
    answered: queue.SimpleQueue[Generated | Exception] = queue.SimpleQueue()
    longest = service.settings.context - len(prepared.request.ids)
    for row in range(rows):
        request = replace(prepared.request, max_new_tokens=max(min(row + 2, longest), 1))
        service.engine.submit(opened.lane, request, None, answered.put)
    for _ in range(rows):
        outcome = answered.get()
        if isinstance(outcome, Exception):
            raise outcome
