"""Base models and recipes."""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from registry.catalog.dialect import insert_new
from registry.catalog.identifiers import ids_by_digest
from registry.catalog.models import BaseModelRow, CorpusRow, RecipeRow, VersionRow, utc_now
from registry.catalog.references import current_number
from registry.errors import IntegrityError, NotFoundError
from registry.recipe import Recipe, from_canonical
from registry.records import BaseModel


def add_base_model(session: Session, base_model: BaseModel) -> None:
    """Record a base model; one that is there already is left as it is."""
    row = {
        "fingerprint": base_model.fingerprint,
        "reference": base_model.reference,
        "revision": base_model.revision,
        "architecture": base_model.architecture,
        "parameters": base_model.parameters,
        "created_at": utc_now(),
    }
    insert_new(session, BaseModelRow, [row])


def name_base_model(session: Session, base_model: BaseModel) -> None:
    """Let a base model that is in the catalog be found by this reference and revision from now on."""
    named = update(BaseModelRow).where(BaseModelRow.fingerprint == base_model.fingerprint)
    session.execute(named.values(reference=base_model.reference, revision=base_model.revision))


def get_base_model(session: Session, fingerprint: str) -> BaseModel:
    """Return the base model of that fingerprint.

    Raises:
        NotFoundError: it is not in the catalog.
    """
    row = session.scalar(select(BaseModelRow).where(BaseModelRow.fingerprint == fingerprint))
    if row is None:
        raise NotFoundError(f"base model {fingerprint} is not in the catalog")
    return BaseModel(
        fingerprint=row.fingerprint,
        reference=row.reference,
        revision=row.revision,
        architecture=row.architecture,
        parameters=row.parameters,
    )


def add_recipe(session: Session, recipe: Recipe) -> None:
    """Record a recipe; its base model must be there, and a recipe that is there already is left as it is.

    Raises:
        NotFoundError: the recipe's base model is not in the catalog.
    """
    base_model = session.scalar(select(BaseModelRow.id).where(BaseModelRow.fingerprint == recipe.base_model))
    if base_model is None:
        raise NotFoundError(f"the recipe's base model {recipe.base_model or '(none)'} is not in the catalog")
    row = {
        "digest": recipe.digest,
        "base_model_id": base_model,
        "settings": recipe.canonical,
        "created_at": utc_now(),
    }
    insert_new(session, RecipeRow, [row])


def get_recipe(session: Session, digest: str) -> Recipe:
    """Return the recipe of that digest.

    Raises:
        NotFoundError: it is not in the catalog.
        IntegrityError: what the catalog holds does not have that digest.
    """
    settings = session.scalar(select(RecipeRow.settings).where(RecipeRow.digest == digest))
    if settings is None:
        raise NotFoundError(f"recipe {digest} is not in the catalog")
    recipe = from_canonical(settings)
    if recipe.digest != digest:
        raise IntegrityError(f"recipe {digest} was altered in the catalog: its settings have digest {recipe.digest}")
    return recipe


def recipe_of_corpus(session: Session, corpus: str) -> Recipe | None:
    """Return the recipe of the version that a corpus' ``latest`` names (or its newest), None if it has no version."""
    digest = session.scalar(
        select(RecipeRow.digest)
        .join(VersionRow, VersionRow.recipe_id == RecipeRow.id)
        .join(CorpusRow, CorpusRow.id == VersionRow.corpus_id)
        .where(CorpusRow.name == corpus, VersionRow.number == current_number(CorpusRow.id))
    )
    return None if digest is None else get_recipe(session, digest)


def recipe_id(session: Session, digest: str) -> int:
    """Return the row id of a recipe.

    Raises:
        NotFoundError: it is not in the catalog.
    """
    found = ids_by_digest(session, RecipeRow, [digest])
    if not found:
        raise NotFoundError(f"recipe {digest} is not in the catalog")
    return found[digest]
