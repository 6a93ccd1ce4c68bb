"""How fast adapters were trained here, as their own rows say."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.catalog.models import AdapterRow, BuildRow, RecipeRow

FEWEST_ADAPTERS = 16
"""A build that trained fewer says little: its first group pays for setting up."""


def measured_speed(session: Session, recipe_digest: str, *, device: str, host: str) -> float | None:
    """Return the tokens a second that one worker trained in the newest build of a recipe on a host's ``device``.

    None if no build there trained as many as ``FEWEST_ADAPTERS`` adapters.
    """
    query = (
        select(func.sum(AdapterRow.tokens), func.sum(AdapterRow.elapsed_seconds))
        .join(BuildRow, BuildRow.id == AdapterRow.build_id)
        .join(RecipeRow, RecipeRow.id == AdapterRow.recipe_id)
        .where(RecipeRow.digest == recipe_digest, AdapterRow.device == device, BuildRow.host == host)
        .group_by(AdapterRow.build_id)
        .having(func.count() >= FEWEST_ADAPTERS)
        .order_by(AdapterRow.build_id.desc())
        .limit(1)
    )
    row = session.execute(query).one_or_none()
    if row is None or not row[1]:
        return None
    return float(row[0]) / float(row[1])
