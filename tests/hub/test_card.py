"""Model cards: valid by the Hub's rules, true to the root, and no way in for what documents or names say."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from registry.hub.card import EvaluationRow, card, licence_fields, licence_of
from registry.pipeline.push.request import PushRequest
from registry.pipeline.push.run import push
from registry.progress import Silent
from registry.records import BaseModel
from tests.hub.maker import maker, new_home
from tests.hub.manifests import BASE_MODEL, RECIPE, canonical, small_root
from tests.hub.server import HubServer

EVALUATION = (EvaluationRow("prag k=3", 496, 0.5, 0.6125, 0.61), EvaluationRow("closed-book", 496, 0.05, 0.1, 0.07))


def metadata(text: str) -> dict[str, Any]:
    return ModelCard(text).data.to_dict()  # type: ignore[no-untyped-call, no-any-return]


def test_the_metadata_is_what_the_hub_and_peft_expect() -> None:
    assert metadata(card(small_root(), licence="CC-BY-4.0")) == {
        "base_model": "ada/tiny",
        "base_model_relation": "adapter",
        "language": "en",
        "library_name": "peft",
        "license": "cc-by-4.0",
        "pipeline_tag": "text-generation",
        "tags": ["base_model:adapter:ada/tiny", "lora", "pragreg"],
    }


@pytest.mark.parametrize(
    "licence", [None, "mit", "Apache-2.0", "Acme: licence | 2", "https://acme.example/licence", "!"]
)
def test_a_card_passes_the_hub_s_validation(
    licence: str | None, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    for root in (
        small_root(),
        small_root(base_models=(replace(BASE_MODEL, revision=None),), language="zzxx", has_text=False),
    ):
        ModelCard(card(root, licence=licence, evaluation=EVALUATION, is_signed=True)).validate(repo_type="model")
    with pytest.raises(ValueError, match="license"):  # so the server does look
        ModelCard("---\nlicense: acme\n---\n").validate(repo_type="model")


@pytest.mark.parametrize(
    ("licence", "fields"),
    [
        (None, {}),
        (" ", {}),
        ("MIT", {"license": "mit"}),
        ("other", {"license": "other"}),
        ("Acme | Licence 2.0\n", {"license": "other", "license_name": "acme-licence-2.0"}),
        ("https://a.example/b", {"license": "other", "license_name": "linked", "license_link": "https://a.example/b"}),
        ("javascript:alert(1)", {"license": "other", "license_name": "javascript-alert-1"}),
    ],
)
def test_a_licence_that_the_hub_does_not_know_is_other_with_a_name(licence: str | None, fields: dict[str, str]) -> None:
    assert licence_fields(licence) == fields
    text = card(small_root(), licence=licence)
    assert {key: value for key, value in metadata(text).items() if key.startswith("license")} == fields
    assert licence_fields(licence_of(text)) == fields


@pytest.mark.parametrize(
    "text",
    ["", "no front matter", "---\n: : [\n---\n", "---\nlicense: [1, 2]\n---\n", "---\n" + "a: &a [*a]\n---\n", "\0"],
)
def test_no_licence_is_found_in_a_card_that_has_none(text: str) -> None:
    assert licence_of(text) is None


def test_a_card_says_what_is_there_and_how_to_use_it() -> None:
    root = small_root()
    text = card(root, licence="mit", evaluation=EVALUATION)
    for said in (
        "Parametric memory of 6 documents",
        "v2 of 2026-02-03, 6 documents",
        "7 documents, 7 adapters",
        f"sha256:{BASE_MODEL.fingerprint}",
        "rank 2, alpha 32",
        "| prag k=3 | 496 | 0.500 | 0.613 | 0.610 |",
        "pragreg pull ada/handbook",
        "pragreg query",
        "--enable-lora --lora-modules",
        "vllm serve ada/tiny",
        "| texts | in the repository |",
    ):
        assert said in text, said
    assert "Withheld" not in text
    assert "pragreg.json.sig" not in text
    assert "## Evaluation" not in card(root, licence=None)
    assert card(replace(root, written_at=root.written_at.replace(year=2030), card_digest=None), licence="mit") == card(
        root, licence="mit"
    )


def test_a_card_says_what_is_withheld_and_what_is_signed() -> None:
    text = card(small_root(has_text=False), licence=None, is_signed=True)
    assert "**Withheld:** the documents" in text
    assert "pragreg pull ada/handbook --texts" in text
    assert "pragreg pull --require-signature KEY" in text


def test_a_local_base_model_is_not_claimed_to_be_on_the_hub() -> None:
    local = BaseModel(BASE_MODEL.fingerprint, "/home/ada/models/tiny", None, "LlamaForCausalLM", 1)
    text = card(small_root(base_models=(local,)), licence=None)
    assert "base_model" not in metadata(text)
    assert metadata(text)["tags"] == ["lora", "pragreg"]
    assert "/home/ada" not in text
    assert "| base model | tiny |" in text


def test_a_rank_that_vllm_has_no_room_for_is_told() -> None:
    recipe = replace(RECIPE, rank=24)
    versions = tuple(replace(version, recipe_digest=recipe.digest) for version in small_root().versions)
    text = card(small_root(recipes=(canonical(recipe),), versions=versions, task_adapters=()), licence=None)
    assert "--enable-lora --max-lora-rank 32" in text


HOSTILE = (
    "x|y\n# H <script>alert(1)</script> [a](https://e.example) ![i](http://e.example/i.png) `c` $m$ @u \x1b[2J\u202e"
)


def test_nothing_that_is_named_in_a_card_is_markup() -> None:
    root = small_root(
        base_models=(replace(BASE_MODEL, reference=f"/models/{HOSTILE.replace('/', '')}", revision=None),)
    )
    evaluation = (EvaluationRow(HOSTILE, 1, 0.0, 0.0, 0.0),)
    text = card(root, licence=HOSTILE, evaluation=evaluation)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e]", text)
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text.partition("---\n\n")[2])
    inline = [child for token in tokens for child in token.children or ()]
    assert not [
        token for token in (*tokens, *inline) if token.type in ("html_block", "html_inline", "image", "link_open")
    ]
    assert sum(token.type == "heading_open" for token in tokens) == 6
    rows = [token for token in tokens if token.type == "tr_open"]
    assert len(rows) == 9 + 2


def test_the_lines_for_peft_load_an_adapter(
    hub: HubServer, tmp_path: Path, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = new_home(tmp_path / "home", tiny_model_path)
    with maker(home) as making:
        making.build({number: 0 for number in range(3)})
        digests = [making.document(number).digest for number in range(3)]
        adapters = [making.adapter(digest) for digest in digests]
    push(home, PushRequest("ada/handbook", "default", licence="mit"), Silent())
    (lines,) = re.findall(r"```python\n(.*?)```", hub.read("ada/handbook", "README.md").decode(), re.DOTALL)
    lines = lines.replace(f"'{tiny_model_path.name}'", repr(str(tiny_model_path)))
    lines = re.sub(r"(HfApi|HfFileSystem)\(\)", rf"\1(endpoint={hub.endpoint!r})", lines)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(lines, names)
    assert names["data"] in adapters
    state = {name: value for name, value in names["model"].state_dict().items() if ".lora_" in name}
    from safetensors.torch import load

    expected = load(names["data"])
    assert len(state) == len(expected) > 0
    for name, value in expected.items():
        assert (state[name.replace(".weight", ".default.weight")] == value).all()
