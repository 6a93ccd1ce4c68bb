"""How the versions of a corpus here and those of a repository stand to each other.

A version is recognised by its digest, in order: its number here may be another than there, since what was rebased lies
between here and was never published. A content that comes twice is matched twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from registry.published import PublishedVersion

State = Literal["equal", "ahead", "behind", "diverged"]


@dataclass(frozen=True, slots=True)
class Relation:
    """What one side has and the other has not, seen from here: "ahead" is a corpus with versions to push.

    ``numbers`` are the versions that both have: the repository's number, then the corpus'. ``only_here`` (the corpus'
    numbers) came after the last of them, as did ``only_there`` (the repository's). A version of the corpus that lies
    between two of them was replayed on what came from there, and is in neither.
    """

    state: State
    numbers: Mapping[int, int]
    only_here: tuple[int, ...]
    only_there: tuple[int, ...]


def compare(local: Sequence[tuple[int, str]], remote: Sequence[PublishedVersion]) -> Relation:
    """Compare the versions of a corpus (number and digest, oldest first) with those of a repository.

    Every version of the repository in turn is looked for among those of the corpus that follow the one before; from the
    first that is not found on, what each side has is its own.
    """
    numbers: dict[int, int] = {}
    begin = 0
    for version in remote:
        same = (index for index in range(begin, len(local)) if local[index][1] == version.digest)
        found = next(same, None)
        if found is None:
            break
        numbers[version.number] = local[found][0]
        begin = found + 1
    only_here = tuple(number for number, _ in local[begin:])
    only_there = tuple(version.number for version in remote[len(numbers) :])
    return Relation(_state(bool(only_here), bool(only_there)), numbers, only_here, only_there)


def _state(has_own: bool, lacks_some: bool) -> State:
    if lacks_some:
        return "diverged" if has_own else "behind"
    return "ahead" if has_own else "equal"
