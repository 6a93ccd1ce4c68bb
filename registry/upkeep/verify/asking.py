"""Asking a catalog that may be damaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from registry.catalog.engine import Catalog
from registry.catalog.upkeep.checks import database_problems
from registry.errors import PragregError
from registry.upkeep.findings import Finding

T = TypeVar("T")


class Asking:
    """Asks the catalog one question a transaction, so that none stays open while packs are read.

    Where the database's own check failed, a question that cannot be answered is one more finding of it, not an end.
    """

    def __init__(self, catalog: Catalog, *, thorough: bool) -> None:
        """Let the database check itself first.

        Raises:
            StorageError: it cannot be asked at all.
        """
        self._catalog = catalog
        with catalog.read() as session:
            problems = database_problems(session, thorough=thorough)
        self.findings = [Finding("catalog-damaged", catalog.safe_url, problem) for problem in problems]

    def __call__(self, question: Callable[..., T], *arguments: object) -> T | None:
        """Return what ``question`` returns for a session and ``arguments``, None where a damaged catalog has no answer.

        Raises:
            StorageError: a catalog that is not damaged cannot be read.
        """
        try:
            with self._catalog.read() as session:
                return question(session, *arguments)
        except Exception as error:  # what a damaged file gives may be of any kind
            if not self.findings:
                raise
            reason = error.message if isinstance(error, PragregError) else f"{type(error).__name__}: {error}"
            self.findings.append(Finding("catalog-damaged", self._catalog.safe_url, " ".join(reason.split())))
            return None
