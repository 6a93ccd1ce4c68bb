"""Names of models: ``CORPUS[@REF][+MODE]``, such as ``handbook``, ``handbook@production``, ``handbook@v3+combined``."""

from __future__ import annotations

from dataclasses import dataclass

from registry.catalog.names import is_corpus_name
from registry.errors import NotFoundError
from registry.records import MODES, Mode

LONGEST_NAME = 256
"""Characters; a corpus, a digest and a mode have fewer."""
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model's name taken apart: ``reference`` names a version as on the command line, ``mode`` may be left open."""

    text: str
    corpus: str
    reference: str
    mode: Mode | None


def parse_model_name(text: str) -> ModelName:
    """Take a model's name apart; whether there is such a version is for the catalog to say.

    Raises:
        NotFoundError: nothing can be called so.
    """
    reference, plus, mode = text.partition("+")
    corpus, at, wanted = reference.partition("@")
    known = next((each for each in MODES if each == mode), None)
    if (plus and known is None) or not is_corpus_name(corpus) or (at and not _can_be_reference(wanted)):
        shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
        raise NotFoundError(
            f"there is no model {shown!r}",
            hint=f"a model is CORPUS, CORPUS@ALIAS or CORPUS@v3, and may end in +MODE ({', '.join(MODES)}); "
            "GET /v1/models lists what there is",
        )
    return ModelName(text, corpus, reference, known)


def _can_be_reference(text: str) -> bool:
    # What no alias, number or digest can be is not looked for: it may be text that no database takes.
    return is_corpus_name(text.removeprefix("sha256:"))
