"""Recipes, augmentations, adapters and packs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import update

from registry.catalog.adapters import (
    add_pack,
    find_adapters,
    forget_covered,
    forget_packs,
    locate,
    packs_of_build,
    packs_of_corpus,
    resolve_adapter,
)
from registry.catalog.augmentations import add_augmentations, find_augmentations, find_augmentations_by_request
from registry.catalog.builds import stage
from registry.catalog.documents import get_documents, resolve_document
from registry.catalog.models import RecipeRow
from registry.catalog.recipes import add_base_model, add_recipe, get_base_model, get_recipe, recipe_of_corpus
from registry.errors import IntegrityError, NotFoundError
from registry.recipe import preset
from registry.records import AdapterLocation, Place, PlacedDocument
from tests.catalog.workshop import (
    BASE_MODEL,
    TRAINING,
    Workshop,
    augmentation_of,
    document,
    encoded_adapter,
    pack_of,
    placed,
)


def stage_documents(workshop: Workshop, count: int) -> int:
    with workshop.catalog.write() as session:
        build_id = workshop.begin(session)
        stage(session, build_id, [placed(number) for number in range(count)])
    return build_id


def test_base_models_and_recipes_come_back_as_they_were(workshop: Workshop) -> None:
    paper = replace(preset("paper"), base_model=BASE_MODEL.fingerprint, learning_rate=1 / 3)
    with workshop.catalog.write() as session:
        add_base_model(session, replace(BASE_MODEL, reference="under another name"))
        add_recipe(session, paper)
        add_recipe(session, paper)
    with workshop.catalog.read() as session:
        assert get_base_model(session, BASE_MODEL.fingerprint) == BASE_MODEL
        assert get_recipe(session, workshop.recipe.digest) == workshop.recipe
        assert get_recipe(session, paper.digest) == paper
        with pytest.raises(NotFoundError):
            get_recipe(session, "0" * 64)
        with pytest.raises(NotFoundError):
            get_base_model(session, "0" * 64)


def test_a_recipe_needs_its_base_model(workshop: Workshop) -> None:
    with workshop.catalog.write() as session, pytest.raises(NotFoundError, match="base model"):
        add_recipe(session, preset("default"))


def test_an_altered_recipe_is_noticed(workshop: Workshop) -> None:
    with workshop.catalog.write() as session:
        session.execute(update(RecipeRow).values(settings={**workshop.recipe.canonical, "epochs": 9}))
    with workshop.catalog.read() as session, pytest.raises(IntegrityError, match="altered"):
        get_recipe(session, workshop.recipe.digest)


def test_the_recipe_of_a_corpus_is_its_newest_versions(workshop: Workshop) -> None:
    with workshop.catalog.read() as session:
        assert recipe_of_corpus(session, "handbook") is None
    first = workshop.recipe
    workshop.build([placed(1)])
    workshop.recipe = replace(first, epochs=9)
    workshop.__post_init__()
    with workshop.catalog.read() as session:
        assert recipe_of_corpus(session, "handbook") == first
    workshop.build([placed(1)])
    with workshop.catalog.read() as session:
        assert recipe_of_corpus(session, "handbook") == workshop.recipe
        assert recipe_of_corpus(session, "unknown") is None


def test_augmentations_are_found_by_what_was_asked(workshop: Workshop) -> None:
    stage_documents(workshop, 3)
    one, two, three = (document(number) for number in range(3))
    first = augmentation_of(one)
    same_content = augmentation_of(one, request="asked with other counts")
    with workshop.catalog.write() as session:
        add_augmentations(session, [first, same_content, augmentation_of(two)])
    assert first.digest == same_content.digest
    with workshop.catalog.read() as session:
        digests = [item.digest for item in (one, two, three)]
        found = find_augmentations(session, first.request_digest, digests)
        assert found == {one.digest: first, two.digest: augmentation_of(two)}
        wanted = {one.digest: same_content.request_digest, two.digest: same_content.request_digest}
        assert find_augmentations_by_request(session, wanted) == {one.digest: same_content}


def test_the_first_answer_to_a_request_stands(workshop: Workshop) -> None:
    stage_documents(workshop, 1)
    first = augmentation_of(document(0))
    with workshop.catalog.write() as session:
        add_augmentations(session, [first])
    with workshop.catalog.write() as session:
        add_augmentations(session, [replace(first, rewrites=("something else",))])
    with workshop.catalog.read() as session:
        assert find_augmentations(session, first.request_digest, [document(0).digest]) == {document(0).digest: first}


def test_an_augmentation_needs_its_document(workshop: Workshop) -> None:
    with workshop.catalog.write() as session, pytest.raises(NotFoundError, match="document"):
        add_augmentations(session, [augmentation_of(document(77))])


def test_texts_may_hold_anything(workshop: Workshop) -> None:
    stage_documents(workshop, 1)
    strange = replace(augmentation_of(document(0)), rewrites=('\x00 "quoted" \\ 手册 \U0001f3ee', ""))
    with workshop.catalog.write() as session:
        add_augmentations(session, [strange])
    with workshop.catalog.read() as session:
        assert find_augmentations(session, strange.request_digest, [document(0).digest]) == {
            document(0).digest: strange
        }


def test_adapters_are_found_by_what_they_are_made_from(workshop: Workshop) -> None:
    stage_documents(workshop, 3)
    with workshop.catalog.write() as session:
        adapters = workshop.encode(session, [document(0), document(1)])
    pairs = [(document(number).digest, augmentation_of(document(number)).digest) for number in range(3)]
    mixed = (pairs[0][0], pairs[1][1])
    with workshop.catalog.read() as session:
        assert find_adapters(session, workshop.recipe.digest, [*pairs, mixed]) == {
            pairs[0]: adapters[pairs[0][0]],
            pairs[1]: adapters[pairs[1][0]],
        }
        assert find_adapters(session, "0" * 64, pairs) == {}


def test_two_recipes_may_give_the_same_bytes(workshop: Workshop) -> None:
    """Otherwise the second recipe's adapter would be trained again by every build."""
    stage_documents(workshop, 1)
    other = replace(workshop.recipe, pairs=99)
    augmentation = augmentation_of(document(0))
    adapter = encoded_adapter(augmentation, workshop.recipe)
    with workshop.catalog.write() as session:
        add_recipe(session, other)
        add_augmentations(session, [augmentation])
        add_pack(session, pack_of([adapter.digest]), [adapter], None)
        add_pack(session, pack_of([adapter.digest]), [replace(adapter, recipe_digest=other.digest)], None)
    pair = (document(0).digest, augmentation.digest)
    with workshop.catalog.read() as session:
        for recipe in (workshop.recipe, other):
            assert find_adapters(session, recipe.digest, [pair]) == {pair: adapter.digest}
        assert resolve_adapter(session, adapter.digest).recipe_digest == workshop.recipe.digest


