"""The plug-in for vLLM, against vLLM's interface: the real one where it is installed, else ``vllm_protocol``."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

from registry.catalog.aliases import set_alias
from registry.engines.merges import EngineSettings, Merges
from registry.engines.vllm_plugin import CorpusResolver, register, request_id
from registry.errors import StorageError
from registry.merging.methods import parse_merge
from registry.pipeline.opened import Registry
from registry.pipeline.retrievals import recall, remember_hits
from registry.pipeline.search import search
from registry.settings import Home
from tests.engines.conftest import deltas, digests_of, exact_logits, logits, relative
from tests.engines.vllm_protocol import Serving

ROOT = Path(__file__).parents[2]
Documents = list[tuple[str, str]]

ALONE = """
import sys
from importlib.abc import MetaPathFinder

ABSENT = {"torch", "transformers", "peft", "numba", "huggingface_hub", "alembic", "click", "rich", "fastapi",
          "pyarrow", "matplotlib", "openai", "cryptography", "psutil", "fsspec", "gguf", "tokenizers"}

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from tests.engines import vllm_protocol
vllm_protocol.IS_REAL = False
vllm_protocol.install()
import asyncio, logging
logging.basicConfig(level=logging.INFO)
from registry.engines import vllm_plugin
vllm_plugin.register()
(resolver,) = vllm_protocol.LoRAResolverRegistry.resolvers.values()
request = asyncio.run(resolver.resolve_lora(*sys.argv[1:]))
print(request.lora_name, request.lora_int_id, request.lora_path)
"""


@pytest.fixture
def model(tiny_model_path: Path) -> str:
    """The base model as vLLM was told of it."""
    return str(tiny_model_path)


@pytest.fixture
def settings(engine_home: Home, tmp_path: Path) -> EngineSettings:
    return EngineSettings(engine_home, tmp_path / "cache", merge="uniform")


@pytest.fixture
def resolver(settings: EngineSettings) -> CorpusResolver:
    return CorpusResolver(settings)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.LogCaptureFixture]:
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)  # vLLM turns it off
    with caplog.at_level(logging.INFO, logger="vllm"):
        yield caplog


def asked(resolver: CorpusResolver, model: str, name: str) -> Any:
    return asyncio.run(resolver.resolve_lora(model, name))


def named(first: Documents, *numbers: int, reference: str = "default@v1") -> str:
    return f"{reference}:{','.join(first[number][0][:12] for number in numbers)}"


def test_a_name_gives_a_request_that_vllm_can_load(
    resolver: CorpusResolver, registry: Registry, first: Documents, model: str, fresh_model: Any
) -> None:
    assert isinstance(resolver, LoRAResolver)
    name = named(first, 0, 2)
    request = asked(resolver, model, name)
    assert isinstance(request, LoRARequest)
    path = Path(request.lora_path)
    assert path.is_absolute()
    assert request.lora_name == f"{name}#{path.name}"
    assert request.base_model_name == model
    assert 1 <= request.lora_int_id < 2**63
    serving = Serving(model, [resolver])
    assert asyncio.run(serving.resolve_lora(name)) == request
    added = deltas(registry, [(first[0][1], 1.0), (first[2][1], 1.0)], 32.0)
    peft = PeftModel.from_pretrained(fresh_model(), str(path))
    assert relative(logits(peft), exact_logits(fresh_model(), added)) < 1e-4
    for module, own in serving.loaded[0].items():
        assert relative((own.scaling * own.b.double() @ own.a.double()).float(), added[module].float()) < 1e-4


def test_a_retrieval_made_by_a_search_is_resolved(
    resolver: CorpusResolver, engine_home: Home, registry: Registry, model: str, fresh_model: Any
) -> None:
    version, hits = search(engine_home, "default@production", "Note 4", 3)
    digest = remember_hits(engine_home, version, hits, parse_merge("softmax", 3))
    request = asked(resolver, model, digest)
    assert request.lora_name.startswith(f"{digest}#")
    retrieval = recall(engine_home, digest)
    assert retrieval is not None
    added = deltas(registry, [(one.adapter, one.factor) for one in retrieval.documents], 32.0)
    peft = PeftModel.from_pretrained(fresh_model(), request.lora_path)
    assert relative(logits(peft), exact_logits(fresh_model(), added)) < 1e-4
    assert asked(resolver, model, "f" * 64) is None


def test_versions_never_share_a_request(resolver: CorpusResolver, registry: Registry, model: str) -> None:
    kept = dict(digests_of(registry, registry.version("default@v1")))
    later = dict(digests_of(registry, registry.version("default@v2")))
    same = next(document for document, adapter in kept.items() if later.get(document) == adapter)
    edited = next(iter(later.keys() - kept.keys()))
    requests = [
        asked(resolver, model, name)
        for name in (f"default@v1:{same}", f"default@v2:{same}", f"default@v2:{same},{edited}", f"default@v2:{edited}")
    ]
    # Of an adapter that did not change there is one folder, and yet two requests: each name has its own id in vLLM,
    # which takes requests of one name for one.
    assert requests[0].lora_path == requests[1].lora_path
    assert len({request.lora_name for request in requests}) == len({r.lora_int_id for r in requests}) == 4
    assert len(set(requests)) == 4
    assert len({request.lora_path for request in requests}) == 3


def test_a_moved_alias_names_another_merge(
    resolver: CorpusResolver, registry: Registry, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (registry.version(f"default@v{number}") for number in (1, 2))
    edited = next(iter(dict(digests_of(registry, second)).keys() - dict(digests_of(registry, first)).keys()))
    assert asked(resolver, model, f"default@production:{edited}") is None
    with registry.catalog.write() as session:
        set_alias(session, second, "production")
    request = asked(resolver, model, f"default@production:{edited}")
    assert request.lora_path == asked(resolver, model, f"default@v2:{edited}").lora_path


def test_the_merge_method_is_the_settings(settings: EngineSettings, first: Documents, model: str) -> None:
    paths = {
        merge: asked(CorpusResolver(EngineSettings(settings.home, settings.cache, merge=merge)), model, name).lora_path
        for name in [named(first, 0, 1)]
        for merge in ("uniform", "near", "mean", "first")
    }
    assert paths["near"] == paths["mean"]
    assert len(set(paths.values())) == 3


def test_the_name_in_an_answer_can_be_asked_for_again(resolver: CorpusResolver, first: Documents, model: str) -> None:
    request = asked(resolver, model, named(first, 0, 1, reference="default@production"))
    again = asked(resolver, model, request.lora_name)
    assert (again, again.lora_int_id, again.lora_path) == (request, request.lora_int_id, request.lora_path)
    other = request.lora_name[:-1] + ("0" if request.lora_name[-1] != "0" else "1")
    for name in (other, request.lora_name + "0", request.lora_name[:-1], f"{request.lora_name}#{request.lora_name}"):
        assert asked(resolver, model, name) is None


@pytest.mark.parametrize(
    "name",
    [
        *("", "default", "default@v1", "default@v1:", "../../etc/passwd", "default@v1:../../etc", "/tmp", "~root"),
        *("default@v1:0000", "default@v9:{0}", "default@nowhere:{0}", "nobody:{0}", "default@sha256:0000:{0}"),
        *("default@v1:{0},{0}", "default@v1:{0}\n", "default@v1:{0}\0", "default@v1:{0}' OR '1'='1", "Tarn/lamp"),
        *(
            "default@v99999999999999999999:{0}",
            "\ud800",
            "#",
            "default#",
            "default@v1:" + "0" * 64,
            "0" * 64,
            "sha256:" + "0" * 64,
        ),
        *("x" * 1_000_000, "default@v1:" + ",".join(["{0}"] * 33), "default@v1:" + "1f2e," * 100_000),
    ],
)
def test_whatever_a_client_sends_is_none(
    resolver: CorpusResolver, settings: EngineSettings, first: Documents, model: str, name: str
) -> None:
    assert asked(resolver, model, name.replace("{0}", first[0][0][:12])) is None
    assert not list((settings.cache / "kept").iterdir())
    assert not list((settings.cache / "making").iterdir())


def test_a_refusal_says_why_on_one_line_of_the_log(
    resolver: CorpusResolver, first: Documents, model: str, log: pytest.LogCaptureFixture
) -> None:
    assert asked(resolver, model, named(first, 0, reference="nobody")) is None
    assert asked(resolver, "someone/else-1b", named(first, 0)) is None
    messages = [record.getMessage() for record in log.records]
    assert "there is no corpus 'nobody'" in messages[0]
    assert "serves someone/else-1b" in messages[1]
    assert "pragreg export --vllm" in messages[1]
    assert [record.levelname for record in log.records] == ["INFO", "WARNING"]
    assert not any("\n" in message for message in messages)


def test_a_registry_that_breaks_gives_none_and_recovers(
    resolver: CorpusResolver, engine_home: Home, first: Documents, model: str, log: pytest.LogCaptureFixture
) -> None:
    away = engine_home.path.with_name("away")
    engine_home.path.rename(away)
    assert asked(resolver, model, named(first, 0)) is None
    away.rename(engine_home.path)
    packs = Path(engine_home.packs_url)
    for file in packs.rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-50_000] + bytes(50_000))
    assert asked(resolver, model, named(first, 0, 1, 2, 3, 4, 5)) is None
    (engine_home.path / "catalog.sqlite").write_bytes(b"no database")
    assert asked(resolver, model, named(first, 0)) is None
    assert [record.levelname for record in log.records] == ["WARNING"] * 3


def test_an_error_of_our_own_gives_none(
    resolver: CorpusResolver, model: str, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("postgresql://ada:s3cret@host/db went away")

    monkeypatch.setattr(Merges, "find", broken)
    assert asked(resolver, model, "default:1f2e") is None
    (record,) = log.records
    assert "RuntimeError" in record.getMessage()
    assert "s3cret" not in record.getMessage()


def test_a_full_cache_gives_none_and_keeps_what_vllm_may_load_again(
    settings: EngineSettings, first: Documents, model: str, log: pytest.LogCaptureFixture
) -> None:
    resolver = CorpusResolver(EngineSettings(settings.home, settings.cache, cache_folders=2))
    kept = [asked(resolver, model, named(first, number)) for number in (0, 1)]
    assert asked(resolver, model, named(first, 2)) is None
    assert "PRAGREG_VLLM_CACHE_FOLDERS" in log.records[-1].getMessage()
    assert all(Path(request.lora_path).is_dir() for request in kept)
    assert asked(resolver, model, named(first, 0)) == kept[0]


def test_the_loop_goes_on_while_adapters_are_merged(
    resolver: CorpusResolver, first: Documents, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Merges.find

    def slow(self: Merges, served_model: str, name: str) -> Any:
        time.sleep(0.3)
        return whole(self, served_model, name)

    monkeypatch.setattr(Merges, "find", slow)

    async def beats() -> tuple[int, list[Any]]:
        names = [named(first, number) for number in range(4)]
        waiting = asyncio.gather(*(resolver.resolve_lora(model, name) for name in names))
        count = 0
        while not waiting.done():
            await asyncio.sleep(0.01)
            count += 1
        return count, waiting.result()

    count, requests = asyncio.run(beats())
    assert count > 10
    assert [request.lora_name.partition("#")[0] for request in requests] == [named(first, n) for n in range(4)]


def test_another_process_with_little_installed_makes_the_same_request(
    resolver: CorpusResolver, settings: EngineSettings, first: Documents, model: str
) -> None:
    name = named(first, 3, 1)
    request = asked(resolver, model, name)
    shutil.rmtree(settings.cache)
    environment = os.environ | {
        "PRAGREG_HOME": str(settings.home.path),
        "PRAGREG_VLLM_CACHE": str(settings.cache),
        "PRAGREG_VLLM_MERGE": "uniform",
    }
    done = subprocess.run(
        [sys.executable, "-c", ALONE, model, name],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [request.lora_name, str(request.lora_int_id), request.lora_path], done.stderr


def test_ids_are_the_same_for_ever() -> None:
    assert request_id("handbook@v3:1f2e#aa") == 8799713161330524896
    assert request_id("handbook@v3:1f2e#ab") != request_id("handbook@v3:1f2e#aa")


def test_the_entry_point_registers_the_resolver(
    settings: EngineSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (target,) = project["entry-points"]["vllm.general_plugins"].values()
    module, _, function = target.partition(":")
    assert getattr(import_module(module), function) is register
    monkeypatch.setattr(LoRAResolverRegistry, "resolvers", {})
    for name in ("PRAGREG_HOME", "PRAGREG_VLLM_CACHE", "PRAGREG_VLLM_CACHE_BYTES"):
        monkeypatch.delenv(name, raising=False)
    register()
    assert not LoRAResolverRegistry.get_supported_resolvers()
    monkeypatch.setenv("PRAGREG_HOME", str(settings.home.path))
    register()
    register()  # vLLM may do so
    assert set(LoRAResolverRegistry.get_supported_resolvers()) == {"pragreg"}
    monkeypatch.setenv("PRAGREG_VLLM_CACHE_BYTES", "-1")
    with pytest.raises(ValueError, match="PRAGREG_VLLM_CACHE_BYTES must be a whole number above 0"):
        register()
    monkeypatch.setenv("PRAGREG_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="there is no registry home at"):
        register()


def test_a_cache_that_cannot_be_written_is_told_at_the_start(settings: EngineSettings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        CorpusResolver(EngineSettings(settings.home, tmp_path / "file"))
