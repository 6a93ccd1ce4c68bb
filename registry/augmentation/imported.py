"""The ``import:FILE`` augmenter: augmentations that someone else wrote, checked against the documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from registry.augmentation.augmenter import AugmentationSettings, Augmenter
from registry.augmentation.grounding import CHECK_VERSION
from registry.augmentation.import_files import IMPORTED, ImportFile
from registry.augmentation.selection import Selection
from registry.digests import json_digest, short
from registry.errors import InputError
from registry.records import Augmentation, StagedDocument


class _ImportAugmenter:
    generator = IMPORTED
    is_costly = False

    def __init__(self, path: Path, settings: AugmentationSettings) -> None:
        self._file = ImportFile(path)
        self._settings = settings
        self._first: StagedDocument | None = None
        self._asked = 0
        self._matched = 0

    def request_digest(self, staged: StagedDocument) -> str:
        """Identify the document's own records, so that an edited file concerns only what was edited in it."""
        digests = self._file.digests(staged)
        self._first = self._first or staged
        self._asked += 1
        self._matched += bool(digests)
        return self._digest_of(digests)

    def _digest_of(self, digests: list[str]) -> str:
        wanted = {"rewrites": self._settings.rewrites, "pairs": self._settings.pairs}
        return json_digest({"generator": IMPORTED, "check": CHECK_VERSION, "records": digests, **wanted})

    def augment(self, documents: Sequence[StagedDocument]) -> Iterator[Augmentation]:
        for staged in documents:
            records = self._file.records(staged)
            selection = Selection(staged, self._settings)
            for record in records:
                for rewrite in record.rewrites:
                    selection.offer_rewrite(rewrite)
                for pair in record.pairs:
                    selection.offer_pair(pair.question, pair.answer, pair.full_answer)
            generators = dict.fromkeys(record.generator for record in records) or {IMPORTED: None}
            yield selection.result(
                request_digest=self._digest_of([record.digest for record in records]),
                generator="+".join(generators),
                prompts_version="",
            )

    def finish(self) -> None:
        if not self._asked or self._matched:
            return
        example = self._first
        names = "no identifier of its own"
        if example and example.record_ids:
            names = f"the identifier {', '.join(map(repr, example.record_ids[:3]))}"
        title = f"title {example.document.title!r}, {short(example.document.digest)}" if example else ""
        raise InputError(
            f"none of the {self._asked} documents has one of the {len(self._file)} records of {self._file.path}: "
            f"looked for the same document_id or the same text (the first document has {names}; {title})",
            hint="name the field that holds the identifiers when building, or give the records a text",
        )


def import_augmenter(path: Path, settings: AugmentationSettings) -> Augmenter:
    """Return the augmenter that takes pairs and rewrites from ``path``, which is read and checked at once.

    A document whose record was cut into several gets those of its record's pairs and rewrites that pass the check
    against itself; several records of one document are put together; one without a record gets nothing.

    Raises:
        InputError: the file cannot be read, is of an unknown format, or has a faulty record.
    """
    return _ImportAugmenter(path, settings)
