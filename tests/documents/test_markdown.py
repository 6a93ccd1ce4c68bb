from __future__ import annotations

from tests.documents.reader import Reader, places, shown

GUIDE = """---
title: "Not shown"
tags: [a, b]
---
Before the first heading.

# Harbour

Welcome to *Orrinsay*, see [the map](https://example.org/map) and `lamp --lit`.
This line continues.\\
This one does not.

![A grey tower](tower.png)

## Tides

- Spring tides
  come twice.
- Neap tides:
  1. first
  2. second

### Depths

| Berth | Metres |
|-------|--------|
| North | 4.5    |

```python
depth = 4  # metres

print(depth)
```

## Empty

## Fees

<div>Two <b>crowns</b><script>x()</script> a day.</div>
<!-- not shown -->

> Quoted &amp; true.
"""


def test_headings_become_titles_and_markup_becomes_text(reader: Reader) -> None:
    documents = reader.read_content("lib/guide.md", GUIDE)
    assert shown(documents) == [
        ("Not shown", "Before the first heading."),
        (
            "Harbour",
            "Welcome to Orrinsay, see the map and lamp --lit. This line continues.\nThis one does not.\n\nA grey tower",
        ),
        ("Harbour > Tides", "- Spring tides come twice.\n- Neap tides:\n1. first\n2. second"),
        ("Harbour > Tides > Depths", "Berth | Metres\nNorth | 4.5\n\ndepth = 4  # metres\n\nprint(depth)"),
        ("Harbour > Empty", "Empty"),
        ("Harbour > Fees", "Two crowns a day.\n\nQuoted & true."),
    ]
    assert places(documents) == [("lib/guide.md", number, None) for number in range(6)]


def test_without_a_first_level_heading_the_file_leads_the_title(reader: Reader) -> None:
    text = "## Setext\n\nText.\n\nTop\n===\n\nMore."
    assert shown(reader.read_content("sea-charts.md", text)) == [("sea charts > Setext", "Text."), ("Top", "More.")]


def test_a_rule_at_the_start_is_no_front_matter(reader: Reader) -> None:
    text = "---\n\nThe lamp is green.\n\n---\n\nThe end."
    assert shown(reader.read_content("a.md", text)) == [("a", "The lamp is green.\n\nThe end.")]


def test_a_passage_never_goes_over_a_heading(reader: Reader) -> None:
    text = "".join(f"# Lamp {number}\n\nIt is lit.\n\n" for number in range(30))
    assert shown(reader.read_content("a.md", text)) == [(f"Lamp {number}", "It is lit.") for number in range(30)]


def test_a_long_section_is_cut_and_keeps_its_title(reader: Reader) -> None:
    paragraphs = [f"Berth {number} belongs to the Orrin family and is dry at low tide." for number in range(40)]
    documents = reader.read_content("a.md", "# Berths\n\n" + "\n\n".join(paragraphs))
    assert {placed.document.title for placed in documents} == {"Berths"}
    assert "\n\n".join(placed.document.text for placed in documents) == "\n\n".join(paragraphs)


def test_only_headings(reader: Reader) -> None:
    assert shown(reader.read_content("a.md", "# One\n## Two\n# Three")) == [("One > Two", "Two"), ("Three", "Three")]


def test_deep_nesting_is_read(reader: Reader) -> None:
    assert shown(reader.read_content("a.md", ">" * 50 + " Deep.")) == [("a", "Deep.")]
    reader.read_content("b.md", "Text.\n\n" + ">" * 5000 + " Too deep.\n" + "[" * 5000)
