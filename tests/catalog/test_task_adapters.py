"""Warm-ups: recorded with their questions, found again, and known when their bytes are lost."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from registry.catalog.adapters import (
    forget_covered,
    forget_packs,
    locate,
    pack_digests,
    packs_of_corpus,
)
from registry.catalog.engine import Catalog
from registry.catalog.task_adapters import (
    add_task_adapter,
    check_task_adapter_name,
    get_task_adapter,
    list_task_adapters,
    locate_task_adapter,
    overlapping_questions,
)
from registry.digests import sha256_hex, short
from registry.errors import IntegrityError, NotFoundError, UsageError
from registry.records import AdapterLocation, Pack, TaskAdapter
from tests.catalog.workshop import ADAPTER_BYTES, TRAINING, Workshop, document, pack_of, placed

MOMENT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def question(number: int) -> str:
    return sha256_hex(f"Who lit beacon {number}?".encode())


def warm_up(
    workshop: Workshop, *, take: int = 0, name: str = "trivia", days: int = 0, digest: str | None = None
) -> TaskAdapter:
    asked = range(10 * take, 10 * take + 10)
    return TaskAdapter(
        digest=digest or sha256_hex(f"warm-up {take}".encode()),
        recipe_digest=workshop.recipe.digest,
        name=name,
        questions_digest=sha256_hex(f"questions {take}".encode()),
        question_digests=tuple(sorted(question(number) for number in asked)),
        questions=10,
        parameters=250,
        size_bytes=ADAPTER_BYTES,
        training=TRAINING,
        created_at=MOMENT + timedelta(days=days),
    )


def add(catalog: Catalog, *task_adapters: TaskAdapter) -> None:
    with catalog.write() as session:
        for item in task_adapters:
            add_task_adapter(session, item, pack_of([item.digest]))


def test_a_task_adapter_comes_back_as_it_was(workshop: Workshop) -> None:
    made = warm_up(workshop)
    add(workshop.catalog, made)
    with workshop.catalog.read() as session:
        for identifier in (
            made.digest,
            made.digest.upper(),
            f"sha256:{made.digest}",
            f"sha256:{made.digest[:9]}",
            made.digest[:1],
            f" {short(made.digest)} ",
            "trivia",
        ):
            assert get_task_adapter(session, identifier) == made
        assert list_task_adapters(session) == [made]
        assert locate_task_adapter(session, made.digest) == pack_of([made.digest]).adapters[0]


def test_the_questions_are_kept_once_and_sorted(workshop: Workshop) -> None:
    made = replace(warm_up(workshop), question_digests=(question(2), question(1), question(2)), questions=3)
    add(workshop.catalog, made)
    with workshop.catalog.read() as session:
        found = get_task_adapter(session, made.digest)
        assert found.question_digests == tuple(sorted({question(1), question(2)}))
        assert found.questions == 3


def test_the_same_again_changes_nothing(workshop: Workshop) -> None:
    made = warm_up(workshop)
    add(workshop.catalog, made, made)
    again = replace(made, name="another", question_digests=(question(77),), created_at=MOMENT + timedelta(days=9))
    add(workshop.catalog, again)
    with workshop.catalog.read() as session:
        assert list_task_adapters(session) == [made]
        assert pack_digests(session) == {pack_of([made.digest]).digest}


def test_the_same_again_records_another_pack(workshop: Workshop) -> None:
    made = warm_up(workshop)
    add(workshop.catalog, made)
    moved = Pack("9" * 64, 5_000, (AdapterLocation(made.digest, "9" * 64, 4_000, ADAPTER_BYTES),))
    with workshop.catalog.write() as session:
        add_task_adapter(session, made, moved)
    with workshop.catalog.read() as session:
        assert locate_task_adapter(session, made.digest) == moved.adapters[0]
        assert list_task_adapters(session) == [made]


def test_a_name_is_that_of_the_newest(workshop: Workshop) -> None:
    first, second, nameless = (
        warm_up(workshop, take=1, days=2),
        warm_up(workshop, take=2, days=1),
        warm_up(workshop, take=3, name="", days=3),
    )
    add(workshop.catalog, first, second, nameless)
    with workshop.catalog.read() as session:
        assert get_task_adapter(session, "trivia") == first
        assert get_task_adapter(session, nameless.digest) == nameless
        assert list_task_adapters(session) == [nameless, first, second]
        with pytest.raises(NotFoundError):
            get_task_adapter(session, "")


def test_a_name_may_read_as_the_beginning_of_a_digest(workshop: Workshop) -> None:
    named = warm_up(workshop, take=1, name="cafe", digest="1" * 64)
    other = warm_up(workshop, take=2, name="", digest="cafe".ljust(64, "0"))
    add(workshop.catalog, named, other)
    with workshop.catalog.read() as session:
        assert get_task_adapter(session, "cafe") == named
        assert get_task_adapter(session, "sha256:cafe") == other
        assert get_task_adapter(session, other.digest) == other


def test_unknown_names_are_told_what_there_is(workshop: Workshop) -> None:
    with workshop.catalog.read() as session, pytest.raises(NotFoundError, match="no task adapter 'trivia'") as caught:
        get_task_adapter(session, "trivia")
    assert "pragreg warmup" in str(caught.value.hint)
    named = warm_up(workshop, take=1, digest="ab1".ljust(64, "0"))
    nameless = warm_up(workshop, take=2, name="", digest="ab2".ljust(64, "0"), days=1)
    add(workshop.catalog, named, nameless)
    with workshop.catalog.read() as session:
        for wrong in ("quiz", "sha256:trivia", "sha256:", "abc", "0" * 64, "Who?\x00", "sha256:ab1g"):
            with pytest.raises(NotFoundError, match="there is no task adapter") as caught:
                get_task_adapter(session, wrong)
            assert caught.value.hint == "there are: ab2000000000, trivia (ab1000000000)"
        with pytest.raises(NotFoundError, match="ab is the beginning of several task adapters") as caught:
            get_task_adapter(session, "ab")
        assert "ab1000000000" in str(caught.value.hint)
        for ask in (
            lambda: locate_task_adapter(session, "0" * 64),
            lambda: overlapping_questions(session, "0" * 64, [question(1)]),
        ):
            with pytest.raises(NotFoundError, match="0000 is not in the catalog") as caught:
                ask()
            assert "pragreg warmup" in str(caught.value.hint)


def test_overlapping_questions(workshop: Workshop) -> None:
    first, second = warm_up(workshop, take=0), warm_up(workshop, take=1)
    add(workshop.catalog, first, second)
    with workshop.catalog.read() as session:
        asked = [question(number) for number in range(5, 3_000)]
        assert overlapping_questions(session, first.digest, asked) == {question(number) for number in range(5, 10)}
        assert overlapping_questions(session, second.digest, iter(asked)) == set(second.question_digests)
        assert overlapping_questions(session, second.digest, first.question_digests) == set()
        assert overlapping_questions(session, second.digest, []) == set()


def test_a_lost_pack_leaves_the_task_adapter(workshop: Workshop) -> None:
    made = warm_up(workshop)
    add(workshop.catalog, made)
    workshop.build([placed(1)])
    with workshop.catalog.write() as session:
        forget_packs(session, pack_digests(session))
    with workshop.catalog.read() as session:
        assert pack_digests(session) == set()
        assert list_task_adapters(session) == [made]
        assert overlapping_questions(session, made.digest, [question(0), question(99)]) == {question(0)}
        with pytest.raises(IntegrityError, match=f"trivia .{short(made.digest)}. lies in no pack") as caught:
            locate_task_adapter(session, made.digest)
        assert "pragreg warmup" in str(caught.value.hint)
    add(workshop.catalog, made)
    with workshop.catalog.read() as session:
        assert locate_task_adapter(session, made.digest) == pack_of([made.digest]).adapters[0]
        assert list_task_adapters(session) == [made]


def test_its_pack_is_not_combined_with_others(workshop: Workshop) -> None:
    made = warm_up(workshop)
    add(workshop.catalog, made)
    workshop.build([placed(1)])
    own = pack_of([made.digest])
    with workshop.catalog.write() as session:
        assert own.digest not in {pack.digest for pack in packs_of_corpus(session, "handbook", below_bytes=1 << 40)}
        adapters = list(workshop.encode(session, [document(1)]).values())
    with workshop.catalog.write() as session:
        assert forget_covered(session, [own.digest]) == []
    with workshop.catalog.read() as session:
        assert locate_task_adapter(session, made.digest) == own.adapters[0]
        assert locate(session, adapters)


def test_a_pack_must_hold_it_alone_and_whole(workshop: Workshop) -> None:
    made = warm_up(workshop)
    cut = replace(made, size_bytes=ADAPTER_BYTES + 1)
    for wrong, pack in (
        (made, pack_of(["f" * 64])),
        (made, pack_of([made.digest, "f" * 64])),
        (cut, pack_of([made.digest])),
    ):
        with workshop.catalog.write() as session, pytest.raises(IntegrityError, match="alone and whole"):
            add_task_adapter(session, wrong, pack)
    with workshop.catalog.write() as session, pytest.raises(NotFoundError, match="recipe"):
        add_task_adapter(session, replace(made, recipe_digest="0" * 64), pack_of([made.digest]))


@pytest.mark.parametrize("name", ["two words", "sha256:cafe", "a\x00b", "-dash", "x" * 65])
def test_names_that_nobody_could_type(workshop: Workshop, name: str) -> None:
    made = warm_up(workshop, name=name)
    with workshop.catalog.write() as session, pytest.raises(UsageError, match="cannot be the name"):
        add_task_adapter(session, made, pack_of([made.digest]))
    check_task_adapter_name("")
    check_task_adapter_name("trivia-2")


def test_a_long_list_is_told_in_part(workshop: Workshop) -> None:
    add(workshop.catalog, *(warm_up(workshop, take=take, name=f"quiz-{take}", days=take) for take in range(21)))
    with workshop.catalog.read() as session, pytest.raises(NotFoundError) as caught:
        get_task_adapter(session, "trivia")
    hint = str(caught.value.hint)
    assert hint.startswith("there are: quiz-20 (")
    assert hint.endswith(", ...")
    assert "quiz-0 (" not in hint
