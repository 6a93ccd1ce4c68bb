"""The model card of a repository: README.md, by the Hub's rules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from shlex import quote

from huggingface_hub import ModelCardData

from registry.hub.licences import licence_fields, licence_of
from registry.hub.manifest.published_names import hub_id, published_base_model
from registry.hub.manifest.text import plain
from registry.hub.names import ROOT, SIGNATURE
from registry.published import PublishedVersion, Root
from registry.recipe import Recipe, from_canonical
from registry.records import BaseModel

__all__ = ["EvaluationRow", "card", "licence_fields", "licence_of"]

_MARKDOWN = re.compile(r"([\\`*_{}\[\]#!|~$:@])")
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_LORA_RANKS = (16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM makes room for; it takes 16 by itself."""

_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))

_WITHHELD = """
**Withheld:** the documents, and what was generated from them for training. Digests say which documents these are, and
the adapters were trained on them, but to find the documents of a question their texts are needed from elsewhere
(`pragreg pull REPOSITORY --texts FILE...`). Adapters may still tell what they were taught.
"""


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One way of answering a file of questions, and how right it was; scores are shares from 0 to 1."""

    mode: str
    questions: int
    exact_match: float
    f1: float
    contains: float


def card(
    root: Root,
    *,
    licence: str | None,
    evaluation: Sequence[EvaluationRow] = (),
    is_signed: bool = False,
) -> str:
    """Return the README.md of a repository.

    ``licence`` is an identifier that the Hub knows, such as ``mit``, a link to one, or the name of any other.
    """
    recipe = from_canonical(
        next(values for values in root.recipes if from_canonical(values).digest == _latest(root).recipe_digest)
    )
    base_model = next(model for model in root.base_models if model.fingerprint == recipe.base_model)
    parts = [
        f"---\n{_metadata(root, licence)}\n---\n",
        _about(root, recipe, base_model),
        _evaluation(evaluation),
        _with_pragreg(root),
        _with_peft(root, recipe, base_model),
        _with_vllm(recipe, base_model),
        _trust(is_signed),
    ]
    return "\n".join(part for part in parts if part)


def _metadata(root: Root, licence: str | None) -> str:
    """Return the card's YAML."""
    models = [name for name in map(hub_id, root.base_models) if name]
    fields = licence_fields(licence)
    language = root.language if _LANGUAGE.fullmatch(root.language) else None
    data = ModelCardData(
        base_model=(models[0] if len(models) == 1 else models) or None,
        base_model_relation="adapter" if models else None,
        language=language,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=[*(f"base_model:adapter:{name}" for name in models), "lora", "pragreg"],
        license=fields.get("license"),
        license_name=fields.get("license_name"),
        license_link=fields.get("license_link"),
    )
    return data.to_yaml()


def _about(root: Root, recipe: Recipe, base_model: BaseModel) -> str:
    latest = _latest(root)
    last = published_base_model(base_model)
    on_hub = hub_id(base_model)
    name = f"[{_escaped(on_hub)}](https://huggingface.co/{on_hub})" if on_hub else _escaped(last.reference)
    facts = {
        "base model": name,
        "revision": f"`{last.revision}`" if last.revision else "of local files",
        "fingerprint": f"`sha256:{last.fingerprint}`",
        "latest version": f"v{latest.number} of {latest.created_at:%Y-%m-%d}, {latest.documents:,} documents, "
        f"{_size(latest.size_bytes)} of adapters",
        "all versions": f"{len(root.versions):,}; {root.documents:,} documents, {root.adapters:,} adapters, "
        f"{_size(root.packs_bytes)} in packs",
        "LoRA": f"rank {recipe.rank}, alpha {recipe.alpha:g}, on {_escaped(', '.join(recipe.targets))}, "
        f"blocks from {recipe.first_layer} on, {recipe.adapter_dtype}",
        "recipe": f"`sha256:{recipe.digest}`",
        "texts": "in the repository" if root.has_text else "withheld",
    }
    return f"""# {_escaped(root.corpus)}

Parametric memory of {latest.documents:,} documents. Each document is a small LoRA adapter of its own: with the adapters
of the documents that a question needs, the base model answers it without their text in the prompt. Made with pragreg.

{_table(("", ""), facts.items())}
{"" if root.has_text else _WITHHELD}"""


