"""How the stand-in is set, at its start and by the control interface."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Settings:
    """How the stand-in is to be today; ``write_tokens`` empty means that everybody may write.

    ``first_commit``: a new repository begins with a commit of .gitattributes. ``verify``: uploads have a verify action.
    ``multipart_bytes``: larger files go up in parts of that size. ``redirect_regular``: small files are answered with a
    redirect on the same origin, as the Hub's own cache does.
    """

    write_tokens: list[str] = field(default_factory=list)
    read_tokens: list[str] = field(default_factory=list)
    first_commit: bool = True
    verify: bool = False
    multipart_bytes: int | None = None
    page_size: int = 1000
    redirect_regular: bool = False
    signed_seconds: int = 3600
