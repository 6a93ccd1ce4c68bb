"""The text of an answer while its tokens come.

A token's text is not always a whole character, and can depend on where it stands. So tokens become bytes, as the two
decoders nearly all models have would make them, and bytes become characters when the last of each has come.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from registry.generation.requests import OnText

BROKEN = "\ufffd"
"""What stands for bytes that are no character."""
LONGEST_CHARACTER = 4
"""A character in UTF-8 has at most so many bytes, and a token at least one."""
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


class AnswerText:
    """One answer, told to ``on_text`` as it grows.

    It is what the tokenizer's ``decode`` makes of all tokens but the special ones, without the spaces that some
    tokenizers take out before punctuation. Where the model itself writes bytes that are no characters, ``decode`` of a
    tokenizer with byte tokens (``<0xE4>``) may show more of the signs for that. Of a text with stop strings it is what
    comes before the one that is complete first, before the longest if several end there.

    Pieces are whole characters, and joined they are the text. Nothing is held back but a character that is not whole
    yet and what may be the beginning of a stop string. A token costs the same at any length of the text.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], on_text: OnText | None) -> None:
        """Begin an empty text; ``stop`` strings must not be empty."""
        self._characters = _characters_of(tokenizer)
        self._stops = [_Stop(one) for one in stop]
        self._on_text = on_text
        self._pieces: list[str] = []
        self._held = ""
        self._is_stopped = False

    def add(self, token: int) -> bool:
        """Take the next token; True says that a stop string is complete, and that the text ends before it."""
        if not self._is_stopped:
            self._take(self._characters.add(token))
        return self._is_stopped

    def finish(self) -> str:
        """Tell what was held back, and return the whole text."""
        if not self._is_stopped:
            self._take(self._characters.finish())
            self._show(self._held)
            self._held = ""
        return "".join(self._pieces)

    def _take(self, text: str) -> None:
        if not text:
            return
        text = self._held + text
        for end in range(len(self._held) + 1, len(text) + 1 if self._stops else 0):
            # Every stop string sees every character, so no short cut here.
            if complete := [len(stop) for stop in self._stops if stop.add(text[end - 1])]:
                self._is_stopped = True
                self._held = ""
                self._show(text[: end - max(complete)])
                return
        begun = max((stop.begun for stop in self._stops), default=0)
        self._held = text[len(text) - begun :]
        self._show(text[: len(text) - begun])

    def _show(self, piece: str) -> None:
        if piece:
            self._pieces.append(piece)
            if self._on_text is not None:
                self._on_text(piece)


class Stripped:
    """Tells ``on_text`` the pieces of a text without the white space around it, as ``str.strip`` leaves it."""

    def __init__(self, on_text: OnText) -> None:
        """Begin a text."""
        self._on_text = on_text
        self._space = ""
        self._has_begun = False

    def __call__(self, piece: str) -> None:
        """Take the next piece; white space waits for what comes after it."""
        text = self._space + piece
        if not self._has_begun:
            text = text.lstrip()
        words = text.rstrip()
        self._space = text[len(words) :]
        if words:
            self._has_begun = True
            self._on_text(words)


class _Stop:
    """A stop string that is looked for (Knuth, Morris, Pratt); ``begun`` characters of it are the text's last ones."""

    def __init__(self, stop: str) -> None:
        self.begun = 0
        self._stop = stop
        # How much of the string is its beginning and the end of its first n characters, by n; made as far as needed.
        self._shorter = [0, 0]

    def __len__(self) -> int:
        return len(self._stop)

    def add(self, character: str) -> bool:
        """Say whether the string is complete with this character; not to be called after that."""
        self.begun = self._longer(self.begun, character)
        if self.begun == len(self._shorter):
            self._shorter.append(self._longer(self._shorter[-1], character))
        return self.begun == len(self._stop)

    def _longer(self, begun: int, character: str) -> int:
        while begun and self._stop[begun] != character:
            begun = self._shorter[begun]
        return begun + (self._stop[begun] == character)


