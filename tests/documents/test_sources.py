from __future__ import annotations

import gzip
import io
import os
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from registry.documents import expand_sources
from registry.errors import InputError
from tests.documents.reader import Reader, places, shown


def uris(*sources: str) -> list[str]:
    return [file.uri for file in expand_sources(sources)]


def test_a_folder_gives_all_files_of_known_suffix_in_order(reader: Reader) -> None:
    for name in ("b.txt", "a/z.md", "a.txt", "a/b/c.HTML", "data.jsonl.gz", "image.png", "x.json", "t.tsv", "t.csv"):
        reader.write(f"lib/{name}", "x")
    expected = ["lib/a/b/c.HTML", "lib/a/z.md", "lib/a.txt", "lib/b.txt", "lib/data.jsonl.gz", "lib/t.csv", "lib/t.tsv"]
    assert uris("lib") == uris("./lib/") == expected


def test_hidden_files_and_folders_are_left_out_unless_named(reader: Reader) -> None:
    for name in (".hidden.txt", ".git/a.txt", "a.txt"):
        reader.write(f"lib/{name}", "x")
    assert uris("lib") == uris("lib/*") == ["lib/a.txt"]
    assert uris("lib/.hidden.txt", "lib/.git") == ["lib/.hidden.txt", "lib/.git/a.txt"]


def test_the_working_folder_is_named_by_nothing(reader: Reader) -> None:
    reader.write("deep/a.txt", "x")
    assert uris(".") == ["deep/a.txt"]


def test_patterns(reader: Reader) -> None:
    for name in ("a.txt", "b.log", "c.md", "sub/d.txt", "sub/e.log"):
        reader.write(f"lib/{name}", "x")
    assert uris("lib/*.txt") == ["lib/a.txt"]
    assert uris("lib/**/*.txt") == ["lib/a.txt", "lib/sub/d.txt"]
    assert uris("lib/*.log") == ["lib/b.log"]
    assert uris("lib/*") == uris("lib/**") == ["lib/a.txt", "lib/c.md", "lib/sub/d.txt"]


def test_a_file_whose_name_looks_like_a_pattern(reader: Reader) -> None:
    assert uris(reader.write("notes[1].txt", "x")) == ["notes[1].txt"]


def test_sources_come_in_the_order_named_and_each_file_once(reader: Reader) -> None:
    reader.write("lib/a.txt", "x")
    reader.write("lib/b.txt", "x")
    assert uris("lib/b.txt", "lib", "./lib/../lib/a.txt") == ["lib/b.txt", "lib/a.txt"]


def test_links_to_folders_are_followed_but_not_in_circles(reader: Reader) -> None:
    reader.write("elsewhere/a.txt", "x")
    reader.write("lib/b.txt", "x")
    (reader.folder / "lib/link").symlink_to(reader.folder / "elsewhere")
    (reader.folder / "lib/circle").symlink_to(reader.folder / "lib")
    assert uris("lib") == ["lib/b.txt", "lib/link/a.txt"]


