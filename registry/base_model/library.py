"""transformers at arm's length: it draws progress bars, logs advice, shrugs at missing weights and raises anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from registry.errors import BaseModelError, PragregError

MESSAGE_CHARACTERS = 300


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and everything below errors, for the time of the block."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def reading(failure: str, *, hint: str) -> Iterator[None]:
    """Silence transformers while it reads a model, and give what it raises as a :class:`BaseModelError`.

    ``failure`` begins the message ("base model x cannot be loaded"). Every exception is taken: for a malformed file
    tokenizers raises a plain ``Exception``, and the others whatever their parsing stumbled over.

    Raises:
        BaseModelError: the files are malformed, of an unknown architecture, or do not fit into memory.
    """
    import torch

    try:
        with quiet():
            yield
    except PragregError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        memory_hint = "use --dtype bfloat16, --device cpu or a smaller model"
        raise BaseModelError(f"{failure}: it does not fit into memory", hint=memory_hint) from error
    except Exception as error:
        raise BaseModelError(f"{failure}: {in_a_line(error)}", hint=hint) from error


def require_all_weights(report: Any) -> None:
    """Check the loading report: transformers fills what a file lacks with random numbers, and only warns.

    Raises:
        ValueError: a weight was missing or of another shape.
    """
    for kind in ("missing_keys", "mismatched_keys"):
        if names := sorted(str(name) for name in report.get(kind, ())):
            raise ValueError(f"{kind.partition('_')[0]} weights: {', '.join(names[:3])} ({len(names)} in all)")


def in_a_line(error: Exception) -> str:
    """Return what an error says in one line of bounded length: some list every architecture there is."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= MESSAGE_CHARACTERS else text[:MESSAGE_CHARACTERS] + "..."