def test_an_adapter_is_recorded_whole(workshop: Workshop) -> None:
    build_id = stage_documents(workshop, 1)
    augmentation = augmentation_of(document(0))
    adapter = encoded_adapter(augmentation, workshop.recipe)
    pack = pack_of([adapter.digest])
    with workshop.catalog.write() as session:
        add_augmentations(session, [augmentation])
        add_pack(session, pack, [adapter], build_id)
    with workshop.catalog.read() as session:
        found = resolve_adapter(session, f"sha256:{adapter.digest[:10].upper()}")
        assert (found.digest, found.document_digest, found.title) == (adapter.digest, document(0).digest, "Beacon 0")
        assert (found.augmentation_digest, found.recipe_digest) == (augmentation.digest, workshop.recipe.digest)
        assert (found.kind, found.producer, found.size_bytes, found.parameters) == ("lora", "trained", 1000, 250)
        assert found.training == TRAINING
        assert found.build_id == build_id
        assert locate(session, [adapter.digest]) == {adapter.digest: pack.adapters[0]}
        assert packs_of_build(session, build_id) == [pack]


def test_a_pack_must_hold_its_adapters(workshop: Workshop) -> None:
    stage_documents(workshop, 1)
    augmentation = augmentation_of(document(0))
    with workshop.catalog.write() as session:
        add_augmentations(session, [augmentation])
    with workshop.catalog.write() as session, pytest.raises(IntegrityError, match="is not in pack"):
        add_pack(session, pack_of(["f" * 64]), [encoded_adapter(augmentation, workshop.recipe)], None)


