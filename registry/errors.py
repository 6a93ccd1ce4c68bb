"""Every error that pragreg raises on purpose, in one tree.

    PragregError                     exit code
    ├── UsageError                    2   an option or argument is wrong
    ├── HomeError                     3   no registry home, or one of another schema
    ├── InputError                    4   a source, augmentation or question file is wrong
    ├── NotFoundError                 5   a corpus, version, document or adapter is unknown
    ├── BaseModelError                6   a base model is missing, foreign or unsuitable
    ├── IntegrityError                7   bytes do not match their digest, or are malformed
    ├── EncodingError                 8   an adapter could not be trained
    ├── AugmentationError             9   the augmenter failed as a whole
    ├── BusyError                    10   someone else holds the corpus
    ├── StorageError                 11   the disk is full, or a path cannot be written
    ├── HubError                     12   the Hub cannot be reached, or refuses
    ├── DivergedError                13   a corpus and its repository have each versions that the other has not
    └── Interrupted                 130   Ctrl-C or SIGTERM; what was finished is kept

A message says what is wrong and with which input; ``hint`` is the next command to type or thing to change.
The command line shows both and exits with ``exit_code``; nothing else turns errors into text.
"""

from __future__ import annotations

from typing import ClassVar


class PragregError(Exception):
    """The root of the tree; ``hint`` is the next thing to do, ``exit_code`` the process' status."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Keep the message (one sentence, naming the input) and the hint."""
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(PragregError):
    """An option or argument has a value that cannot be used."""

    exit_code = 2


class HomeError(PragregError):
    """There is no registry home here, or its schema is of another version."""

    exit_code = 3


class InputError(PragregError):
    """A source, an augmentation file or a question file is wrong; the message names file and line."""

    exit_code = 4


class NotFoundError(PragregError):
    """A corpus, version, document, adapter, build or query is not in the catalog."""

    exit_code = 5


class BaseModelError(PragregError):
    """A base model is missing, is not the recipe's, or has an architecture that cannot be adapted."""

    exit_code = 6


class IntegrityError(PragregError):
    """Bytes do not match their digest, or an adapter or pack is malformed."""

    exit_code = 7


class EncodingError(PragregError):
    """An adapter could not be trained, or came out non-finite or without effect."""

    exit_code = 8


class AugmentationError(PragregError):
    """The augmenter failed as a whole (no endpoint, no key, budget spent)."""

    exit_code = 9


class BusyError(PragregError):
    """Another process is building this corpus."""

    exit_code = 10


class StorageError(PragregError):
    """The disk is full, or a path of the registry cannot be read or written."""

    exit_code = 11


class HubError(PragregError):
    """The Hub cannot be reached, refuses, or answers what is no answer."""

    exit_code = 12


class DivergedError(PragregError):
    """A corpus and its repository have each versions that the other has not; neither is overwritten."""

    exit_code = 13


class Interrupted(PragregError):
    """The user asked to stop; everything that was finished is kept."""

    exit_code = 130
