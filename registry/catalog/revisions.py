"""Which schema this program needs, without importing alembic or SQLAlchemy.

A revision is named like its file in ``migrations/versions``, and files are in order: ``0001_catalog``, ``0002_...``.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from registry.errors import HomeError


def migrations_path() -> Path:
    """Return the folder of the installed ``migrations`` package."""
    spec = find_spec("migrations")
    if spec is None or spec.origin is None:
        raise HomeError("the package migrations is not installed", hint="install pragreg again")
    return Path(spec.origin).parent


def known_revisions() -> list[str]:
    """Return all revisions that this program knows, oldest first; the last is the one that it needs."""
    return sorted(path.stem for path in (migrations_path() / "versions").glob("[0-9]*.py"))


def refuse_other_schema(found: str | None, name: str) -> None:
    """Check that a database of the revision ``found`` can be used; ``name`` is its masked URL.

    Raises:
        HomeError: there is no catalog in it, or one of an older or newer schema.
    """
    known = known_revisions()
    if found is None:
        raise HomeError(f"there is no catalog at {name}", hint="pragreg db upgrade")
    if re.fullmatch(r"\d{4}_\w+", found) is None:
        raise HomeError(
            f"the database {name} belongs to another program: its schema is {found}",
            hint="give the catalog a database of its own, in pragreg.toml, [catalog] url",
        )
    if found not in known:
        raise HomeError(
            f"the catalog {name} has schema {found}, which this pragreg does not know yet",
            hint="upgrade pragreg: pip install --upgrade pragreg",
        )
    if found != known[-1]:
        raise HomeError(
            f"the catalog {name} has schema {found}, this pragreg needs {known[-1]}", hint="pragreg db upgrade"
        )