def test_unknown_adapters_are_named(workshop: Workshop) -> None:
    with workshop.catalog.read() as session:
        with pytest.raises(NotFoundError, match=f"adapter {'a' * 64} lies in no pack .nor do 1 others."):
            locate(session, ["b" * 64, "a" * 64])
        with pytest.raises(NotFoundError, match="there is no adapter abc"):
            resolve_adapter(session, "abc")
        with pytest.raises(NotFoundError, match="not the digest"):
            resolve_adapter(session, "Beacon 0")
        assert locate(session, []) == {}


def test_combining_packs(workshop: Workshop) -> None:
    build_id = stage_documents(workshop, 4)
    adapters = []
    with workshop.catalog.write() as session:
        for number in range(4):
            augmentation = augmentation_of(document(number))
            adapters.append(encoded_adapter(augmentation, workshop.recipe))
            add_augmentations(session, [augmentation])
            add_pack(session, pack_of([adapters[-1].digest]), [adapters[-1]], build_id)
    digests = [adapter.digest for adapter in adapters]
    combined = pack_of(digests[:3])
    with workshop.catalog.write() as session:
        old = [pack.digest for pack in packs_of_build(session, build_id)]
        assert len(old) == 4
        add_pack(session, combined, (), build_id)
        assert set(forget_covered(session, old[:3])) == set(old[:3])
    with workshop.catalog.read() as session:
        assert [pack.digest for pack in packs_of_build(session, build_id)] == [old[3], combined.digest]
        located = locate(session, digests)
        assert [located[digest] for digest in digests[:3]] == list(combined.adapters)
        assert located[digests[3]].pack_digest == old[3]


def test_small_packs_of_a_corpus(workshop: Workshop) -> None:
    """Those of all its builds, also of the ones that did not end well, and of no other corpus."""
    built: list[list[str]] = []
    for corpus, count in (("coast", 1), ("coast", 3), ("atlas", 1)):
        with workshop.catalog.write() as session:
            build_id = workshop.begin(session, corpus)
            texts = [document(len(built) * 10 + number) for number in range(count)]
            stage(session, build_id, [PlacedDocument(text, Place("x", n)) for n, text in enumerate(texts)])
            augmentations = [augmentation_of(text) for text in texts]
            add_augmentations(session, augmentations)
            adapters = [encoded_adapter(item, workshop.recipe) for item in augmentations]
            add_pack(session, pack_of([item.digest for item in adapters]), adapters, build_id)
            built.append([item.digest for item in adapters])
    with workshop.catalog.read() as session:
        assert packs_of_corpus(session, "coast", below_bytes=10_000) == [pack_of(built[0]), pack_of(built[1])]
        assert packs_of_corpus(session, "coast", below_bytes=3_000) == [pack_of(built[0])]
        assert packs_of_corpus(session, "unknown", below_bytes=3_000) == []


def test_combining_packs_loses_no_adapter(workshop: Workshop) -> None:
    build_id = stage_documents(workshop, 2)
    with workshop.catalog.write() as session:
        adapters = workshop.encode(session, [document(0), document(1)])
    whole = pack_of(list(adapters.values()))
    with workshop.catalog.write() as session:
        add_pack(session, pack_of([adapters[document(0).digest]]), (), None)
        assert forget_covered(session, [whole.digest, "0" * 64]) == []
    with workshop.catalog.read() as session:
        assert len(locate(session, adapters.values())) == 2
        assert packs_of_build(session, build_id) == []


