"""Which fields of a record are its title, its text and its identifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from registry.documents.formats import ID_FIELDS, TEXT_FIELDS, TITLE_FIELDS
from registry.documents.options import ReadOptions

FIELDS_HINT = "name the fields with --text-field, --title-field and --id-field"


class MissingField(LookupError):
    """Records lack a field that they must have; the message says which, and what they have instead."""


class Fields(NamedTuple):
    """The names of a record's fields; None where a record has no title or no identifier."""

    title: str | None
    text: str
    record_id: str | None


def find_fields(options: ReadOptions, names: Sequence[str]) -> Fields:
    """Return which of ``names`` are title, text and identifier: those asked for, else the first usual ones.

    Raises:
        MissingField: a field that was asked for is not there, or none could be the text.
    """
    text = _find(options.text_field, TEXT_FIELDS, names)
    if text is None:
        raise MissingField(f"has no text: none of its fields ({_shown(names)}) is {' or '.join(TEXT_FIELDS)}")
    return Fields(
        title=_find(options.title_field, TITLE_FIELDS, names),
        text=text,
        record_id=_find(options.id_field, ID_FIELDS, names),
    )


def _find(asked: str | None, usual: Sequence[str], names: Sequence[str]) -> str | None:
    if asked is not None:
        if asked not in names:
            raise MissingField(f"has no field {asked!r}; its fields are {_shown(names)}")
        return asked
    for name in usual:
        if name in names:
            return name
    lowered = {name.strip().lower(): name for name in reversed(names)}
    return next((lowered[name] for name in usual if name in lowered), None)


def _shown(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
