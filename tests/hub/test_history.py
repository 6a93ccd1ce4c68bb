"""How the versions of a corpus and those of a repository stand to each other; versions are letters."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from registry.digests import sha256_hex
from registry.hub.history import Relation, compare
from registry.published import PublishedVersion

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def relation(here: str, there: str) -> Relation:
    local = [(number, sha256_hex(letter.encode())) for number, letter in enumerate(here, 1)]
    remote = [
        PublishedVersion(number, sha256_hex(letter.encode()), number - 1 or None, "", "", MOMENT, 1, 1)
        for number, letter in enumerate(there, 1)
    ]
    return compare(local, remote)


@pytest.mark.parametrize(
    ("here", "there", "state", "numbers", "only_here", "only_there"),
    [
        ("", "", "equal", {}, (), ()),
        ("ab", "ab", "equal", {1: 1, 2: 2}, (), ()),
        ("a", "", "ahead", {}, (1,), ()),
        ("abc", "a", "ahead", {1: 1}, (2, 3), ()),
        ("", "ab", "behind", {}, (), (1, 2)),
        ("a", "abc", "behind", {1: 1}, (), (2, 3)),
        ("ax", "ay", "diverged", {1: 1}, (2,), (2,)),
        ("axz", "ay", "diverged", {1: 1}, (2, 3), (2,)),
        ("xy", "ab", "diverged", {}, (1, 2), (1, 2)),
        # The same content again is another version.
        ("aba", "ab", "ahead", {1: 1, 2: 2}, (3,), ()),
        ("ab", "aba", "behind", {1: 1, 2: 2}, (), (3,)),
        ("aba", "aba", "equal", {1: 1, 2: 2, 3: 3}, (), ()),
        ("aba", "a", "ahead", {1: 1}, (2, 3), ()),
        ("aba", "aa", "equal", {1: 1, 2: 3}, (), ()),
        # x was left behind when z, the same change, was put on top of y.
        ("axyz", "ay", "ahead", {1: 1, 2: 3}, (4,), ()),
        ("axyz", "ayz", "equal", {1: 1, 2: 3, 3: 4}, (), ()),
        ("axyz", "ayzb", "behind", {1: 1, 2: 3, 3: 4}, (), (4,)),
        ("axyzw", "ayzb", "diverged", {1: 1, 2: 3, 3: 4}, (5,), (4,)),
        # What follows the first version that is not here is theirs, also where its content is here.
        ("ab", "ayb", "diverged", {1: 1}, (2,), (2, 3)),
        ("xab", "ab", "equal", {1: 2, 2: 3}, (), ()),
        # A rebase that changed nothing: theirs had it all.
        ("axy", "ay", "equal", {1: 1, 2: 3}, (), ()),
        # Twice rebased.
        ("axyzwv", "ayzwv", "equal", {1: 1, 2: 3, 3: 4, 4: 5, 5: 6}, (), ()),
        ("axyzqr", "ayq", "ahead", {1: 1, 2: 3, 3: 5}, (6,), ()),
    ],
)
def test_relation(
    here: str, there: str, state: str, numbers: dict[int, int], only_here: tuple[int], only_there: tuple[int]
) -> None:
    found = relation(here, there)
    assert (found.state, dict(found.numbers)) == (state, numbers)
    assert (found.only_here, found.only_there) == (only_here, only_there)


def test_local_numbers_need_not_begin_at_one() -> None:
    digests = [sha256_hex(letter.encode()) for letter in "ab"]
    found = compare([(4, digests[0]), (7, digests[1])], [])
    assert found == Relation("ahead", {}, (4, 7), ())
