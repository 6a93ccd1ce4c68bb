"""The commands that need no model: init, info, db, search, and those that look at the catalog."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from sqlalchemy import text

from cli import main
from registry.catalog import schema
from registry.catalog.engine import Catalog
from registry.catalog.listing import list_documents
from registry.catalog.queries import log_query
from registry.catalog.versions import members, resolve
from registry.records import Answer, Document, Hit
from registry.settings import Home, open_home
from tests.catalog.workshop import BASE_MODEL
from tests.cli.conftest import TEXTS, Run


def test_init_makes_a_home_and_says_what_is_next(run: Run, tmp_path: Path) -> None:
    here = tmp_path / "elsewhere"
    found = run("init")
    assert found.status == 0
    assert found.out == f"made a registry home in {here / '.pragreg'}\n"
    assert found.err == "next: pragreg build SOURCE...\n"
    assert run("db", "current").out == f"{schema.head()}\n"
    again = run("init")
    assert (again.status, again.err) == (0, "")
    assert again.out == f"the registry home is {here / '.pragreg'}\n"


def test_init_takes_paths_from_where_it_was_typed(run: Run, tmp_path: Path) -> None:
    here = tmp_path / "elsewhere"
    (here / "model").mkdir()
    found = run("init", "--home", "there", "--packs", "./packs", "--base-model", "model", "--json")
    assert found.rows == [{"home": str(here / "there"), "created": True}]
    home = open_home(here / "there")
    assert (home.packs_url, home.base_model) == (str(here / "packs"), str(here / "model"))
    kept = run("init", "--home", "there", "--base-model", "other/model")
    assert "its settings were kept" in kept.err
    assert open_home(here / "there") == home


def test_init_makes_all_folders_of_a_home(run: Run, tmp_path: Path) -> None:
    found = run("init", "--home", "a home")
    assert found.err == f"next: pragreg build SOURCE... --home '{tmp_path / 'elsewhere' / 'a home'}'\n"
    names = {path.name for path in (tmp_path / "elsewhere" / "a home").iterdir()}
    assert names == {"pragreg.toml", "catalog.sqlite", "packs", "index", "models"}
    assert run("init", "--home", "").out == f"made a registry home in {tmp_path / 'elsewhere' / '.pragreg'}\n"


def test_init_refuses_packs_that_cannot_be_opened(run: Run, tmp_path: Path) -> None:
    assert run("init", "--packs", "nosuch://bucket").status == 2
    (tmp_path / "elsewhere" / "file").touch()
    assert run("init", "--packs", "file/packs").status == 11
    assert run("info").status == 3


def test_init_takes_the_catalog_from_where_it_was_typed(run: Run, tmp_path: Path) -> None:
    assert run("init", "--home", "there", "--catalog", "sqlite:///records.sqlite", "--packs", "packs").status == 0
    here = tmp_path / "elsewhere"
    assert (here / "records.sqlite").is_file()
    assert open_home(here / "there").packs_url == str(here / "packs")
    for url in ("sqlite:///", "sqlite:///:memory:"):
        assert run("init", "--home", "nowhere", "--catalog", url).status == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"garbage[", "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        (b"", "lacks the setting 'catalog'"),
        (b"catalog = 1\npacks = 2\nmodels = 3\n", "has a setting of the wrong kind"),
    ],
)
def test_settings_that_cannot_be_read(run: Run, home: Home, content: bytes, message: str) -> None:
    home.settings_path.write_bytes(content)
    found = run("info", "--home", home.path)
    assert (found.status, found.out) == (3, "")
    assert message in found.err
    assert "try: mend it" in found.err


def test_init_finds_the_home_in_the_environment(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRAGREG_HOME", str(tmp_path / "named"))
    assert run("init").out == f"made a registry home in {tmp_path / 'named'}\n"
    assert run("info", "--json").rows[0]["home"] == str(tmp_path / "named")


def test_init_leaves_no_home_behind_where_the_catalog_cannot_be_had(run: Run, tmp_path: Path) -> None:
    found = run("init", "--catalog", "mysql://host/name")
    assert found.status == 3
    assert "mysql" in found.err
    assert run("init").status == 0


def test_info(run: Run, filled: Home) -> None:
    (found,) = run("info", "--home", filled.path, "--json").rows
    assert found["home"] == str(filled.path)
    assert found["schema"] == schema.head()
    assert found["contents"]["documents"] == len(TEXTS)
    assert [(corpus["name"], corpus["version"]) for corpus in found["corpora"]] == [("handbook", 1)]
    assert {"python", "torch", "sqlalchemy"} <= set(found["library_versions"])
    assert found["machine"]["device"] in ("cpu", "cuda", "mps")
    text = run("info", "--home", filled.path).out
    assert str(filled.packs_url) in text
    assert "handbook" in text


def test_db(run: Run, home: Home) -> None:
    assert run("db", "current", "--home", home.path, "--json").rows == [
        {"current": schema.head(), "head": schema.head()}
    ]
    assert run("db", "history", "--home", home.path, "--json").rows[-1]["current"] is True
    assert run("db", "upgrade", "--home", home.path).err == f"the schema is {schema.head()}\n"
    assert run("db", "check", "--home", home.path, "--json").rows == [{"current": schema.head(), "differences": []}]


def test_a_catalog_of_another_schema_is_refused_and_mended(run: Run, home: Home) -> None:
    schema.downgrade(home.catalog_url, "base")
    found = run("info", "--home", home.path)
    assert found.status == 3
    assert found.err.endswith("try: pragreg db upgrade\n")
    differences = run("db", "check", "--home", home.path)
    assert differences.status == 3
    assert differences.err.endswith("try: pragreg db upgrade\n")
    assert run("db", "current", "--home", home.path).out == "none\n"
    assert f"the schema is {schema.head()}, it was not there" in run("db", "upgrade", "--home", home.path).err
    assert run("info", "--home", home.path).status == 0
    for revision in ("0009_nothing", ""):
        assert run("db", "upgrade", revision, "--home", home.path).status == 2


def test_a_newer_catalog_is_told_from_an_older_one(run: Run, home: Home, catalog: Catalog) -> None:
    with catalog.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0099_later'"))
    found = run("db", "current", "--home", home.path)
    assert (found.status, found.out) == (0, "0099_later\n")
    assert "pip install --upgrade pragreg" in found.err


def test_db_check_tells_what_others_changed(run: Run, home: Home, catalog: Catalog) -> None:
    with catalog.write() as session:
        session.execute(text("DROP INDEX ix_adapters_document_id"))
    found = run("db", "check", "--home", home.path)
    assert (found.status, found.out) == (3, "add index: ix_adapters_document_id\n")
    assert "restore a backup" in found.err


def test_search(run: Run, filled: Home) -> None:
    where = ("--home", filled.path, "--corpus", "handbook")
    found = run("search", "Who built the organ?", *where, "--json").rows
    assert found[0]["title"] == "The Organ of Hollin"
    assert found[0]["digest"] == Document.of(*TEXTS[0]).digest
    assert found[0]["version"] == "handbook@v1"
    assert [hit["rank"] for hit in found] == list(range(1, len(found) + 1))
    lines = run("search", "Who built the organ?", *where, "-k", "1").out.splitlines()
    assert lines[0].split("\t") == ["rank", "score", "title", "passage", "digest"]
    assert lines[1].split("\t")[2:] == [*TEXTS[0], found[0]["digest"][:12]]


@pytest.mark.parametrize("question", ["c++ OR (", 'title:"', "Mühle", "x" * 10_000, "\x00 NOT *", "AND"])
def test_a_question_is_text(run: Run, filled: Home, question: str) -> None:
    found = run("search", question, "--home", filled.path, "--corpus", "handbook")
    assert found.status == 0
    assert "\x1b" not in found.out + found.err


def test_a_search_that_finds_nothing_says_so(run: Run, filled: Home) -> None:
    found = run("search", "zzz", "--home", filled.path, "--corpus", "handbook")
    assert (found.status, found.out) == (0, "")
    assert found.err == "no document of handbook@v1 has a word of the question\n"
    assert run("search", "zzz", "--home", filled.path, "--corpus", "handbook", "--json").out == ""


@pytest.mark.parametrize(
    ("question", "reference", "status", "message"),
    [
        ("Who?", "cookbook", 5, "there is no corpus 'cookbook'"),
        ("Who?", "handbook@v7", 5, "corpus 'handbook' has no version 'v7'"),
        ("  ", "handbook", 2, "the question is empty"),
        ("caf\udce9", "handbook", 2, "the question is not UTF-8"),
    ],
)
def test_searches_that_cannot_be(
    run: Run, filled: Home, question: str, reference: str, status: int, message: str
) -> None:
    found = run("search", question, "--home", filled.path, "--corpus", reference)
    assert (found.status, found.out) == (status, "")
    assert found.err.startswith(f"error: {message}")


def test_a_lost_index_is_made_again(run: Run, filled: Home) -> None:
    search = ("search", "Who built the organ?", "--home", filled.path, "--corpus", "handbook", "--json")
    before = run(*search).rows
    shutil.rmtree(filled.index_path)
    assert run(*search).rows == before


def test_documents(run: Run, filled: Home) -> None:
    where = ("--home", filled.path)
    found = run("documents", "list", *where, "--json").rows
    assert {row["title"] for row in found} == {title for title, _ in TEXTS}
    assert [row["title"] for row in run("documents", "list", *where, "--title", "FERRY", "--json").rows] == [
        TEXTS[2][0]
    ]
    assert len(run("documents", "list", *where, "--corpus", "handbook@v1", "--json").rows) == len(TEXTS)
    page = run("documents", "list", *where, "--limit", "2", "--offset", "1", "--json")
    assert page.rows == found[1:3]
    assert page.err == "there are more documents; see --limit and --offset\n"
    everything = run("documents", "list", *where, "--limit", "0")
    assert (len(everything.out.splitlines()), everything.err) == (1 + len(TEXTS), "")
    digest = Document.of(*TEXTS[0]).digest
    (shown,) = run("documents", "show", digest[:8], *where, "--json").rows
    assert (shown["digest"], shown["text"]) == (digest, TEXTS[0][1])
    text = run("documents", "show", digest, *where).out
    assert TEXTS[0][1] in text
    assert "sayings.jsonl" in text
    assert "What is The Organ of Hollin?" in text


def test_what_controls_terminals_is_not_printed(run: Run, filled: Home) -> None:
    assert "\x1b" not in run("documents", "list", "--home", filled.path).out
    (row,) = run("documents", "list", "--home", filled.path, "--title", "c++", "--json").rows
    assert "\x1b[31m" in row["excerpt"]
    assert "\x1b" not in run("documents", "show", row["digest"], "--home", filled.path).out


def test_adapters(run: Run, filled: Home) -> None:
    found = run("adapters", "list", "--home", filled.path, "--corpus", "handbook", "--json").rows
    assert len(found) == len(TEXTS)
    document = Document.of(*TEXTS[1]).digest
    (row,) = run("adapters", "list", "--home", filled.path, "--document", document[:10], "--json").rows
    assert row["document_digest"] == document
    (shown,) = run("adapters", "show", row["digest"], "--home", filled.path, "--json").rows
    assert shown["digest"] == row["digest"]
    text = run("adapters", "show", row["digest"], "--home", filled.path).out
    assert row["digest"] in text
    assert "1.00 kB" in run("adapters", "list", "--home", filled.path).out


def test_corpora(run: Run, filled: Home) -> None:
    (row,) = run("corpora", "list", "--home", filled.path, "--json").rows
    (shown,) = run("corpora", "show", "handbook", "--home", filled.path, "--json").rows
    assert row["digest"] == shown["digest"] == shown["versions"][0]["digest"]
    assert shown["aliases"] == {"latest": 1}
    text = run("corpora", "show", "handbook", "--home", filled.path).out
    assert "a build" in text
    assert "latest" in text


def test_builds(run: Run, filled: Home) -> None:
    (row,) = run("builds", "list", "--home", filled.path, "--status", "finished", "--json").rows
    assert (row["corpus"], row["version"], row["trained"]) == ("handbook", 1, len(TEXTS))
    assert (
        run("builds", "list", "--home", filled.path, "--corpus", "handbook", "--status", "failed").out.count("\n") == 1
    )
    (shown,) = run("builds", "show", row["build_id"], "--home", filled.path, "--json").rows
    assert shown == row
    assert "finished" in run("builds", "show", row["build_id"], "--home", filled.path).out


def test_queries(run: Run, filled: Home, catalog: Catalog) -> None:
    with catalog.write() as session:
        version = resolve(session, "handbook")
        hits = tuple(Hit(n, 5 / n, *member) for n, member in zip((1, 2), members(session, version), strict=False))
        log_query(
            session,
            Answer(
                question="Who is the gardener?",
                answer="Odo Fenn",
                mode="prag",
                version=version.reference,
                version_digest=version.digest,
                recipe_digest=version.recipe_digest,
                base_model=BASE_MODEL.fingerprint,
                hits=hits,
                weights=(1.0, 0.5),
                prompt_tokens=9,
                answer_tokens=3,
                milliseconds={"search": 1.0, "decode": 20.5},
            ),
        )
    (row,) = run("queries", "list", "--home", filled.path, "--text", "gardener", "--json").rows
    assert (row["answer"], row["version"], row["elapsed_ms"]) == ("Odo Fenn", "handbook@v1", 21.5)
    (shown,) = run("queries", "show", row["query_id"], "--home", filled.path, "--json").rows
    assert [(hit["digest"], hit["weight"]) for hit in shown["hits"]] == [
        (hits[0].document.digest, 1.0),
        (hits[1].document.digest, 0.5),
    ]
    text = run("queries", "show", row["query_id"], "--home", filled.path).out
    assert "Odo Fenn" in text
    assert hits[0].adapter_digest[:12] in text
    assert run("queries", "list", "--home", filled.path, "--mode", "rag", "--json").out == ""


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("documents", "--title", "caf\udce9"),
        ("documents", "--corpus", "handbook@\udce9"),
        ("adapters", "--title", "\udce9"),
        ("builds", "--corpus", "\udce9"),
        ("queries", "--text", "\udce9"),
        ("documents", "--limit", 2**63),
        ("queries", "--offset", 2**63),
    ],
)
def test_filters_that_no_database_takes(run: Run, home: Home, command: str, option: str, value: str | int) -> None:
    found = run(command, "list", option, value, "--home", home.path)
    assert (found.status, found.out) == (2, "")
    assert found.err.startswith(f"error: {option} is ")


def test_a_recipe_that_is_unknown(run: Run, home: Home) -> None:
    found = run("adapters", "list", "--recipe", "abc", "--home", home.path)
    assert (found.status, found.err) == (5, "error: there is no recipe abc\ntry: pragreg corpora list\n")


@pytest.mark.parametrize("noun", ["documents", "adapters", "corpora", "builds", "queries"])
def test_what_is_unknown(run: Run, home: Home, noun: str) -> None:
    found = run(noun, "show", "abc", "--home", home.path)
    assert (found.status, found.out) == (5, "")
    assert found.err.startswith("error: ")


def test_a_shell_completes_commands_options_and_corpora(
    run: Run, filled: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRAGREG_HOME", str(filled.path))
    monkeypatch.setenv(main.COMPLETION_VARIABLE, "bash_complete")

    def complete(words: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        return [line.partition(",")[2] for line in run().out.splitlines() if line]

    assert complete("pragreg bu") == ["build", "builds"]
    assert complete("pragreg search --corp") == ["--corpus"]
    assert complete("pragreg search --corpus ha") == ["handbook"]
    monkeypatch.setenv("PRAGREG_HOME", "/nowhere")
    assert complete("pragreg search --corpus ha") == []


def test_completion_scripts(run: Run) -> None:
    for shell in ("zsh", "fish"):
        assert main.COMPLETION_VARIABLE in run("completion", shell).out
    if shutil.which("bash"):
        assert main.COMPLETION_VARIABLE in run("completion", "bash").out
    assert run("completion", "csh").status == 2


def test_json_lines_are_one_object_each(run: Run, filled: Home, catalog: Catalog) -> None:
    lines = run("documents", "list", "--home", filled.path, "--json").out.splitlines()
    with catalog.read() as session:
        assert [json.loads(line)["digest"] for line in lines] == [found.digest for found in list_documents(session)]
