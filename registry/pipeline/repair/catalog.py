"""Mending the catalog: rows, texts, names and builds. What has a digest is put back only where the digest proves it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from registry.catalog.engine import Catalog
from registry.catalog.remotes.source_names import HUB
from registry.catalog.upkeep.repairs_rows import (
    Row,
    clear_dangling_builds,
    clear_staging,
    derive_inputs,
    end_abandoned,
    fetch_missing,
    remove_dangling,
)
from registry.catalog.upkeep.repairs_versions import (
    augmentations_by_digest,
    corpora,
    name_latest,
    set_augmentation,
    set_settings,
    set_text,
    settings_by_digest,
    sources_of,
    texts_by_digest,
)
from registry.documents import ReadOptions, read_documents
from registry.errors import PragregError, StorageError
from registry.pipeline.repair.bench import RESTORE, Bench
from registry.records import Document
from registry.settings import user_name
from registry.upkeep.findings import Finding
from registry.upkeep.processes import is_alive

QUARANTINE = "quarantine"
_LINE = re.compile(r"#L[0-9]+$")


def mend_rows(bench: Bench, findings: Sequence[Finding]) -> None:
    """Get missing rows from the backup; keep in a file, and remove, dangling ones that can be done without."""
    with bench.noting(findings):
        added: dict[str, int] = {}
        if bench.backup is not None:
            with bench.backup.catalog.read() as other, bench.registry.catalog.write() as session:
                added = fetch_missing(session, other)
        path = bench.registry.home.path / QUARANTINE / f"rows-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}.jsonl"
        keep = _Keep(path)
        with bench.registry.catalog.write() as session:
            cleared = clear_dangling_builds(session, keep)
            removed = remove_dangling(session, keep)
            derived = derive_inputs(session) if "adapter_inputs" in removed else 0
            keep.sync()
        for finding in findings:
            table = finding.subject
            parts = [f"{count} missing rows of {name} came from the backup" for name, count in added.items()]
            if table in removed:
                parts.append(f"{removed[table]} rows were moved to {path}")
            if table == "adapter_inputs" and derived:
                parts.append(f"{derived} were derived again from the adapters")
            if table in cleared:
                parts.append(f"{cleared[table]} rows name no build now; as they were, they are in {path}")
            if parts:
                bench.note([finding], "; ".join(parts))
            else:
                bench.note([finding], f"rows of {table} are history, which is never removed", RESTORE)


class _Keep:
    """A file of rows, made when the first comes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[str] = []

    def __call__(self, table: str, row: Row) -> None:
        self._lines.append(json.dumps({"table": table, "row": row}, default=str) + "\n")

    def sync(self) -> None:
        """Have the rows on the disk before they are removed from the catalog."""
        if not self._lines:
            return
        try:
            self._path.parent.mkdir(exist_ok=True)
            with self._path.open("w", encoding="utf-8") as file:
                file.writelines(self._lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"rows cannot be kept in {self._path}: {error.strerror or error}") from error


def mend_documents(bench: Bench, findings: Sequence[Finding]) -> None:
    """Put back texts: the document's own where only a count is wrong, the backup's, or those of its sources."""
    wanted = {finding.subject for finding in findings}
    with bench.noting(findings):
        for name, look in _text_sources(bench):
            found = look(wanted)
            with bench.registry.catalog.write() as session:
                for document in found.values():
                    set_text(session, document)
            bench.note((one for one in findings if one.subject in found), f"its text was taken from {name}")
            wanted -= found.keys()
        left = [finding for finding in findings if finding.subject in wanted]
        bench.note(left, "neither the sources, read again, nor a backup has the text of that digest", RESTORE)


def _text_sources(bench: Bench) -> Iterator[tuple[str, Callable[[set[str]], dict[str, Document]]]]:
    def of(catalog: Catalog) -> Callable[[set[str]], dict[str, Document]]:
        def look(wanted: set[str]) -> dict[str, Document]:
            with catalog.read() as session:
                return texts_by_digest(session, wanted)

        return look

    yield "itself: only what is derived from it was wrong", of(bench.registry.catalog)
    if bench.backup is not None:
        yield "the backup", of(bench.backup.catalog)
    yield "its source, read again", lambda wanted: _read_again(bench, wanted)


def _read_again(bench: Bench, wanted: set[str]) -> dict[str, Document]:
    """Return the documents of these digests that their sources give when they are read as by default."""
    if not wanted:
        return {}
    with bench.registry.catalog.read() as session:
        sources = sources_of(session, wanted)
    files = sorted({(_LINE.sub("", uri), language) for places in sources.values() for uri, language in places})
    found: dict[str, Document] = {}
    for uri, language in files:
        if uri == "-" or uri.startswith(HUB):
            continue
        with suppress(PragregError):  # the source may be gone, or another kind of file by now
            for placed in read_documents([uri], ReadOptions(language=language), skip_invalid=True):
                if placed.document.digest in wanted:
                    found[placed.document.digest] = placed.document
    return found


def mend_augmentations(bench: Bench, findings: Sequence[Finding]) -> None:
    """Put back augmentations, from the backup where more than a count is wrong."""
    wanted = {finding.subject for finding in findings}
    with bench.noting(findings):
        for name, catalog in _catalogs(bench):
            with catalog.read() as session:
                found = augmentations_by_digest(session, wanted)
            with bench.registry.catalog.write() as session:
                for augmentation in found.values():
                    set_augmentation(session, augmentation)
            bench.note((one for one in findings if one.subject in found), f"its content was taken from {name}")
            wanted -= found.keys()
        left = [finding for finding in findings if finding.subject in wanted]
        bench.note(left, "no backup has the content of that digest", RESTORE)


def mend_recipes(bench: Bench, findings: Sequence[Finding]) -> None:
    """Put back the settings of recipes from the backup."""
    for finding in findings:
        with bench.noting([finding]):
            bench.note([finding], "no backup has the settings of that digest", RESTORE)
            for name, catalog in _catalogs(bench):
                with catalog.read() as session:
                    settings = settings_by_digest(session, finding.subject)
                if settings is not None:
                    with bench.registry.catalog.write() as session:
                        set_settings(session, finding.subject, settings)
                    bench.note([finding], f"its settings were taken from {name}")
                    break


def _catalogs(bench: Bench) -> Iterator[tuple[str, Catalog]]:
    yield "itself: only what is derived from it was wrong", bench.registry.catalog
    if bench.backup is not None:
        yield "the backup", bench.backup.catalog


def mend_names(bench: Bench, findings: Sequence[Finding]) -> None:
    """Let ``latest`` name a version again, in every corpus that has one."""
    with bench.noting(findings):
        with bench.registry.catalog.write() as session:
            named = [name_latest(session, corpus, who=user_name()) for corpus in corpora(session)]
        references = [version.reference for version in named if version is not None]
        text = (
            f"latest names {', '.join(references)} again" if references else "all versions of the corpus were collected"
        )
        bench.note(findings, text, "pragreg build makes a version again")


def end_builds(bench: Bench, findings: Sequence[Finding]) -> None:
    """End builds whose process is gone, and clear the staging rows of those that are over."""
    with bench.noting(findings):
        with bench.registry.catalog.write() as session:
            end_abandoned(session, is_alive)
            clear_staging(session)
        for finding in findings:
            ended = finding.kind == "build-abandoned"
            bench.note([finding], "it was ended as interrupted" if ended else "its staging rows were removed")


def of_kinds(findings: Iterable[Finding], *kinds: str) -> list[Finding]:
    """Return the findings of some kinds."""
    return [finding for finding in findings if finding.kind in kinds]