class _Characters(Protocol):
    """Makes characters of tokens: ``add`` returns those that are whole now, ``finish`` the rest."""

    def add(self, token: int) -> str: ...

    def finish(self) -> str: ...


class _FromBytes:
    """Characters by way of bytes."""

    def __init__(self, vocabulary: _Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._strips = vocabulary.strips_space

    def add(self, token: int) -> str:
        data = self._vocabulary.bytes_of(token)
        if self._strips and data:
            self._strips = False
            data = data.removeprefix(b" ")
        return self._decoder.decode(data)

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class _ByLibrary:
    """Characters by the tokenizer's own ``decode`` of a few tokens: for decoders that ``_Vocabulary`` does not know."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._before: list[int] = []
        self._coming: list[int] = []

    def add(self, token: int) -> str:
        if token in self._special:
            return ""
        self._coming.append(token)
        return self._text(is_last=len(self._coming) >= LONGEST_CHARACTER)

    def finish(self) -> str:
        return self._text(is_last=True)

    def _text(self, *, is_last: bool) -> str:
        """Return the text of the coming tokens after those before, whose spaces can depend on them."""
        text, before = self._decode(self._before + self._coming), self._decode(self._before)
        if text.endswith(BROKEN) and not is_last:
            return ""
        text = text[len(before) :] if text.startswith(before) else self._decode(self._coming)
        if text:
            self._before = self._coming
        if text or is_last:
            self._coming = []
        return text

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class _Vocabulary:
    """The bytes of every token of a tokenizer; ``strips_space`` says that a text loses a space that it begins with."""

    def __init__(self, tokenizer: Any, *, is_byte_level: bool, strips_space: bool) -> None:
        self.strips_space = strips_space
        self._tokens = tokenizer.backend_tokenizer
        self._is_byte_level = is_byte_level
        # What is special is not part of the text.
        added = self._tokens.get_added_tokens_decoder()
        self._known = {number: b"" for number, token in added.items() if token.special}

    def bytes_of(self, token: int) -> bytes:
        """Return what a token stands for; nothing for one that only the model has."""
        known = self._known.get(token)
        if known is None:
            known = self._known[token] = self._bytes(self._tokens.id_to_token(token) or "")
        return known

    def _bytes(self, token: str) -> bytes:
        if not self._is_byte_level:
            byte = _BYTE_TOKEN.fullmatch(token)
            return bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode()
        if all(character in _BYTE_OF for character in token):
            return bytes(_BYTE_OF[character] for character in token)
        return token.encode()


def _byte_of() -> dict[str, int]:
    """Return the alphabet of byte-level tokenizers: bytes that print stand for themselves, the rest from U+0100 on."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(0x100) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(0x100 + n): byte for n, byte in enumerate(rest)}


_BYTE_OF = _byte_of()
_VOCABULARIES: WeakKeyDictionary[Any, _Vocabulary | None] = WeakKeyDictionary()


def _characters_of(tokenizer: Any) -> _Characters:
    if tokenizer not in _VOCABULARIES:
        _VOCABULARIES[tokenizer] = _vocabulary(tokenizer)
    vocabulary = _VOCABULARIES[tokenizer]
    return _ByLibrary(tokenizer) if vocabulary is None else _FromBytes(vocabulary)


def _vocabulary(tokenizer: Any) -> _Vocabulary | None:
    """Return the bytes of a tokenizer's tokens, None where its decoder is not one of the two usual ones."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return None
    state = json.loads(decoder.__getstate__())
    steps = state["decoders"] if state["type"] == "Sequence" else [state]
    if [step["type"] for step in steps] == ["ByteLevel"]:
        return _Vocabulary(tokenizer, is_byte_level=True, strips_space=False)
    if steps[:3] == _SENTENCE_PIECE and steps[3:] in ([], [_STRIP]):
        return _Vocabulary(tokenizer, is_byte_level=False, strips_space=bool(steps[3:]))
    return None


_SENTENCE_PIECE = [
    {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
