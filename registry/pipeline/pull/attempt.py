"""One attempt to pull: fetch and check everything that is lacking, then put it into the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

from sqlalchemy.orm import Session

from registry.catalog.adapters import find_locations
from registry.catalog.members import member_adapters, withheld_documents
from registry.catalog.references import resolve
from registry.digests import short
from registry.errors import IntegrityError
from registry.hub.client import Hub
from registry.pipeline.opened import Registry
from registry.pipeline.pull.arriving import Arriving, arriving, remove_if_empty
from registry.pipeline.pull.base_models import Layouts, OwnModel, find_base_model, read_recipes
from registry.pipeline.pull.content import Content, read_content
from registry.pipeline.pull.offer import Offer
from registry.pipeline.pull.packs import FindLayout, PackNeeds, bring_packs, bring_task_adapters, needed_packs
from registry.pipeline.pull.plan import Plan, make_plan
from registry.pipeline.pull.rebase import Rebase, own_version, rebased
from registry.pipeline.pull.recording import MovedError, Step, record_packs, record_texts, record_versions
from registry.pipeline.pull.records import Records, bring_records, check_records
from registry.pipeline.pull.request import Outcome, PullRequest
from registry.pipeline.repositories import MIRRORS_FOLDER, mirror_of
from registry.progress import Progress
from registry.published import Member
from registry.recipe import Recipe
from registry.records import Version
from registry.store.layout import AdapterLayout


@dataclass(frozen=True)
class Done:
    """What an attempt did: the version that was pulled, those that came, and what that took."""

    outcome: Outcome
    version: Version
    made: tuple[Version, ...] = ()
    packs_fetched: int = 0
    packs_reused: int = 0
    fetched_bytes: int = 0
    fetch_seconds: float = 0.0
    conflicts: tuple[str, ...] = ()
    has_filled_texts: bool = False


class Attempt:
    """What does not change while a pull is tried once."""

    def __init__(self, registry: Registry, hub: Hub, request: PullRequest, offer: Offer, progress: Progress) -> None:
        """Take where to, from where, what is asked for, and what is offered."""
        self._registry, self._hub, self._request, self._offer = registry, hub, request, offer
        self._progress = progress
        self._mirror = mirror_of(registry.home, hub.endpoint, offer.repository)

    def run(self) -> Done:
        """Bring what is lacking, if anything is.

        Raises:
            MovedError: the corpus was changed meanwhile.
            PragregError: see ``registry.pipeline.pull.run``.
        """
        offer = self._offer
        with self._registry.catalog.read() as session:
            plan = make_plan(session, offer, rebase=self._request.rebase)
            if plan.is_rebase:
                own_version(session, offer, plan)
            version = None if plan.new else resolve(session, plan.reference_here(offer))
            if version is not None and self._lacks(session, version):
                version = None
        if version is not None:
            is_whole = offer.known is not None and offer.known.is_lazy and not self._request.is_lazy
            if offer.is_news or is_whole:
                record_versions(
                    self._registry, self._hub.endpoint, offer, plan, None, [], is_lazy=False if is_whole else None
                )
            return Done("ahead" if plan.relation.only_here else "equal", version)
        recipes = read_recipes(offer.root)
        recipe = recipes[offer.target.recipe_digest]
        own = find_base_model(self._registry, offer, recipe, self._request.base_model, self._progress)
        folder = self._registry.home.incoming_path
        incoming = arriving(folder, self._hub, offer.repository, offer.commit, self._request.jobs, self._progress)
        with self._refusing(), incoming as arrived:
            return self._bring(plan, recipes, own, arrived)

    def _lacks(self, session: Session, version: Version) -> bool:
        """Return whether a version, which is here, has adapters or texts that the repository could bring."""
        if not self._request.is_lazy and not_here(session, version):
            return True
        offer = self._offer
        had_text = offer.seen is not None and offer.seen.has_text
        return offer.root.has_text and not had_text and withheld_documents(session, version) > 0

    def _bring(self, plan: Plan, recipes: Mapping[str, Recipe], own: OwnModel, arrived: Arriving) -> Done:
        registry, offer = self._registry, self._offer
        layouts = Layouts(own.base_model, own.files, recipes)
        content = read_content(self._mirror, offer, plan, arrived)
        needs = PackNeeds() if self._request.is_lazy else needed_packs(registry, content)
        rows = chain(_new_rows(plan, content), content.target.values(), needs.rows())
        records = bring_records(registry, rows, offer.root.has_text, arrived)

        def check() -> None:
            check_records(records, layouts, arrived)
            self._check_recipes(content, records, layouts)

        with arrived.beside(check) as checked:
            layout_of = self._layout_of(content, records, layouts, checked)
            delivery = bring_packs(registry, needs, layout_of, arrived)
            delivery.task_adapters += bring_task_adapters(registry, offer, recipes, layouts, arrived)
        rebase = self._steps(plan, content)
        record_texts(registry, offer, recipes, own, records, arrived)
        record_packs(registry, delivery, arrived, self._progress)
        made = record_versions(
            registry, self._hub.endpoint, offer, plan, content, rebase.steps, is_lazy=self._request.is_lazy
        )
        if offer.is_newest:
            self._mirror.prune(offer.root.shards)
        with registry.catalog.read() as session:
            version = resolve(session, made[-1].reference if plan.is_rebase else plan.reference_here(offer))
            if not self._request.is_lazy and not_here(session, version):
                raise MovedError  # what was stored was taken away before it was a version's
        return Done(
            outcome="rebased" if plan.is_rebase else "pulled",
            version=version,
            made=made,
            packs_fetched=len(delivery.packs) + len(delivery.cut) - delivery.reused,
            packs_reused=needs.reused + delivery.reused,
            fetched_bytes=arrived.fetched_bytes,
            fetch_seconds=arrived.seconds,
            conflicts=rebase.conflicts,
            has_filled_texts=not plan.new and bool(records.wanted),
        )

    def _steps(self, plan: Plan, content: Content) -> Rebase:
        if plan.is_rebase:
            with self._registry.catalog.read() as session:
                return rebased(session, self._offer, plan, content)
        found = zip(plan.new, content.deltas, plan.parents_here(), strict=True)
        return Rebase([Step(version, delta, parent) for version, delta, parent in found], ())

    def _check_recipes(self, content: Content, records: Records, layouts: Layouts) -> None:
        """Check that the adapters of the version that is pulled are of the shape that its recipe makes.

        Raises:
            IntegrityError: one cannot be of its recipe.
        """
        wanted = self._wanted_layout(layouts)
        for digest, row in content.target.items():
            # The same bytes may have come of another recipe first.
            recipe = records.recipe_of[digest]
            own = layouts.of_recipe(recipe) if layouts.knows(recipe) else None
            if row.size_bytes != wanted.size_bytes or own not in (None, wanted):
                raise IntegrityError(
                    f"the adapter {short(digest)} of v{self._offer.target.number} is of the recipe {short(recipe)}, "
                    "whose adapters have other shapes than the version's"
                )

    def _layout_of(
        self, content: Content, records: Records, layouts: Layouts, checked: Callable[[], None]
    ) -> FindLayout:
        """Return a function that gives the layout of an adapter: the version's, or else that of its own recipe.

        What the latter is, the records say, whose check is waited for then.
        """
        wanted = self._wanted_layout(layouts)

        def layout_of(digest: str) -> AdapterLayout | None:
            if digest in content.target:
                return wanted
            checked()
            return layouts.of_recipe(records.recipe_of[digest])

        return layout_of

    def _wanted_layout(self, layouts: Layouts) -> AdapterLayout:
        wanted = layouts.of_recipe(self._offer.target.recipe_digest)
        assert wanted is not None, "the base model is its recipe's"
        return wanted

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Let nothing stay of what is refused in a block: shards neither."""
        try:
            yield
        except IntegrityError:
            seen = self._offer.seen
            self._mirror.prune(() if seen is None else seen.shards)
            hub_path = self._registry.home.hub_path
            for folder in (*(hub_path / MIRRORS_FOLDER).glob("*"), hub_path / MIRRORS_FOLDER, hub_path):
                remove_if_empty(folder)
            raise


def not_here(session: Session, version: Version) -> set[str]:
    """Return the adapters of a version that lie in no pack."""
    adapters = set(member_adapters(session, version))
    return adapters - find_locations(session, adapters).keys()


def _new_rows(plan: Plan, content: Content) -> Iterator[Member]:
    """Yield the rows that came with the new versions."""
    if plan.new:
        last = plan.new[-1].number
        yield from (row for row in content.changed_rows() if plan.after < row.from_version <= last)
