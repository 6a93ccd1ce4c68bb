"""``push --format peft``: what lies in the repository then, and that PEFT and ``adapters import`` read it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from registry.base_model import LoadedModel
from registry.digests import short
from registry.errors import HubError, InputError, IntegrityError, NotFoundError, UsageError
from registry.pipeline.export import MergeRequest, export, merge
from registry.pipeline.import_adapters import ImportRequest, import_adapters
from registry.pipeline.push.peft import push_peft
from registry.pipeline.push.peft_folders import PeftPushRequest
from registry.progress import Silent
from registry.settings import create_home
from registry.store.layout import read_layout
from tests.generation.sums import online
from tests.hub.maker import Maker, maker
from tests.hub.server import HubServer

FILES = {"adapter_config.json", "adapter_model.safetensors", "README.md"}
REQUEST = PeftPushRequest("ada/notes")
LOAD = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
found = {}
for number, place in enumerate(json.loads(sys.argv[2])):
    base = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
    model = PeftModel.from_pretrained(base, place[0], **({"subfolder": place[1]} if place[1] else {}))
    found[str(number)] = model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits.detach().contiguous()
save_file(found, sys.argv[3])
"""


@pytest.fixture
def made(tmp_path: Path, sqlite_template: Path, tiny_model_path: Path) -> Iterator[Maker]:
    """A home with three documents in the corpus ``default``, of rank 2."""
    home = create_home(tmp_path / "home", base_model=str(tiny_model_path))
    shutil.copy(sqlite_template, home.path / "catalog.sqlite")
    with maker(home, rank=2) as made:
        made.build(dict.fromkeys(range(3), 0))
        yield made


@pytest.fixture
def digests(made: Maker) -> list[str]:
    with made.catalog.read() as session:
        from registry.catalog.listing import list_adapters

        return [line.digest for line in list_adapters(session, limit=None)]


def push(made: Maker, **changes: object) -> dict[str, str]:
    """Push, and return the folders by digest."""
    return dict(push_peft(made.home, replace(REQUEST, **changes), Silent()).folders)  # type: ignore[arg-type]


def front(hub: HubServer, path: str = "README.md") -> dict[str, object]:
    _, metadata, _ = hub.read("ada/notes", path).decode().split("---\n", 2)
    found: dict[str, object] = yaml.safe_load(metadata)
    return found


def test_one_adapter_lies_at_the_root(hub: HubServer, made: Maker, digests: list[str]) -> None:
    request = replace(REQUEST, adapters=(digests[0][:12],), licence="mit", tag="first", private=True, message="one")
    report = push_peft(made.home, request, Silent())
    state = hub.state("ada/notes")
    assert FILES <= state.files.keys() <= FILES | {".gitattributes"}
    assert state.files["adapter_model.safetensors"].sha256 == digests[0]
    assert (report.folders, report.commit_id, report.created) == ({digests[0]: ""}, state.head, True)
    assert (state.tags, state.commits[0][1]) == ({"first": state.head}, "one")
    settings = json.loads(hub.read("ada/notes", "adapter_config.json"))
    assert (settings["r"], settings["base_model_name_or_path"]) == (2, "llama")
    card = hub.read("ada/notes", "README.md").decode()
    assert front(hub) == {
        "library_name": "peft",
        "license": "mit",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "pragreg"],
    }
    assert '"ada/notes")' in card
    assert "| document | Note " in card
    assert str(made.home.base_model) not in card + json.dumps(settings)
    assert hub.counters()["commits"] == 1


def test_several_lie_in_folders_that_the_card_lists(hub: HubServer, made: Maker, digests: list[str]) -> None:
    assert push(made, reference="default") == {digest: f"adapter-{short(digest)}" for digest in digests}
    state = hub.state("ada/notes")
    expected = {f"adapter-{short(digest)}/{file}" for digest in digests for file in FILES} | {"README.md"}
    assert expected <= state.files.keys() <= expected | {".gitattributes"}
    card = hub.read("ada/notes", "README.md").decode()
    assert all(f"| `adapter-{short(digest)}` | Note " in card for digest in digests)
    assert 'subfolder="adapter-' in hub.read("ada/notes", f"adapter-{short(digests[0])}/README.md").decode()


def test_titles_stay_here_without_text(hub: HubServer, made: Maker, digests: list[str]) -> None:
    push(made, reference="default", has_text=False)
    assert not any(b"Note " in hub.read("ada/notes", path) for path in hub.state("ada/notes").files if "README" in path)


def test_what_an_earlier_push_left_goes_and_what_others_put_there_stays(
    hub: HubServer, made: Maker, digests: list[str]
) -> None:
    push(made, adapters=(digests[0],))
    hub.commit("ada/notes", {"notes.txt": b"by hand", "adapter-mine/weights.bin": b"x"})
    assert push_peft(made.home, replace(REQUEST, adapters=tuple(digests[1:])), Silent()).deleted == 2
    kept = {f"adapter-{short(digest)}/{file}" for digest in digests[1:] for file in FILES}
    assert hub.state("ada/notes").files.keys() - {".gitattributes"} == (
        kept | {"README.md", "notes.txt", "adapter-mine/weights.bin"}
    )
    push(made, adapters=(digests[2],))
    assert hub.state("ada/notes").files.keys() - {".gitattributes"} == (
        FILES | {"notes.txt", "adapter-mine/weights.bin"}
    )