def _evaluation(rows: Sequence[EvaluationRow]) -> str:
    if not rows:
        return ""
    body = [
        (
            _escaped(row.mode),
            f"{row.questions:,}",
            *(f"{score:.3f}" for score in (row.exact_match, row.f1, row.contains)),
        )
        for row in rows
    ]
    head = ("answered", "questions", "exact match", "F1", "contains")
    return f"## Evaluation\n\n{_table(head, body)}\n"


def _with_pragreg(root: Root) -> str:
    texts = "" if root.has_text else " --texts documents.jsonl"
    return f"""## With pragreg

```console
$ pip install pragreg && pragreg init
$ pragreg pull {root.repository}{texts}
$ pragreg query "..." --corpus {root.corpus}
```

`pragreg pull --lazy` fetches no adapter before a question needs it.
"""


def _with_peft(root: Root, recipe: Recipe, base_model: BaseModel) -> str:
    alpha = int(recipe.alpha) if recipe.alpha == int(recipe.alpha) else recipe.alpha
    return f"""## With PEFT

One adapter, by its digest, is a range of bytes in a pack, and an `adapter_model.safetensors`:

```python
import hashlib
import json
from pathlib import Path

from huggingface_hub import HfApi, HfFileSystem
from peft import LoraConfig, PeftModel
from safetensors.torch import load
from transformers import AutoModelForCausalLM

repository, base = {root.repository!a}, {published_base_model(base_model).reference!a}
commit = HfApi().model_info(repository).sha
files = HfFileSystem()
packs = [one.path for one in HfApi().list_repo_tree(repository, "packs", recursive=True, revision=commit)
         if one.path.endswith(".safetensors")]
pack = f"{{repository}}@{{commit}}/{{packs[0]}}"
body = 8 + int.from_bytes(files.cat_file(pack, start=0, end=8), "little")
places = json.loads(files.cat_file(pack, start=8, end=body))
digest = next(name for name in places if name != "__metadata__")  # or the one that you want
begin, end = places[digest]["data_offsets"]
data = files.cat_file(pack, start=body + begin, end=body + end)
assert hashlib.sha256(data).hexdigest() == digest

folder = Path("adapter")
modules = [name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
           for name in load(data) if name.endswith(".lora_A.weight")]
LoraConfig(r={recipe.rank}, lora_alpha={alpha}, target_modules=modules, task_type="CAUSAL_LM").save_pretrained(folder)
(folder / "adapter_model.safetensors").write_bytes(data)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
```
"""


def _with_vllm(recipe: Recipe, base_model: BaseModel) -> str:
    most = next((rank for rank in _LORA_RANKS if rank >= recipe.rank), recipe.rank)
    rank = "" if most == _LORA_RANKS[0] else f" --max-lora-rank {most}"
    return f"""## With vLLM

`pragreg export` writes adapters as PEFT folders, and vLLM serves such folders:

```console
$ pragreg export ADAPTER --out adapter
$ vllm serve {quote(published_base_model(base_model).reference)} --enable-lora{rank} --lora-modules document=adapter
```
"""


def _trust(is_signed: bool) -> str:
    signed = f"`{SIGNATURE}` is an SSH\nsignature over it, which `pragreg pull --require-signature KEY` checks. "
    return f"""## What is here

`{ROOT}` names every other file by its sha256. {signed if is_signed else ""}The adapters belong to exactly the base
model of the fingerprint above; on other weights, even of the same name, answers may differ.
"""


def _latest(root: Root) -> PublishedVersion:
    return root.versions[root.latest - 1]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = tuple(head)
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _size(size_bytes: int) -> str:
    factor, unit = next(((factor, unit) for factor, unit in _UNITS if size_bytes >= factor), (1, "bytes"))
    return f"{size_bytes / factor:.3g} {unit}"


def _escaped(text: str) -> str:
    """Return ``text`` on one line, as words only: no Markdown, no HTML, no end of a table's cell."""
    text = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", text)
