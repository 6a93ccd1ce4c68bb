"""What a lookup costs does not grow with the registry: counted in steps of SQLite's machine, not in seconds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy.orm import Session

from registry.catalog.adapters import find_adapters, locate, resolve_adapter
from registry.catalog.augmentations import find_augmentations
from registry.catalog.differences import compare, list_changes
from registry.catalog.documents import get_documents, resolve_document
from registry.catalog.engine import Catalog
from registry.catalog.history import list_version_lines
from registry.catalog.listing import list_adapters, list_documents, show_adapter, show_document
from registry.catalog.members import withheld_documents
from registry.catalog.remotes.publishing import delta
from registry.catalog.versions import changes, list_versions, members, members_by_document, resolve
from tests.catalog.workshop import Workshop, augmentation_of, document, encoded_adapter, placed

SMALL, LARGE = 100, 1_000
_GRAIN = 10

Lookup = Callable[[Session, Workshop], object]


def one(number: int, workshop: Workshop) -> tuple[str, str, str]:
    """Return the digests of a document, its augmentation and its adapter."""
    augmentation = augmentation_of(document(number))
    return document(number).digest, augmentation.digest, encoded_adapter(augmentation, workshop.recipe).digest


LOOKUPS: dict[str, Lookup] = {
    "get_documents": lambda session, work: get_documents(session, [one(3, work)[0], one(4, work)[0]]),
    "resolve_document": lambda session, work: resolve_document(session, one(3, work)[0][:40]),
    "resolve_adapter": lambda session, work: resolve_adapter(session, one(3, work)[2][:40]),
    "find_augmentations": lambda session, work: find_augmentations(
        session, augmentation_of(document(3)).request_digest, [document(3).digest]
    ),
    "find_adapters": lambda session, work: find_adapters(session, work.recipe.digest, [one(3, work)[:2]]),
    "locate": lambda session, work: locate(session, [one(3, work)[2]]),
    "resolve": lambda session, work: resolve(session, "coast"),
    "resolve a digest": lambda session, work: resolve(session, f"coast@{resolve(session, 'coast').digest[:12]}"),
    "compare": lambda session, work: list_changes(session, compare(session, *list_versions(session, "coast")[-2:])),
    "list_version_lines": lambda session, work: list_version_lines(session, "coast", limit=1),
    "members_by_document": lambda session, work: members_by_document(
        session, resolve(session, "coast"), [one(number, work)[0] for number in range(5)]
    ),
    "changes": lambda session, work: list(changes(session, "coast", 1, 2).added),
    "delta": lambda session, _: delta(session, "coast", 1, 2, {}).opened,
    "delta back": lambda session, _: delta(session, "coast", 2, 1, {}).opened,
    "withheld_documents": lambda session, _: [withheld_documents(session, resolve(session, "coast"))],
    "show_document": lambda session, work: show_document(session, one(3, work)[0]),
    "show_adapter": lambda session, work: show_adapter(session, one(3, work)[2]),
    "list_documents": lambda session, work: list_documents(session, limit=5),
    "list_adapters": lambda session, work: list_adapters(session, limit=5),
    "members of a small corpus": lambda session, work: list(members(session, resolve(session, "small"))),
    "documents of a small corpus": lambda session, work: list_documents(session, reference="small"),
    "adapters of a small corpus": lambda session, work: list_adapters(session, reference="small"),
}


def steps(catalog: Catalog, workshop: Workshop, lookup: Lookup) -> int:
    """Count the steps of the database's machine that a lookup takes."""
    taken = 0

    def count() -> int:
        nonlocal taken
        taken += _GRAIN
        return 0

    with catalog.read() as session:
        driver = session.connection().connection.driver_connection
        assert driver is not None
        driver.set_progress_handler(count, _GRAIN)
        found = lookup(session, workshop)
        driver.set_progress_handler(None, 0)
    assert found
    return taken


def test_lookups_cost_the_same_in_a_registry_ten_times_as_large(catalog: Catalog) -> None:
    workshop = Workshop(catalog)
    workshop.build([placed(number) for number in range(10_000, 10_020)], corpus="small")
    costs: list[dict[str, int]] = []
    for rows in (SMALL, LARGE):
        workshop.build([placed(number) for number in range(rows)], corpus="coast")
        # Versions 2 and 4 differ from 1 and 3 by one document.
        workshop.build([placed(number) for number in range(1, rows + 1)], corpus="coast")
        costs.append({name: steps(catalog, workshop, lookup) for name, lookup in LOOKUPS.items()})
    small, large = costs
    grown = {name: (small[name], large[name]) for name in LOOKUPS if large[name] > 2 * small[name] + 200}
    assert grown == {}


def test_the_count_notices_a_scan(catalog: Catalog) -> None:
    workshop = Workshop(catalog)
    counted = []
    for rows in (SMALL, LARGE):
        workshop.build([placed(number) for number in range(rows)], corpus="coast")
        counted.append(
            steps(catalog, workshop, lambda session, _: list_documents(session, title="Beacon 3", limit=1000))
        )
    assert counted[1] > 5 * counted[0]


def test_a_large_version_is_listed_like_a_small_one(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two ways in which a page is found give the same page."""
    workshop = Workshop(catalog)
    workshop.build([placed(number) for number in range(SMALL)], corpus="coast")
    workshop.build([placed(number) for number in range(5, SMALL)], corpus="coast")
    with catalog.read() as session:
        gathered = [listed(session, reference="coast", offset=20) for listed in (list_documents, list_adapters)]
        monkeypatch.setattr("registry.catalog.listing.GATHERED", 0)
        checked = [listed(session, reference="coast", offset=20) for listed in (list_documents, list_adapters)]
    assert checked == gathered
