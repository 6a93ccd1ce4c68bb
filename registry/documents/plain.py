"""Read plain text: paragraphs, gathered into passages as they come."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import BinaryIO

from registry.documents.formats import readable_name
from registry.documents.opening import open_checked_text
from registry.documents.options import ReadOptions
from registry.documents.passages import passage_spans
from registry.documents.sections import Section, without_controls
from registry.documents.source_file import SourceFile

_BLOCK_PASSAGES = 50
_CHARACTERS_A_WORD = 8


def read_text(stream: BinaryIO, source: SourceFile, options: ReadOptions) -> Iterator[Section]:
    """Yield the passages of a text file as sections, titled with the file's name made readable.

    The text is cut block by block at line ends; the last passage of a block waits for the next block, so a file of
    any length is read in bounded memory and is cut at ends of sentences throughout. Line ends stay, several empty
    lines become one.

    Raises:
        InvalidInput: the file cannot be read or is not UTF-8 text; nothing has been yielded then.
    """
    title = readable_name(source.uri)
    block_characters = options.words * _CHARACTERS_A_WORD * _BLOCK_PASSAGES
    with open_checked_text(stream, source) as lines:
        block: list[str] = []
        characters = 0
        for line in lines:
            if line.isspace() and (not block or block[-1].isspace()):
                continue
            block.append(unicodedata.normalize("NFC", without_controls(line)))
            characters += len(line)
            if characters >= block_characters:
                text = "".join(block)
                spans = passage_spans(text, options.words, options.language)
                for start, end in spans[:-1]:
                    yield Section(title, text[start:end].strip())
                block = [text[spans[-1][0] :]]
                characters = 0
        text = "".join(block)
        for start, end in passage_spans(text, options.words, options.language):
            yield Section(title, text[start:end].strip())
