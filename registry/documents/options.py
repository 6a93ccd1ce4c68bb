"""How sources are read."""

from __future__ import annotations

from dataclasses import dataclass

from registry.errors import UsageError


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How sources are read and cut; all text is UTF-8.

    ``words`` is the length of a passage to aim at. ``title_field``, ``text_field`` and ``id_field`` name the fields
    of records; None takes the first of the usual names that a record has. ``language`` (ISO 639-1) says where
    sentences end.
    """

    words: int = 100
    title_field: str | None = None
    text_field: str | None = None
    id_field: str | None = None
    language: str = "en"

    def __post_init__(self) -> None:
        """Refuse passages without words."""
        if self.words < 1:
            raise UsageError(f"passages must have at least 1 word, not {self.words}", hint="set --words, such as 100")
