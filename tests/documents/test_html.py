from __future__ import annotations

from tests.documents.reader import Reader, places, shown

PAGE = """<!DOCTYPE html>
<html><head><title>Orrinsay
 Harbour</title><style>p { color: red }</style><script>var text = "hidden";</script></head>
<body>
<nav><a href="/">Home</a></nav>
<p>Before  the first
heading.</p>
<h2>Tides &amp; <em>depths</em></h2>
Loose text, <b>bold</b>text<br>on two lines.
<ul><li>Spring tides</li><li><p>Neap tides</p><ul><li>first</li></ul></li></ul>
<table><tr><th>Berth</th><th>Metres</th></tr><tr><td>North</td><td>4.5</td></tr></table>
<pre>
depth = 4
  metres
</pre>
<!-- a comment -->
<h3>Fees</h3><div><div>Two crowns.</div>A day.</div>
<h1><a name="x"></a>Lamp</h1><p>Green.
</body></html>
"""


def test_headings_become_titles_and_blocks_become_paragraphs(reader: Reader) -> None:
    documents = reader.read_content("lib/page.html", PAGE)
    assert shown(documents) == [
        ("Orrinsay Harbour", "Before the first heading."),
        (
            "Orrinsay Harbour > Tides & depths",
            "Loose text, boldtext\non two lines.\n\n- Spring tides\n- Neap tides\n- first\n\n"
            "Berth | Metres\nNorth | 4.5\n\ndepth = 4\n  metres",
        ),
        ("Orrinsay Harbour > Tides & depths > Fees", "Two crowns.\n\nA day."),
        ("Lamp", "Green."),
    ]
    assert places(documents) == [("lib/page.html", number, None) for number in range(4)]


def test_a_page_without_title_is_named_after_its_file(reader: Reader) -> None:
    assert shown(reader.read_content("old_lamp.htm", "<p>Green.")) == [("old lamp", "Green.")]


def test_broken_markup_loses_no_text(reader: Reader) -> None:
    text = "<h1>Lamp<p>Green.<div><h2>Oil</h3><p>Whale<table><tr><td>One<td>Two<tr><td>Three"
    assert shown(reader.read_content("a.html", text)) == [
        ("Lamp", "Green."),
        ("Lamp > Oil", "Whale\n\nOne | Two\nThree"),
    ]


def test_headings_inside_a_layout_table(reader: Reader) -> None:
    text = "<table><tr><td><h1>Lamp</h1>Green.<h2>Oil</h2>Whale.</td></tr></table>"
    assert shown(reader.read_content("a.html", text)) == [("Lamp", "Green."), ("Lamp > Oil", "Whale.")]


def test_xhtml_and_a_text_that_looks_like_a_name(reader: Reader) -> None:
    page = '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body><p>Green.</p></body></html>'
    assert shown(reader.read_content("a.xhtml", page)) == [("a", "Green.")]
    assert shown(reader.read_content("b.html", "lamp.txt")) == [("b", "lamp.txt")]


def test_deeply_nested_markup_is_read(reader: Reader) -> None:
    text = "<div>" * 3000 + "Deep." + "</div>" * 3000
    assert shown(reader.read_content("a.html", text)) == [("a", "Deep.")]
