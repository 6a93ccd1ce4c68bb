"""Licences as the metadata of a card names them: the Hub takes its own identifiers, and ``other`` with a name."""

from __future__ import annotations

import re

_KNOWN = frozenset(
    [
        "afl-3.0",
        "agpl-3.0",
        "apache-2.0",
        "apple-amlr",
        "apple-ascl",
        "artistic-2.0",
        "bigcode-openrail-m",
        "bigscience-bloom-rail-1.0",
        "bigscience-openrail-m",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsd-3-clause-clear",
        "bsl-1.0",
        "c-uda",
        "cc",
        "cc-by-2.0",
        "cc-by-2.5",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-nc-2.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nc-nd-3.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-2.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
        "cc-by-nd-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc0-1.0",
        "cdla-permissive-1.0",
        "cdla-permissive-2.0",
        "cdla-sharing-1.0",
        "creativeml-openrail-m",
        "deepfloyd-if-license",
        "ecl-2.0",
        "epl-1.0",
        "epl-2.0",
        "etalab-2.0",
        "eupl-1.1",
        "eupl-1.2",
        "fair-noncommercial-research-license",
        "gemma",
        "gfdl",
        "gpl",
        "gpl-2.0",
        "gpl-3.0",
        "h-research",
        "intel-research",
        "isc",
        "lgpl",
        "lgpl-2.1",
        "lgpl-3.0",
        "lgpl-lr",
        "llama2",
        "llama3",
        "llama3.1",
        "llama3.2",
        "llama3.3",
        "llama4",
        "lppl-1.3c",
        "mit",
        "mpl-2.0",
        "ms-pl",
        "ncsa",
        "odbl",
        "odc-by",
        "ofl-1.1",
        "openmdw-1.0",
        "openrail",
        "openrail++",
        "osl-3.0",
        "other",
        "pddl",
        "postgresql",
        "unknown",
        "unlicense",
        "wtfpl",
        "zlib",
    ]
)
_NAME_LENGTH = 100
_FRONT_LENGTH = 65_536
_LINK = re.compile(r"https://[!-~]{1,500}")
_LINKED = "linked"


def licence_fields(licence: str | None) -> dict[str, str]:
    """Return a card's fields for a licence: an identifier of the Hub, a link to its text, or any other name."""
    text = (licence or "").strip()
    if not text:
        return {}
    if text.lower() in _KNOWN:
        return {"license": text.lower()}
    if _LINK.fullmatch(text):
        return {"license": "other", "license_name": _LINKED, "license_link": text}
    name = re.sub(r"[^a-z0-9._+-]+", "-", text.lower()).strip("-.")[:_NAME_LENGTH]
    return {"license": "other", **({"license_name": name} if name else {})}


def licence_of(card: str) -> str | None:
    """Return what ``licence_fields`` was given for a card; None where there is none, or the card cannot be read."""
    from huggingface_hub import ModelCard

    front = re.match(r"\s*---\n.*?\n---\n", card[:_FRONT_LENGTH], re.DOTALL)
    if front is None:
        return None
    try:
        metadata = ModelCard(front[0], ignore_metadata_errors=True).data
    except Exception:  # a README.md that somebody else wrote may be anything
        return None
    found = (metadata.get(name) for name in ("license_link", "license_name", "license"))
    return next((value for value in found if isinstance(value, str) and value), None)
