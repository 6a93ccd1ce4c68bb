from __future__ import annotations

import pytest

from registry.augmentation import AugmentationSettings, Passage, deferred_self_augmenter, is_grounded, self_augmenter
from registry.augmentation.words import Vocabulary, content_words
from registry.base_model import LoadedModel
from registry.records import Document, StagedDocument

SETTINGS = AugmentationSettings(rewrites=1, pairs=4, max_attempts=1)


def test_every_document_gets_one_augmentation(
    tiny_model: LoadedModel, lighthouse: StagedDocument, honey: StagedDocument
) -> None:
    empty = StagedDocument(Document.of("", "?"))
    german = StagedDocument(Document.of("Turm", "Der Turm wurde 1843 von Adela Quist in Harth gebaut."))
    augmenter = self_augmenter(tiny_model, SETTINGS)
    documents = [lighthouse, empty, german, honey]
    by_digest = {one.document_digest: one for one in augmenter.augment(documents)}
    augmenter.finish()
    assert len(by_digest) == len(documents)
    found = [by_digest[staged.document.digest] for staged in documents]
    assert [len(one.pairs) for one in found] == [4, 0, 0, 4]
    for one in found:
        assert one.generator == augmenter.generator == f"self:{tiny_model.base_model.fingerprint}"
        assert one.request_digest == augmenter.request_digest(lighthouse)
        assert one.rewrites == ()  # a random model writes no text
        assert one.tokens > 0
        assert one.elapsed_seconds > 0
    assert found[2].dropped_rewrites == 1


def test_pairs_are_grounded_and_have_their_sentence(tiny_model: LoadedModel, lighthouse: StagedDocument) -> None:
    [found] = self_augmenter(tiny_model, SETTINGS).augment([lighthouse])
    passage = Passage.of(lighthouse.document)
    for pair in found.pairs:
        assert is_grounded(pair, passage)
        assert pair.full_answer is not None
        assert (
            Vocabulary.of("Orrin Lighthouse", lighthouse.document.text).missing(content_words(pair.full_answer)) == []
        )


def test_the_same_comes_whatever_the_batch(
    tiny_model: LoadedModel, lighthouse: StagedDocument, honey: StagedDocument
) -> None:
    together = self_augmenter(tiny_model, SETTINGS).augment([lighthouse, honey])
    alone = self_augmenter(tiny_model, SETTINGS, batch_rows=1).augment([honey, lighthouse])
    assert {one.digest for one in together} == {one.digest for one in alone}


def test_what_is_asked_decides_the_request(tiny_model: LoadedModel, honey: StagedDocument) -> None:
    variants = [
        SETTINGS,
        AugmentationSettings(2, 4, max_attempts=1),
        AugmentationSettings(1, 5, max_attempts=1),
        AugmentationSettings(1, 4, max_attempts=2),
        AugmentationSettings(1, 4, seed=1, max_attempts=1),
    ]
    assert len({self_augmenter(tiny_model, one).request_digest(honey) for one in variants}) == len(variants)


def test_a_model_is_loaded_when_it_has_to_write(tiny_model: LoadedModel, honey: StagedDocument) -> None:
    loads: list[None] = []

    def load() -> LoadedModel:
        loads.append(None)
        return tiny_model

    deferred = deferred_self_augmenter(tiny_model.base_model, load, SETTINGS)
    at_once = self_augmenter(tiny_model, SETTINGS)
    assert deferred.request_digest(honey) == at_once.request_digest(honey)
    assert list(deferred.augment([])) == loads == []
    [found] = deferred.augment([honey])
    assert [found.digest] == [one.digest for one in at_once.augment([honey])]
    assert len(loads) == 1


def test_a_document_that_is_too_long_for_the_model_is_not_put_to_it(tiny_model: LoadedModel) -> None:
    text = " ".join(f"The mill of Harth was sold to the baker Adela Quist in {year}." for year in range(1600, 1680))
    [found] = self_augmenter(tiny_model, SETTINGS).augment([StagedDocument(Document.of("Mill", text))])
    assert len(found.pairs) == 4
    assert found.dropped_rewrites == 0


@pytest.mark.smollm2
@pytest.mark.slow
def test_the_default_model_writes_something_of_use(smollm2: LoadedModel, lighthouse: StagedDocument) -> None:
    settings = AugmentationSettings(rewrites=1, pairs=12, max_attempts=2)
    [found] = self_augmenter(smollm2, settings).augment([lighthouse])
    assert len(found.pairs) >= 10
    assert "Adela Quist" in {pair.answer for pair in found.pairs}
