"""The registry from Python: opening it, versions, search and adapters, and the page about it."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import registry
from registry.catalog.aliases import set_alias
from registry.errors import HomeError, IntegrityError, NotFoundError, PragregError, UsageError
from registry.pipeline import python_api
from registry.pipeline.export import export
from registry.pipeline.opened import opened
from registry.pipeline.python_api import OpenCorpus, OpenRegistry
from registry.pipeline.search import search
from registry.settings import HOME_VARIABLE, Home, create_home
from registry.upkeep.readers import being_read
from tests.pipeline.handbook import HANDBOOK, QUESTIONS

ROOT = Path(registry.__file__).parents[1]
PAGE = ROOT / "docs" / "python.md"


@pytest.fixture
def home(handbook_home: Home) -> Iterator[OpenRegistry]:
    with registry.open(handbook_home, device="cpu") as home:
        yield home


@pytest.fixture
def handbook(home: OpenRegistry) -> OpenCorpus:
    return home.corpus("handbook@production")


def test_the_page_prints_what_it_says(
    handbook_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = PAGE.read_text(encoding="utf-8")
    (code,), (output,) = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("python", "text"))
    monkeypatch.setenv(HOME_VARIABLE, str(handbook_home.path))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(PAGE), "exec"), {})
    assert capsys.readouterr().out == output
    assert (tmp_path / "keys-adapter" / "adapter_model.safetensors").is_file()


def test_the_page_names_what_there_is() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for kind, owner in ((OpenRegistry, "home"), (OpenCorpus, "corpus")):
        for name in vars(kind):
            assert name.startswith("_") or name in ("close", "home") or f"`{owner}.{name}" in page, name


class TestOpening:
    def test_finds_the_home_as_the_command_line_does(
        self, handbook_home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for given in (handbook_home, handbook_home.path, str(handbook_home.path)):
            with registry.open(given) as home:
                assert home.home.path == handbook_home.path
        monkeypatch.setenv(HOME_VARIABLE, str(handbook_home.path))
        with registry.open() as home:
            assert home.home.path == handbook_home.path

    def test_says_that_there_is_no_home(self, tmp_path: Path) -> None:
        with pytest.raises(HomeError, match="no registry home at") as caught:
            registry.open(tmp_path / "nowhere")
        assert caught.value.hint is not None
        assert "pragreg init" in caught.value.hint

    def test_of_a_catalog_of_another_schema_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(HomeError):
            registry.open(create_home(tmp_path / "bare"))

    def test_names_what_is_open(self, handbook_home: Home, home: OpenRegistry) -> None:
        assert repr(home) == f"<registry {handbook_home.path}>"
        assert repr(home.corpus("tea")) == "<corpus tea@v1, 1 documents>"

    def test_imports_nothing_that_takes_time(self, handbook_home: Home) -> None:
        code = (
            "import sys, registry\n"
            "assert not {'sqlalchemy', 'numpy', 'click'} & set(sys.modules), 'import'\n"
            f"with registry.open({str(handbook_home.path)!r}) as home:\n"
            "    handbook = home.corpus('handbook')\n"
            "    hits = handbook.search('Who keeps the keys of the archive?')\n"
            "    assert hits[0].document.title == 'Keys'\n"
            "    assert handbook.adapter(hits[0]).layout.rank == 4\n"
            "assert not {'torch', 'transformers', 'peft'} & set(sys.modules), 'search'\n"
        )
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)

    def test_a_closed_registry_says_so(self, handbook_home: Home) -> None:
        home = registry.open(handbook_home)
        corpus = home.corpus("handbook")
        assert being_read(handbook_home, corpus.version)
        home.close()
        home.close()
        assert not being_read(handbook_home, corpus.version)
        assert repr(home).endswith(", closed>")
        for use in (
            lambda: home.corpus("handbook"),
            lambda: corpus.ask("Who?"),
            lambda: corpus.ask_many(["Who?"]),
            lambda: corpus.search("Who?"),
            lambda: corpus.adapter("abcd"),
            lambda: corpus.versions(),
        ):
            with pytest.raises(UsageError, match="was closed"):
                use()

    def test_what_is_forgotten_is_closed(self, handbook_home: Home) -> None:
        corpus = registry.open(handbook_home).corpus("handbook")
        assert corpus.search("tea")  # the registry stays open for its corpus
        version = corpus.version
        del corpus
        gc.collect()
        assert not being_read(handbook_home, version)


class TestVersions:
    def test_a_corpus_stays_at_its_version(self, handbook_home: Home, home: OpenRegistry) -> None:
        with opened(handbook_home) as inside, inside.catalog.write() as session:
            set_alias(session, inside.version("tea@v1"), "today")
        corpus = home.corpus("tea@today")
        assert corpus.version.reference == "tea@v1"
        assert home.corpus("tea").version == corpus.version
        assert [version.number for version in corpus.versions()] == [1]

    @pytest.mark.parametrize("reference", ["nothing", "handbook@v7", "handbook@never", "hand book", ""])
    def test_that_are_not_there_are_named_with_those_that_are(self, home: OpenRegistry, reference: str) -> None:
        with pytest.raises(NotFoundError) as caught:
            home.corpus(reference)
        assert caught.value.hint

    def test_are_leased_for_as_long_as_they_are_held(
        self, handbook_home: Home, home: OpenRegistry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(python_api, "KEPT_VERSIONS", 1)
        held = home.corpus("handbook")
        forgotten = home.corpus("tea").version
        home.corpus("handbook")
        gc.collect()
        assert being_read(handbook_home, held.version)
        assert not being_read(handbook_home, forgotten)
        assert home.corpus("tea").search("tea")
        assert held.search("tea")


def test_search_finds_what_the_command_line_finds(handbook_home: Home, handbook: OpenCorpus) -> None:
    for question in (*QUESTIONS, "the keys of tea", "c++ OR (", "xyzzy"):
        assert handbook.search(question, 2) == search(handbook_home, "handbook", question, 2)[1]
    with pytest.raises(UsageError, match="is empty"):
        handbook.search(" ")
    with pytest.raises(UsageError, match="40 documents"):
        handbook.search("tea", 40)


class TestAdapters:
    def test_of_a_hit_a_document_and_a_digest_are_the_same(self, handbook: OpenCorpus) -> None:
        hit = handbook.search("tea")[0]
        adapter = handbook.adapter(hit)
        digest = hit.document.digest
        for same in (hit.document, digest, digest[:12], f"sha256:{digest}"):
            assert handbook.adapter(same) == adapter
        assert adapter.digest == hit.adapter_digest == hashlib.sha256(adapter.bytes).hexdigest()
        assert adapter.document == hit.document

    def test_have_tensors(self, handbook: OpenCorpus) -> None:
        adapter = handbook.adapter(handbook.search("tea")[0])
        assert list(adapter.tensors) == [tensor.name for tensor in adapter.layout.tensors]
        flat = torch.cat([tensor.flatten() for tensor in adapter.tensors.values()])
        assert flat.numpy().tobytes() == bytes(adapter.layout.body(adapter.bytes))
        for spec in adapter.layout.tensors:
            assert adapter.tensors[spec.name].shape == spec.shape
        assert adapter.recipe.rank == adapter.layout.rank == 4

    def test_are_saved_as_export_saves_them(self, handbook_home: Home, handbook: OpenCorpus, tmp_path: Path) -> None:
        adapter = handbook.adapter(handbook.search("tea")[0])
        assert adapter.save(str(tmp_path / "one")) == tmp_path / "one"
        export(handbook_home, [adapter.digest], tmp_path / "two")
        names = sorted(path.name for path in (tmp_path / "two").iterdir())
        assert names == sorted(path.name for path in (tmp_path / "one").iterdir())
        for name in names:
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        with pytest.raises(UsageError, match="one"):
            adapter.save(tmp_path / "one")

    def test_are_loaded_by_peft(self, handbook: OpenCorpus, tiny_model_path: Path, tmp_path: Path) -> None:
        folder = handbook.adapter(handbook.search("tea")[0]).save(tmp_path / "saved")
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_path), folder)
        loaded = load_file(folder / "adapter_model.safetensors")
        state = {name.replace(".default", ""): tensor for name, tensor in model.state_dict().items()}
        assert all(torch.equal(state[name], tensor) for name, tensor in loaded.items())

    def test_stay_good_after_closing(self, handbook_home: Home, tmp_path: Path) -> None:
        with registry.open(handbook_home) as home:
            corpus = home.corpus("tea")
            adapter = corpus.adapter(corpus.search("tea")[0])
        assert adapter.tensors
        assert adapter.save(tmp_path / "saved").is_dir()

    def test_of_other_versions_are_not_found(self, home: OpenRegistry) -> None:
        elsewhere = home.corpus("handbook").search("keys")[0]
        with pytest.raises(NotFoundError, match="is not in tea@v1") as caught:
            home.corpus("tea").adapter(elsewhere)
        assert caught.value.hint is not None
        assert elsewhere.document.digest[:12] in caught.value.hint
        for unknown in ("0000000000000000", "no digest at all", ""):
            with pytest.raises(PragregError) as refused:
                home.corpus("tea").adapter(unknown)
            assert isinstance(refused.value, NotFoundError | UsageError)

    def test_that_are_damaged_are_refused(self, handbook_home: Home, tmp_path: Path) -> None:
        import shutil

        copy = shutil.copytree(handbook_home.path, tmp_path / "copy")
        for pack in (copy / "packs").rglob("*"):
            if pack.is_file():
                data = bytearray(pack.read_bytes())
                data[-1000:] = bytes(1000)
                pack.chmod(0o644)
                pack.write_bytes(data)
        with registry.open(copy, device="cpu") as home:
            refused = 0
            for title in HANDBOOK:
                with contextlib.suppress(IntegrityError):
                    home.corpus("handbook").adapter(home.corpus("handbook").search(title)[0])
                    continue
                refused += 1
            assert refused
