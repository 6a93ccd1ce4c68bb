"""Parametric memory of documents: one LoRA adapter each, catalogued, versioned, merged when a question is asked.

import registry

handbook = registry.open().corpus("handbook@production")
print(handbook.ask("Who signs travel forms?").answer)
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry.pipeline.python_api import OpenRegistry
    from registry.settings import Home


def open(home: str | PathLike[str] | Home | None = None, *, device: str = "auto", dtype: str = "auto") -> OpenRegistry:
    """Open a registry home to ask its corpora: a folder, or what the command line finds without ``--home``.

    ``device`` is where models compute (auto, cpu, cuda, cuda:1, mps), ``dtype`` in which numbers (auto is the
    recipe's). To be closed, or used as a context manager; what is forgotten is closed when it is collected.

    Raises:
        HomeError: there is no home, or its catalog cannot be reached or has another schema.
    """
    from registry.pipeline.python_api import OpenRegistry  # brings SQLAlchemy

    return OpenRegistry(home, device=device, dtype=dtype)
