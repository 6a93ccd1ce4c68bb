"""Read Markdown (CommonMark with tables): headings become titles, markup becomes plain text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from markdown_it import MarkdownIt
from markdown_it.token import Token

from registry.documents.formats import readable_name
from registry.documents.html import text_of_fragment
from registry.documents.opening import open_checked_text
from registry.documents.options import ReadOptions
from registry.documents.sections import CELL_SEPARATOR, Outline, Section, one_line, without_controls
from registry.documents.source_file import SourceFile

# YAML at the very start of the file. It must look like YAML: a rule (---) may begin a text as well.
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(?=\s*(?:#|[\w-]+[ \t]*:))(.*?\n)(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title[ \t]*:[ \t]*(['\"]?)(.+?)\1[ \t]*$", re.MULTILINE | re.IGNORECASE)
_MAX_NESTING = 100
_GROUP_OPENS = frozenset({"bullet_list_open", "ordered_list_open", "table_open"})
_GROUP_CLOSES = frozenset({"bullet_list_close", "ordered_list_close", "table_close"})


def read_markdown(stream: BinaryIO, source: SourceFile, options: ReadOptions) -> Iterator[Section]:
    """Yield the sections of a Markdown file, titled with the path of headings: "Harbour > Tides > Spring tides".

    A file without a heading of level 1 has the title of its front matter, or its name, in the first place. Front
    matter is no text. Code is kept as it stands, links and images as their text, tables as cells joined by ``|``.

    Raises:
        InvalidInput: the file cannot be read or is not UTF-8 text.
    """
    with open_checked_text(stream, source) as lines:
        text = without_controls(lines.read())
    root = readable_name(source.uri)
    if front := _FRONT_MATTER.match(text):
        text = text[front.end() :]
        if title := _FRONT_TITLE.search(front.group(1)):
            root = one_line(title.group(2))
    parser = MarkdownIt("commonmark", {"maxNesting": _MAX_NESTING}).enable("table")
    yield from _sections(parser.parse(text), Outline(root))


def _sections(tokens: Sequence[Token], outline: Outline) -> Iterator[Section]:
    prefix = ""  # the mark of the list item that begins
    heading_level = 0
    row: list[str] | None = None
    for token in tokens:
        kind = token.type
        if kind in _GROUP_OPENS:
            outline.open_group()
        elif kind in _GROUP_CLOSES:
            outline.close_group()
        elif kind == "list_item_open":
            prefix = f"{token.info}{token.markup} "
        elif kind == "tr_open":
            row = []
        elif kind == "tr_close" and row:
            outline.add(CELL_SEPARATOR.join(row))
            row = None
        elif kind in {"heading_open", "heading_close"}:
            heading_level = int(token.tag[1:]) if token.nesting > 0 and token.level == 0 else 0
        elif text := _text(token):
            if row is not None:
                row.append(text)
            elif heading_level:
                if section := outline.enter(heading_level, text):
                    yield section
            else:
                outline.add(prefix + text)
                prefix = ""
    if section := outline.finish():
        yield section


def _text(token: Token) -> str:
    """Return the plain text of a leaf block, empty for anything else."""
    if token.type == "inline":
        return "".join(_inline_text(child) for child in token.children or []).strip()
    if token.type in {"fence", "code_block"}:
        return token.content.strip("\n")
    if token.type == "html_block":
        return text_of_fragment(token.content)
    return ""


def _inline_text(token: Token) -> str:
    if token.type == "softbreak":
        return " "
    if token.type == "hardbreak" or (token.type == "html_inline" and token.content.lower().startswith("<br")):
        return "\n"
    if token.type in {"text", "code_inline", "image"}:
        return token.content
    return ""