def test_an_adapter_in_two_packs(workshop: Workshop) -> None:
    """A build that was killed between the pack and the catalog makes the adapters again, in another pack."""
    stage_documents(workshop, 2)
    with workshop.catalog.write() as session:
        digests = list(workshop.encode(session, [document(0), document(1)]).values())
        second = pack_of(list(reversed(digests)))
        add_pack(session, second, [], None)
        add_pack(session, second, [], None)
    with workshop.catalog.write() as session:
        first = pack_of(digests)
        assert {item.pack_digest for item in locate(session, digests).values()} == {first.digest}
        assert forget_covered(session, [first.digest]) == [first.digest]
        assert locate(session, digests[:1]) == {
            digests[0]: AdapterLocation(digests[0], second.digest, second.adapters[1].offset, 1000)
        }


def test_packs_whose_adapters_lie_elsewhere_too_are_forgotten(workshop: Workshop) -> None:
    """Of what is given together, none counts as elsewhere for another; what is not there any more is passed over."""
    stage_documents(workshop, 3)
    augmentations = [augmentation_of(document(number)) for number in range(3)]
    encoded = [encoded_adapter(item, workshop.recipe) for item in augmentations]
    one, two, three = (item.digest for item in encoded)
    alone, pair, whole, twin = pack_of([one]), pack_of([one, two]), pack_of([two, one]), pack_of([three])
    copy = pack_of([three, one])
    with workshop.catalog.write() as session:
        add_augmentations(session, augmentations)
        add_pack(session, pair, encoded[:2], None)
        add_pack(session, twin, encoded[2:], None)
        for pack in (alone, copy):
            add_pack(session, pack, (), None)
        assert forget_covered(session, [pair.digest, alone.digest, "0" * 64]) == [alone.digest]
        assert forget_covered(session, [twin.digest, copy.digest]) == []
        add_pack(session, whole, (), None)
        assert set(forget_covered(session, [pair.digest, copy.digest])) == {pair.digest, copy.digest}
    with workshop.catalog.read() as session:
        located = locate(session, [one, two, three])
    assert [located[digest].pack_digest for digest in (one, two, three)] == [whole.digest, whole.digest, twin.digest]


def test_what_is_lost_and_made_again_otherwise_is_what_its_document_gives(workshop: Workshop) -> None:
    """Else every later build would look for the lost bytes, and train again."""
    stage_documents(workshop, 2)
    pairs = [(document(number).digest, augmentation_of(document(number)).digest) for number in range(2)]
    with workshop.catalog.write() as session:
        first = workshop.encode(session, [document(0), document(1)])
    with workshop.catalog.write() as session:
        # What lies somewhere stays what is given, whatever comes later.
        workshop.encode(session, [document(0), document(1)], take=1)
        assert find_adapters(session, workshop.recipe.digest, pairs) == {pair: first[pair[0]] for pair in pairs}
        forget_packs(session, [pack_of(list(first.values())).digest])
        assert find_adapters(session, workshop.recipe.digest, pairs) == {}
        again = workshop.encode(session, [document(0)], take=2)
    with workshop.catalog.read() as session:
        assert find_adapters(session, workshop.recipe.digest, pairs) == {pairs[0]: again[pairs[0][0]]}
        assert resolve_adapter(session, first[pairs[0][0]]).document_digest == pairs[0][0]


def test_documents_by_digest_and_by_prefix(workshop: Workshop) -> None:
    stage_documents(workshop, 30)
    with workshop.catalog.read() as session:
        digests = {document(number).digest: document(number) for number in range(30)}
        assert get_documents(session, digests) == digests
        assert resolve_document(session, document(3).digest[:20]) == document(3)
        with pytest.raises(NotFoundError, match="not in the catalog"):
            get_documents(session, [document(77).digest])
        shared = next(digit for digit in "0123456789abcdef" if sum(d.startswith(digit) for d in digests) > 1)
        with pytest.raises(NotFoundError, match="beginning of several documents: ") as caught:
            resolve_document(session, shared)
        assert caught.value.hint == "give more digits"
