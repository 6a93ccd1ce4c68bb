"""Whether a push may write to a repository at all."""

from __future__ import annotations

import re

from registry.errors import UsageError
from registry.pipeline.push.work import Work

_HARMLESS = re.compile(r"\.gitattributes|\.gitignore|README\.md|LICEN[SC]E(\.\w+)?")
_OURS = re.compile(r"(packs|shards|records)/[0-9a-f]{2}/[0-9a-f]{64}\.(safetensors|parquet)")
"""What a push leaves that was killed between the parts of a large commit."""
_LISTED = 5


def check_free(work: Work) -> None:
    """Check that a repository without a root manifest holds nothing of anybody else's.

    Raises:
        UsageError: it does; the message names what.
    """
    seen = work.seen
    if seen.head is None or seen.root is not None:
        return
    files = work.hub.list_files(work.repository, seen.head)
    foreign = sorted(
        file.path for file in files if not _HARMLESS.fullmatch(file.path) and not _OURS.fullmatch(file.path)
    )
    if foreign:
        more = f" and {len(foreign) - _LISTED} files more" if len(foreign) > _LISTED else ""
        raise UsageError(
            f"{work.repository} holds something else: {', '.join(foreign[:_LISTED])}{more}",
            hint="push to a repository that is empty or does not exist yet",
        )


def check_begun(work: Work) -> None:
    """Check that a repository can be continued: with texts if these are to be published, and without if not.

    Raises:
        UsageError: it was begun the other way, or its newest version lacks adapters.
    """
    root = work.seen.root
    if root is None:
        return
    if not root.versions[-1].is_complete:
        raise UsageError(
            f"the newest version of {work.repository} lacks adapters, so nothing can be built upon it",
            hint="push to another repository",
        )
    if root.has_text == work.has_text:
        return
    if root.has_text:
        raise UsageError(
            f"{work.repository} was begun with texts, so --no-text would hide nothing",
            hint=f"pragreg push NAMESPACE/OTHER --corpus {work.corpus} --no-text begins one without",
        )
    raise UsageError(
        f"{work.repository} was begun without texts, and none are published by accident",
        hint=f"pragreg push {work.repository} --corpus {work.corpus} --no-text",
    )
