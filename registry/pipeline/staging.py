"""What sources hold, and what the registry has of it already.

A build stages its sources in the registry; what only looks (a plan, a dry run) stages them in a registry of its own
that is gone afterwards, and reads the real one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry.augmentation import Augmenter
from registry.catalog import schema
from registry.catalog.adapters import find_adapters
from registry.catalog.augmentations import find_augmentations_by_request, find_withheld
from registry.catalog.builds import StagedCounts, staged_counts, staged_documents
from registry.catalog.chunks import chunked
from registry.pipeline.build import BuildRequest, read_sources, running_build
from registry.pipeline.encode import lost_packs
from registry.pipeline.opened import Registry, opened
from registry.pipeline.recipes import Chosen, record_recipe
from registry.progress import Progress
from registry.records import Augmentation, Skipped, StagedDocument
from registry.settings import create_home

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class Staged:
    """What sources hold; ``documents`` are distinct, in order of length, and stream by once."""

    documents: Iterator[StagedDocument]
    counts: StagedCounts
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """A document of the sources, with what there is of it: None is yet to be written, or to be trained.

    An augmentation whose content is withheld is None; it is to be written only where the adapter is to be trained.
    """

    staged: StagedDocument
    augmentation: Augmentation | None
    adapter_digest: str | None


@contextmanager
def scratch_registry() -> Iterator[Registry]:
    """Give an empty registry that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="pragreg-scratch-") as folder:
        home = create_home(Path(folder) / "home")
        schema.upgrade(home.catalog_url)
        with opened(home) as registry:
            yield registry


@contextmanager
def staged_in(scratch: Registry, request: BuildRequest, chosen: Chosen, progress: Progress) -> Iterator[Staged]:
    """Stage the sources in ``scratch`` as a build would in its registry.

    Raises:
        InputError: an input is wrong, or there is no document.
    """
    record_recipe(scratch, chosen)
    with running_build(scratch, request, chosen) as running:
        skipped = read_sources(scratch, running.build_id, request, progress)
        with scratch.catalog.read() as session:
            counts = staged_counts(session, running.build_id)
            yield Staged(staged_documents(session, running.build_id), counts, skipped)


def look_up(
    registry: Registry, augmenter: Augmenter, recipe_digest: str, documents: Iterable[StagedDocument]
) -> Iterator[list[Known]]:
    """Yield ``documents`` by the thousand with what a build under a recipe would find; the registry is only read.

    What costs nothing to get, as from an import file, is there; adapters in packs that are lost are not.
    """
    lost = lost_packs(registry)
    for batch in chunked(documents):
        requests = {staged.document.digest: augmenter.request_digest(staged) for staged in batch}
        with registry.catalog.read() as session:
            augmentations = find_augmentations_by_request(session, requests)
            left = {digest: request for digest, request in requests.items() if digest not in augmentations}
            pairs = [(digest, known.digest) for digest, known in find_withheld(session, left).items()]
            adapters = _adapters(session, recipe_digest, pairs, lost)
            if not augmenter.is_costly:
                missing = left.keys() - adapters.keys()
                made = augmenter.augment([staged for staged in batch if staged.document.digest in missing])
                augmentations |= {augmentation.document_digest: augmentation for augmentation in made}
            pairs = [(document, augmentation.digest) for document, augmentation in augmentations.items()]
            adapters |= _adapters(session, recipe_digest, pairs, lost)
        digests = [staged.document.digest for staged in batch]
        yield [
            Known(staged, augmentations.get(digest), adapters.get(digest))
            for staged, digest in zip(batch, digests, strict=True)
        ]


def _adapters(
    session: Session, recipe_digest: str, pairs: Sequence[tuple[str, str]], lost: Collection[str]
) -> dict[str, str]:
    found = find_adapters(session, recipe_digest, pairs, lost_packs=lost)
    return {document: adapter for (document, _), adapter in found.items()}
