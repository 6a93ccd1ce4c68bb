"""A repository can be read without pragreg: by 30 lines that docs/hub-format.md quotes."""

from __future__ import annotations

import ast
import json
import random
import subprocess
import sys
from pathlib import Path

from registry.digests import sha256_hex
from registry.pipeline.push.request import PushRequest
from registry.pipeline.push.run import push
from registry.progress import Silent
from registry.store.layout import read_layout
from tests.hub.maker import maker, new_home
from tests.hub.server import HubServer

ROOT = Path(__file__).parents[2]
READER = Path(__file__).with_name("independent_reader.py")
PAGE = ROOT / "docs" / "hub-format.md"


def read(*arguments: str) -> subprocess.CompletedProcess[str]:
    # -I: nothing of this folder or of Python's environment variables, so no pragreg that is not installed.
    return subprocess.run([sys.executable, "-I", str(READER), *arguments], capture_output=True, text=True, timeout=60)


def test_an_adapter_of_a_pushed_corpus_is_read_by_its_digest(
    hub: HubServer, tmp_path: Path, tiny_model_path: Path
) -> None:
    home = new_home(tmp_path / "home", tiny_model_path)
    with maker(home) as making:
        making.build({number: 0 for number in range(9)}, pack_size_bytes=4 * making.layout.size_bytes)
        adapters = {number: making.adapter(making.document(number).digest) for number in range(9)}
        recipe = making.recipe
    push(home, PushRequest("ada/handbook", "default", pack_size_bytes=4 * 20_000), Silent())
    assert sum(path.startswith("packs/") for path in hub.state("ada/handbook").files) > 1

    data = random.Random(1).choice(list(adapters.values()))
    done = read("ada/handbook", sha256_hex(data), "v1")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["scale"] == recipe.alpha / recipe.rank
    assert found["shapes"] == {spec.name: list(spec.shape) for spec in read_layout(data).tensors}


def test_the_reader_needs_huggingface_hub_and_safetensors_alone() -> None:
    tree = ast.parse(READER.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    parts = {name.partition(".")[0] for name in imported}
    assert parts - set(sys.stdlib_module_names) == {"huggingface_hub", "safetensors"}
    code = [line for line in READER.read_text().splitlines() if line.strip()]
    assert len(code) <= 32


def test_the_page_quotes_the_reader_as_it_is() -> None:
    assert f"```python\n{READER.read_text()}```" in PAGE.read_text()
