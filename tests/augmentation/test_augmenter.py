from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from registry.augmentation import AugmentationReport, AugmentationSettings, none_augmenter, parse_augmenter
from registry.errors import UsageError
from registry.records import Augmentation, QAPair, StagedDocument


@pytest.mark.parametrize("text", ["self", "openai", "none"])
def test_augmenters_are_named(text: str) -> None:
    spec = parse_augmenter(text)
    assert (spec.kind, spec.path, str(spec)) == (text, None, text)


def test_an_import_names_its_file() -> None:
    spec = parse_augmenter("import:some folder/aug.jsonl")
    assert (spec.kind, spec.path) == ("import", Path("some folder/aug.jsonl"))


@pytest.mark.parametrize("text", ["", "gpt", "import", "import:", "self:x", "IMPORT:x"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_augmenter(text)
    assert "import:FILE" in (caught.value.hint or "")


@pytest.mark.parametrize("numbers", [(-1, 0, 0, 1), (0, -1, 0, 1), (1, 1, 0, 0)])
def test_impossible_counts_are_refused(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(UsageError):
        AugmentationSettings(*numbers)


def test_none_gives_every_document_an_empty_augmentation(lighthouse: StagedDocument, honey: StagedDocument) -> None:
    augmenter = none_augmenter()
    found = list(augmenter.augment([lighthouse, honey]))
    augmenter.finish()
    assert [one.document_digest for one in found] == [lighthouse.document.digest, honey.document.digest]
    assert {one.request_digest for one in found} == {augmenter.request_digest(honey)}
    assert all(not one.pairs and not one.rewrites for one in found)


def test_a_report_sums_up() -> None:
    report = AugmentationReport()
    report.add(Augmentation("a", "r", "g", "1", ("x",), (QAPair("q", "a"),), 2, tokens=5, elapsed_seconds=1.5))
    report.add(Augmentation("b", "r", "g", "1", dropped_rewrites=3))
    assert (report.documents, report.rewrites, report.pairs, report.dropped_pairs) == (2, 1, 1, 2)
    assert (report.dropped_rewrites, report.documents_without_pairs, report.unaided) == (3, 1, ["b"])
    assert (report.tokens, report.elapsed_seconds) == (5, 1.5)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import registry.augmentation, sys; sys.exit(bool({'torch', 'transformers', 'openai'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
