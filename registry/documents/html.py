"""Read HTML: headings become titles, blocks become paragraphs; scripts, styles and navigation are left out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import BinaryIO, Literal

from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning, Tag, XMLParsedAsHTMLWarning
from bs4.element import NavigableString, PageElement, PreformattedString

from registry.documents.formats import readable_name
from registry.documents.opening import open_checked_text
from registry.documents.options import ReadOptions
from registry.documents.sections import CELL_SEPARATOR, Outline, Section, one_line, without_controls
from registry.documents.source_file import SourceFile

_LEFT_OUT = [
    "button",
    "iframe",
    "nav",
    "noscript",
    "object",
    "script",
    "select",
    "style",
    "svg",
    "template",
    "textarea",
]
_GROUPS = frozenset({"ul", "ol", "dl", "table"})
_CELLS = frozenset({"td", "th"})
_BLOCK_NAMES = """
    address article aside blockquote body caption center dd details dialog
    div dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 header
    hgroup hr html legend li main menu p pre search section summary tbody
    tfoot thead tr
"""
_BLOCKS = _GROUPS | {BeautifulSoup.ROOT_TAG_NAME, *_BLOCK_NAMES.split()}
_HEADING = re.compile(r"h[1-6]\Z")
_SPACES = re.compile(r"\s+")
_SPACES_AROUND_LINE_END = re.compile(r"[ \t]*\n[ \t]*")

_Event = tuple[Literal["open", "close", "text"], str]


def read_html(stream: BinaryIO, source: SourceFile, options: ReadOptions) -> Iterator[Section]:
    """Yield the sections of an HTML file, titled with the path of headings: "Harbour > Tides > Spring tides".

    A page without a heading of level 1 has its ``<title>``, or its file's name, in the first place. Table cells are
    joined by ``|``; items of lists and rows of tables are lines of one paragraph.

    Raises:
        InvalidInput: the file cannot be read or is not UTF-8 text.
    """
    with open_checked_text(stream, source) as lines:
        page = _parse(without_controls(lines.read()))
    title = ""
    if page.title is not None:
        title = one_line(page.title.extract().get_text())
    reader = _PageReader(Outline(title or readable_name(source.uri)))
    for event in _events(page):
        if section := reader.take(event):
            yield section
    if section := reader.outline.finish():
        yield section


def text_of_fragment(fragment: str) -> str:
    """Return the text of a piece of HTML as it stands in Markdown, without headings or paragraphs of its own."""
    lines = (line.strip() for line in _parse(fragment).get_text().splitlines())
    return "\n".join(line for line in lines if line)


def _parse(markup: str) -> BeautifulSoup:
    with warnings.catch_warnings():
        # XHTML is read well enough as HTML, and a file's content is never taken for its name.
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)
        warnings.simplefilter("ignore", MarkupResemblesLocatorWarning)
        page = BeautifulSoup(markup, "html.parser")
    for tag in page(_LEFT_OUT):
        tag.decompose()
    return page


def _events(page: BeautifulSoup) -> Iterator[_Event]:
    """Yield where elements open and close and the text between, without recursion: pages may be nested deeply."""
    pending: list[PageElement | str] = [page]
    while pending:
        node = pending.pop()
        if isinstance(node, Tag):
            yield "open", node.name
            pending.append(node.name)
            pending.extend(reversed(node.contents))
        elif not isinstance(node, NavigableString):
            yield "close", str(node)
        elif not isinstance(node, PreformattedString):  # comments, declarations
            yield "text", str(node)


class _PageReader:
    """Turns events into headings and paragraphs of an outline."""

    def __init__(self, outline: Outline) -> None:
        self.outline = outline
        self._line: list[str] = []
        self._prefix = ""
        self._heading_level = 0
        self._preformatted = 0

    def take(self, event: _Event) -> Section | None:
        """Take the next event and return the section that it ends, if it ends one."""
        kind, value = event
        if kind == "text":
            self._line.append(value if self._preformatted else _SPACES.sub(" ", value))
            return None
        if value not in _BLOCKS:
            if kind == "open" and value == "br":
                self._line.append("\n")
            elif kind == "open" and value in _CELLS and "".join(self._line).strip():
                self._line.append(CELL_SEPARATOR)
            return None
        ended = self._end_paragraph()
        self._change_state(kind, value)
        return ended

    def _end_paragraph(self) -> Section | None:
        text = "".join(self._line)
        self._line.clear()
        if not self._preformatted:
            text = re.sub(" +", " ", _SPACES_AROUND_LINE_END.sub("\n", text)).strip()
        if not text.strip():
            return None
        if self._heading_level:
            # The first paragraph in a heading is the heading: one that is never closed does not swallow the page.
            level, self._heading_level = self._heading_level, 0
            return self.outline.enter(level, text)
        self.outline.add(self._prefix + text.strip("\n"))
        self._prefix = ""
        return None

    def _change_state(self, kind: Literal["open", "close", "text"], name: str) -> None:
        opens = kind == "open"
        if name in _GROUPS:
            if opens:
                self.outline.open_group()
            else:
                self.outline.close_group()
        elif name == "pre":
            self._preformatted += 1 if opens else -1
        elif name == "li":
            self._prefix = "- " if opens else ""
        elif _HEADING.match(name):
            self._heading_level = int(name[1]) if opens else 0