def test_peft_loads_it_from_the_server_as_we_answer_with_it(
    hub: HubServer, made: Maker, digests: list[str], tiny_model_path: Path, tiny_model: LoadedModel, tmp_path: Path
) -> None:
    push(made, adapters=(digests[0],))
    push(made, repository="ada/set", reference="default")
    places = [("ada/notes", ""), ("ada/set", f"adapter-{short(digests[1])}")]
    out = tmp_path / "logits.safetensors"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LOAD, str(tiny_model_path), json.dumps(places), str(out)]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
    exported = [export(made.home, [digest], tmp_path / digest)[0].folder for digest in digests[:2]]
    datas = [(folder / "adapter_model.safetensors").read_bytes() for folder in exported]
    layout = read_layout(datas[0])
    ids = torch.tensor([[5, 6, 7, 8]])
    for number, data in enumerate(datas):
        ours = online(tiny_model, layout, [layout.body(data)], [1.0], made.recipe.scale, ids)
        theirs = load_file(out)[str(number)]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(theirs, tiny_model.model(input_ids=ids).logits)


def test_another_home_imports_the_same_adapters(
    hub: HubServer, made: Maker, digests: list[str], tmp_path: Path, sqlite_template: Path
) -> None:
    push(made, reference="default")
    other = create_home(tmp_path / "other", base_model=made.home.base_model)
    shutil.copy(sqlite_template, other.path / "catalog.sqlite")
    imported = import_adapters(other, ImportRequest("ada/notes"), Silent())
    assert {one.digest for one in imported} == set(digests)
    assert {(one.rank, one.alpha, one.is_new) for one in imported} == {(2, made.recipe.alpha, True)}
    here = import_adapters(made.home, ImportRequest("ada/notes"), Silent())
    assert {(one.digest, one.is_new) for one in here} == {(digest, False) for digest in digests}


def test_a_merged_folder_is_pushed_with_its_card(
    hub: HubServer, made: Maker, digests: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "merged"
    merge(made.home, MergeRequest(tuple(digests), "default", folder), Silent())
    push(made, folder=folder, licence="Own Terms")
    data = hub.read("ada/notes", "adapter_model.safetensors")
    assert data == (folder / "adapter_model.safetensors").read_bytes()
    card = hub.read("ada/notes", "README.md").decode()
    assert "| merged from | sha256:" in card
    assert (front(hub)["license"], front(hub)["license_name"]) == ("other", "own-terms")
    assert made.home.base_model not in card
    settings = json.loads(hub.read("ada/notes", "adapter_config.json"))
    assert settings == json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": "llama"}
    (imported,) = import_adapters(made.home, ImportRequest("ada/notes"), Silent())
    assert (imported.rank, imported.is_new) == (6, True)


def test_a_dry_run_sends_nothing(hub: HubServer, made: Maker, digests: list[str]) -> None:
    report = push_peft(made.home, replace(REQUEST, adapters=tuple(digests), dry_run=True), Silent())
    assert (report.commit_id, report.files, report.created) == (None, 10, True)
    assert report.size_bytes > 3 * made.layout.size_bytes
    assert {request["method"] for request in hub.requests()} == {"GET"}


def test_a_repository_with_a_corpus_is_left_alone(hub: HubServer, made: Maker, digests: list[str]) -> None:
    hub.commit("ada/notes", {"pragreg.json": b"{}"})
    head = hub.state("ada/notes").head
    with pytest.raises(HubError, match=r"ada/notes holds a corpus \(pragreg.json\)"):
        push(made, adapters=(digests[0],))
    assert hub.state("ada/notes").head == head


def test_faults_in_between_leave_one_commit(hub: HubServer, made: Maker, digests: list[str]) -> None:
    push(made, adapters=(digests[0],))
    before = len(hub.state("ada/notes").commits)
    hub.fault("status-after", status=500, method="POST", route="commit", times=1)
    push(made, adapters=(digests[1],))
    hub.clear_faults()
    assert hub.state("ada/notes").files["adapter_model.safetensors"].sha256 == digests[1]
    assert len(hub.state("ada/notes").commits) == before + 1


def test_what_cannot_be_pushed(hub: HubServer, made: Maker, digests: list[str], tmp_path: Path) -> None:
    def refused(kind: type[Exception], message: str, **changes: object) -> None:
        with pytest.raises(kind, match=message):
            push(made, **changes)

    refused(UsageError, "nothing is named")
    refused(UsageError, "more than one kind", adapters=(digests[0],), reference="default")
    refused(UsageError, "names a revision", repository="ada/notes@v1", adapters=(digests[0],))
    refused(UsageError, "cannot be a tag", adapters=(digests[0],), tag="a..b")
    refused(NotFoundError, "no adapter", adapters=("f" * 64,))
    refused(InputError, "there is no folder", folder=tmp_path / "none")
    export(made.home, [digests[0]], tmp_path / "changed")
    (tmp_path / "changed" / "README.md").unlink()
    refused(InputError, "cannot be used as a model card", folder=tmp_path / "changed")
    (tmp_path / "changed" / "adapter_config.json").write_text('{"peft_type": "LORA", "use_dora": true}')
    refused(IntegrityError, "has 'use_dora': True", folder=tmp_path / "changed")
    made.build(dict.fromkeys(range(65), 0), corpus="large")
    refused(UsageError, "large@v1 has 65 adapters, and at most 64", reference="large")
    assert hub.counters()["commits"] == 0
