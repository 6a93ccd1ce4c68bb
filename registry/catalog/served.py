"""What a server offers: the corpora with their newest versions and aliases."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from registry.catalog.aliases import aliases
from registry.catalog.models import BaseModelRow, CorpusRow, RecipeRow, VersionRow
from registry.catalog.references import versions_query
from registry.records import Version


@dataclass(frozen=True, slots=True)
class OfferedVersion:
    """A version that can be queried, and the fingerprint of its recipe's base model."""

    version: Version
    base_model: str


@dataclass(frozen=True, slots=True)
class OfferedCorpus:
    """A corpus with versions that can be queried, newest first, and its aliases with the numbers that they name."""

    name: str
    versions: tuple[OfferedVersion, ...]
    aliases: dict[str, int]


def offered_corpora(session: Session, most_versions: int) -> list[OfferedCorpus]:
    """Return the corpora by name, each with its newest versions and those that aliases name; collected ones are none.

    A corpus of which no version can be queried is left out.
    """
    found = []
    for number, name in session.execute(select(CorpusRow.id, CorpusRow.name).order_by(CorpusRow.name)).all():
        named = aliases(session, name)
        newest = (
            select(VersionRow.number)
            .where(VersionRow.corpus_id == number, VersionRow.collected_at.is_(None))
            .order_by(VersionRow.number.desc())
            .limit(most_versions)
        )
        query = (
            versions_query()
            .add_columns(BaseModelRow.fingerprint)
            .join(BaseModelRow, BaseModelRow.id == RecipeRow.base_model_id)
            .where(
                VersionRow.corpus_id == number,
                VersionRow.collected_at.is_(None),
                or_(VersionRow.number.in_(newest), VersionRow.number.in_(named.values())),
            )
            .order_by(VersionRow.number.desc())
        )
        rows = [(Version(*fields), fingerprint) for *fields, fingerprint in session.execute(query)]
        if rows:
            found.append(OfferedCorpus(name, tuple(OfferedVersion(*row) for row in rows), named))
    return found