def test_patterns_follow_links_but_not_in_circles(reader: Reader) -> None:
    for name in ("lib/a.md", "lib/b/c.md", "lib/.d/e.md", "elsewhere/f.md"):
        reader.write(name, "x")
    # glob itself would go round forty times by every combination of the two circles.
    (reader.folder / "lib/circle").symlink_to(reader.folder / "lib")
    (reader.folder / "lib/b/up").symlink_to("..")
    (reader.folder / "lib/link").symlink_to(reader.folder / "elsewhere")
    expected = ["lib/a.md", "lib/b/c.md", "lib/link/f.md"]
    assert uris("lib/**/*.md") == uris("lib/**") == uris("l*/**/**/*.md") == expected
    assert uris("**/c.md") == ["lib/b/c.md"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_patterns_and_folders_do_not_wait_for_named_pipes(reader: Reader) -> None:
    reader.write("lib/a.txt", "x")
    os.mkfifo(reader.folder / "lib/b.txt")
    assert uris("lib/*.txt") == uris("lib") == ["lib/a.txt"]


def test_a_closed_standard_input_is_an_error(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="-: standard input is closed"):
        reader.read("-")


@pytest.mark.parametrize(
    "source", ["", " ", "nowhere.txt", "nowhere", "nowhere/*.txt", "empty", "a\0b", "memory://nowhere/x.txt"]
)
def test_a_source_without_files_is_an_error(reader: Reader, source: str) -> None:
    (reader.folder / "empty").mkdir()
    with pytest.raises(InputError):
        uris(source)


def test_the_error_comes_before_the_first_file(reader: Reader) -> None:
    reader.write("a.txt", "x")
    with pytest.raises(InputError, match=r"nowhere\.txt: does not exist"):
        next(expand_sources(["a.txt", "nowhere.txt"]))


def test_a_broken_link_is_an_error_where_it_would_be_read(reader: Reader) -> None:
    reader.write("lib/a.txt", "x")
    (reader.folder / "lib/b.png").symlink_to("gone")
    assert uris("lib") == ["lib/a.txt"]
    (reader.folder / "lib/c.txt").symlink_to("gone")
    with pytest.raises(InputError, match=r"lib/c\.txt: does not exist"):
        uris("lib")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("name", ["lib/a.txt", "lib"])
def test_a_path_that_may_not_be_read_is_an_error(reader: Reader, name: str) -> None:
    reader.write("lib/a.txt", "x")
    (reader.folder / name).chmod(0)
    try:
        with pytest.raises(InputError, match="permission denied"):
            reader.read(name)
    finally:
        (reader.folder / name).chmod(0o700)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_a_name_that_is_not_utf8_is_an_error(reader: Reader) -> None:
    Path(os.fsdecode(os.fsencode(reader.folder) + b"/caf\xe9.txt")).write_text("x")
    with pytest.raises(InputError, match=r"caf\\xe9\.txt: has a name that is not UTF-8"):
        uris(str(reader.folder))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"A plain text.\n", [("", "A plain text.")]),
        (
            b'{"title": "T", "text": "A line."}\n{"title": "T", "text": "Another."}',
            [("T", "A line."), ("T", "Another.")],
        ),
        (b"<!DOCTYPE html>\n<h1>T</h1><p>A page.", [("T", "A page.")]),
        (b"id\ttext\ttitle\n1\tA row.\tT\n", [("T", "A row.")]),
        (b"title,body\nT,A row.\n", [("T", "A row.")]),
        (gzip.compress(b"Compressed text."), [("", "Compressed text.")]),
    ],
)
def test_standard_input_is_known_by_its_content(
    reader: Reader, monkeypatch: pytest.MonkeyPatch, content: bytes, expected: list[tuple[str, str]]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert shown(reader.read("-")) == expected


def test_a_pipe_that_gives_a_byte_at_a_time(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    if (child := os.fork()) == 0:
        for byte in gzip.compress(b'{"text": "One."}\n{"text": "Two."}\n'):
            os.write(write_end, bytes([byte]))
        os._exit(0)
    os.close(write_end)
    with open(read_end, encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        documents = reader.read("-")
    os.waitpid(child, 0)
    assert places(documents) == [("-#L1", 0, None), ("-#L2", 0, None)]


def test_an_unknown_suffix_is_read_by_content(reader: Reader) -> None:
    assert shown(reader.read_content("log.v2", "The tide rose.")) == [("log.v2", "The tide rose.")]
    assert shown(reader.read_content("records.dat", '{"text": "The tide rose."}\n')) == [("", "The tide rose.")]


@pytest.mark.parametrize("content", ['[{"text": "x"}]', '{\n  "text": "x"\n}'])
def test_a_json_document_is_no_text(reader: Reader, content: str) -> None:
    with pytest.raises(InputError, match="not JSON Lines") as caught:
        reader.read_content("records.json", content)
    assert "jq" in str(caught.value.hint)


def test_urls_of_files_folders_and_patterns(reader: Reader) -> None:
    system = fsspec.filesystem("memory")
    for name in ("a.txt", "sub/b.txt", "sub/c.log", "sub/.d.txt"):
        system.pipe(f"/harbour/{name}", f"The text of {name}.".encode())
    try:
        assert uris("memory://harbour") == ["memory://harbour/a.txt", "memory://harbour/sub/b.txt"]
        assert uris("memory://harbour/**/*.txt") == ["memory://harbour/a.txt", "memory://harbour/sub/b.txt"]
        assert uris("memory://harbour/sub/*.log") == ["memory://harbour/sub/c.log"]
        assert uris("memory://harbour/*") == ["memory://harbour/a.txt", "memory://harbour/sub/b.txt"]
        assert shown(reader.read("memory://harbour/sub/c.log")) == [("c.log", "The text of sub/c.log.")]
        assert places(reader.read("memory://harbour/a.txt")) == [("memory://harbour/a.txt", 0, None)]
    finally:
        system.rm("/harbour", recursive=True)


class ForeignFileSystem(MemoryFileSystem):
    """A file system whose client library has errors of its own."""

    protocol = "foreign"

    def info(self, path: str, **options: object) -> dict[str, object]:
        raise ForeignError("the token is too old")


class ForeignError(Exception):
    pass


def test_whatever_a_file_system_raises_is_an_error_of_the_source(reader: Reader) -> None:
    fsspec.register_implementation("foreign", ForeignFileSystem, clobber=True)
    with pytest.raises(InputError, match=r"foreign://a\.txt: cannot be read: the token is too old"):
        uris("foreign://a.txt")


def test_the_title_of_a_cached_file_is_its_own(reader: Reader) -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/harbour/tide-table.txt", b"High at six.")
    try:
        assert shown(reader.read("simplecache::memory://harbour/tide-table.txt")) == [("tide table", "High at six.")]
    finally:
        system.rm("/harbour", recursive=True)


def test_chained_urls(reader: Reader) -> None:
    with zipfile.ZipFile("lib.zip", "w") as archive:
        archive.writestr("sub/a.txt", "The first.")
        archive.writestr("b.md", "# Two\nThe second.")
    assert shown(reader.read("zip://::lib.zip")) == [("Two", "The second."), ("a", "The first.")]
    assert uris("zip://sub/*.txt::lib.zip", "zip://b.md::lib.zip") == [
        "zip://sub/a.txt::lib.zip",
        "zip://b.md::lib.zip",
    ]


def test_file_urls(reader: Reader) -> None:
    reader.write("lib/a.txt.gz", gzip.compress(b"The first."))
    url = (reader.folder / "lib").as_uri()
    assert places(reader.read(url)) == [(f"{url}/a.txt.gz", 0, None)]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nosuch://bucket/a.txt", "Protocol not known: nosuch"),
        ("github://a.txt", "missing 2 required"),
        pytest.param(
            "s3://bucket/a.txt", "s3fs", marks=pytest.mark.skipif(bool(find_spec("s3fs")), reason="s3fs is installed")
        ),
        ("ftp://someone:secret@127.0.0.1:1/a.txt", "Connection refused"),
        ("zip://a.txt::nowhere.zip", "does not exist"),
    ],
)
def test_a_url_that_cannot_be_reached_is_an_error(reader: Reader, url: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        uris(url)
    assert "s3fs" in str(caught.value.hint)
    assert "secret" not in caught.value.message
