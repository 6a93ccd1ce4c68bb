from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import cli.main
from cli import output
from cli.output import clean, describe, duration_text, excerpt, heading, one_line, operations_text, plain, size_text
from registry.records import Document, Hit
from registry.settings import Home

DIGEST = "0123456789ab" + "c" * 52


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (12_345, "12.3 kB"),
        (999_499, "999 kB"),
        (999_600, "1.00 MB"),
        (98_765_432_100, "98.8 GB"),
        (10**16, "10000 TB"),
    ],
)
def test_sizes(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text


@pytest.mark.parametrize(
    ("operations", "text"),
    [
        (0, "0 FLOP"),
        (999, "999 FLOP"),
        (999_600, "1.00 MFLOP"),
        (1_523_000_000_000_000, "1.52 PFLOP"),
        (98_765_432_100, "98.8 GFLOP"),
        (10**25, "10000 ZFLOP"),
    ],
)
def test_operations(operations: int, text: str) -> None:
    assert operations_text(operations) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.0123, "12 ms"),
        (0.9999, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (3725.0, "1 h 02 min"),
    ],
)
def test_time_spans(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("size_bytes", 1500, "1.50 kB"),
        ("elapsed_seconds", 2.0, "2.0 s"),
        ("operations_needed", 2_500_000, "2.50 MFLOP"),
        ("rate_gflops", 1234.5, "1.23 TFLOP/s"),
        ("search_ms", 1.26, "1.3 ms"),
        ("digest", DIGEST, "0123456789ab"),
        ("version", 3, "v3"),
        ("version", "handbook@v3", "handbook@v3"),
        ("build_id", 1234, "1234"),
        ("last_loss", 0.12345, "0.123"),
        ("error", None, "-"),
        ("current", True, "yes"),
        ("aliases", {"latest": 2}, "latest 2"),
        ("places", (), "-"),
    ],
)
def test_values_are_shown_as_their_names_say(name: str, value: object, text: str) -> None:
    assert describe(name, value) == text


def test_moments_are_shown_in_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
    assert describe("created_at", moment) == moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def test_headings_leave_out_units() -> None:
    assert [heading(name) for name in ("size_bytes", "document_digest", "digest", "created_at")] == [
        "size",
        "document",
        "digest",
        "created",
    ]


def test_texts_are_made_harmless() -> None:
    assert clean("a\x1b[2Jb\x9b\u202ec\nd\te\r\n") == "a\ufffd[2Jb\ufffd\ufffdc\nd\te\n"
    assert one_line(" a\n\tb\u2028c ") == "a b c"
    assert excerpt("The quick brown fox", 10) == "The quick…"
    assert excerpt("short", 10) == "short"


def test_records_become_json_values() -> None:
    hit = Hit(1, float("nan"), Document("d", "t", "x"), "a")
    assert plain({"hit": hit, "at": datetime(2031, 1, 1, tzinfo=UTC), "path": Path("/x"), "pair": (1, 2.5)}) == {
        "hit": {
            "rank": 1,
            "score": None,
            "document": {"digest": "d", "title": "t", "text": "x"},
            "adapter_digest": "a",
        },
        "at": "2031-01-01T00:00:00+00:00",
        "path": "/x",
        "pair": [1, 2.5],
    }


@pytest.mark.parametrize(("encoding", "line"), [("utf-8", b'{"a":"\xc3\xbc"}'), ("latin-1", b'{"a":"\\u00fc"}')])
def test_json_is_whole_in_every_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str, line: bytes) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    output.write_json({"a": "ü"})
    assert raw.getvalue().replace(b" ", b"") == line + b"\n"


def test_tables_are_aligned_and_cut_on_a_terminal(filled: Home) -> None:
    shown = _on_a_terminal(["documents", "list", "--home", str(filled.path)], columns=120)
    lines = shown.splitlines()
    assert len(lines) == 6
    assert max(map(len, lines)) <= 120
    assert lines[0].split() == ["digest", "title", "characters", "places", "source", "uri", "excerpt"]
    assert "…" in shown
    assert "The Organ of Hollin" in shown


def _on_a_terminal(arguments: list[str], *, columns: int) -> str:
    """Return what a command prints on a terminal, without bold type."""
    controller, terminal = pty.openpty()
    environment = {"PYTHONPATH": str(Path(cli.main.__file__).parents[1]), "NO_COLOR": "1", "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-m", "cli.main", *arguments],
        stdout=terminal,
        stderr=terminal,
        stdin=terminal,
        env=os.environ | environment | {"COLUMNS": str(columns)},
    ) as process:
        os.close(terminal)
        shown = b""
        try:
            while part := os.read(controller, 4096):
                shown += part
        except OSError:
            pass  # Linux ends a terminal that nobody holds so
        assert process.wait(30) == 0
    os.close(controller)
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r\n", "\n")
