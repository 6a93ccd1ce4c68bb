"""The base model of what is pulled: the home's own, if it is the one that the repository's recipe was made for.

What a repository names is never fetched. Its name is kept for people only, where just older versions have that model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from registry.base_model import ModelFiles, fingerprint, locate, target_shapes
from registry.base_model.location import PUBLISHED
from registry.catalog.recipes import add_base_model, add_recipe, get_base_model, name_base_model
from registry.digests import short
from registry.errors import BaseModelError, IntegrityError, NotFoundError, UsageError
from registry.pipeline.opened import Registry
from registry.pipeline.pull.offer import Offer
from registry.progress import Progress
from registry.published import Root
from registry.recipe import Recipe, from_canonical
from registry.records import BaseModel
from registry.store.layout import AdapterLayout


@dataclass(frozen=True)
class OwnModel:
    """The base model as this home finds it; ``is_moved`` where it is to be found by this reference from now on."""

    base_model: BaseModel
    files: ModelFiles
    is_moved: bool


def read_recipes(root: Root) -> dict[str, Recipe]:
    """Return the recipes of a repository by digest.

    Raises:
        IntegrityError: one is none.
    """
    found: dict[str, Recipe] = {}
    for canonical in root.recipes:
        try:
            recipe = from_canonical(canonical)
        except (UsageError, TypeError, ValueError) as error:
            raise IntegrityError(f"a recipe of {root.repository} cannot be used: {error}") from error
        found[recipe.digest] = recipe
    return found


def find_base_model(
    registry: Registry, offer: Offer, recipe: Recipe, reference: str | None, progress: Progress
) -> OwnModel:
    """Return the base model of the version that is pulled: where ``reference`` says, where it lay, or the home's.

    Raises:
        BaseModelError: that is another model than the recipe's, or is not to be had.
    """
    known = _known(registry, recipe.base_model) if reference is None else None
    files: ModelFiles | None = None
    if known is not None:
        try:
            files = locate(
                known.reference, models_path=registry.home.models_path, revision=known.revision, notify=progress.say
            )
        except BaseModelError:  # it is there no more, but the home may name it at another place
            files = None
    is_moved = files is None or fingerprint(files).fingerprint != recipe.base_model
    if files is None or is_moved:
        named = reference or registry.home.base_model
        files = locate(named, models_path=registry.home.models_path, notify=progress.say)
    own = fingerprint(files)
    if own.fingerprint != recipe.base_model:
        raise _another(offer, recipe, own)
    return OwnModel(own, files, is_moved)


def record_base_models(session: Session, root: Root, recipes: Mapping[str, Recipe], own: OwnModel) -> None:
    """Record the recipes of a repository and their base models, ours under the name that it has here."""
    for published in root.base_models:
        base_model = own.base_model
        if published.fingerprint != base_model.fingerprint:
            name = published.reference.removeprefix(PUBLISHED)
            base_model = replace(published, reference=PUBLISHED + name)
        add_base_model(session, base_model)
    if own.is_moved:
        name_base_model(session, own.base_model)
    for recipe in recipes.values():
        add_recipe(session, recipe)


class Layouts:
    """The layouts of adapters on one base model, by their recipes."""

    def __init__(self, base_model: BaseModel, files: ModelFiles, recipes: Mapping[str, Recipe]) -> None:
        """Take the model, and recipes by digest, of which some may be for others."""
        self._base_model, self._files, self._recipes = base_model, files, recipes
        self._made: dict[str, AdapterLayout | None] = {}

    def knows(self, digest: str) -> bool:
        """Return whether the repository has a recipe of this digest."""
        return digest in self._recipes

    def of_recipe(self, digest: str) -> AdapterLayout | None:
        """Return the layout of a recipe's adapters, None if it is for another base model.

        Raises:
            IntegrityError: the base model has not what the recipe adapts.
        """
        if digest not in self._made:
            self._made[digest] = self._make(self._recipes[digest])
        return self._made[digest]

    def _make(self, recipe: Recipe) -> AdapterLayout | None:
        if recipe.base_model != self._base_model.fingerprint:
            return None
        try:
            shapes = target_shapes(self._files.folder, recipe.targets, recipe.first_layer)
        except (BaseModelError, UsageError) as error:
            raise IntegrityError(f"the recipe {short(recipe.digest)} does not fit its base model: {error}") from error
        return AdapterLayout.of(shapes, recipe.rank, recipe.adapter_dtype)


def _known(registry: Registry, digest: str) -> BaseModel | None:
    with registry.catalog.read() as session:
        try:
            found = get_base_model(session, digest)
        except NotFoundError:
            return None
    return None if found.reference.startswith(PUBLISHED) else found


def _another(offer: Offer, recipe: Recipe, own: BaseModel) -> BaseModelError:
    published = {model.fingerprint: model.reference for model in offer.root.base_models}
    name = published.get(recipe.base_model, "a base model")
    return BaseModelError(
        f"v{offer.target.number} of {offer.repository} was made for {name} with fingerprint "
        f"{short(recipe.base_model)}, and {own.reference} has {short(own.fingerprint)}",
        hint=f"pragreg pull {offer.repository} --base-model REF, with that very model",
    )
