"""A tiny GGUF file, and a second process that locates models with a Hub of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import registry

ROOT = Path(registry.__file__).parents[1]
LOCATE = """
import json, sys, time
from pathlib import Path
from registry.base_model import fingerprint, locate
from registry.errors import PragregError
models_path, requests = Path(sys.argv[1]), json.loads(sys.argv[2])
for reference, revision in requests:
    started = time.perf_counter()
    try:
        files = locate(reference, models_path=models_path, revision=revision)
        answer = {"folder": str(files.folder), "revision": files.revision, "source": files.source,
                  "reference": files.reference, "fingerprint": fingerprint(files).fingerprint}
    except PragregError as error:
        answer = {"error": error.message, "hint": error.hint}
    print(json.dumps({**answer, "seconds": time.perf_counter() - started, "torch": "torch" in sys.modules}))
"""

Located = list[dict[str, Any]]


@pytest.fixture
def locate_elsewhere(tmp_path: Path) -> Callable[..., Located]:
    """A function that locates (reference, revision) pairs in a fresh process, with an empty Hub cache of its own."""

    def run(
        models_path: Path, *requests: tuple[str, str | None], env: Mapping[str, str], first_on_path: Path = ROOT
    ) -> Located:
        hub = {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        path = os.pathsep.join([str(first_on_path), str(ROOT)])
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", LOCATE, str(models_path), json.dumps(requests)],
            env={**os.environ, **hub, "PYTHONPATH": path, **env},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory, family_path: Callable[[str], Path]) -> Path:
    """The tiny Qwen2 as a GGUF file: feed-forward matrices in Q4_1, the rest in float32."""
    import gguf
    import numpy as np
    from safetensors.numpy import load_file

    source = family_path("qwen2")
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    config = json.loads((source / "config.json").read_text())
    writer.add_name("Tiny")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config["vocab_size"])
    _add_tokenizer(writer, source)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config["num_hidden_layers"])
    for name, values in load_file(source / "model.safetensors").items():
        stem, _, kind = name.rpartition(".")
        target = f"{names.get_name(stem)}.{kind}"
        if ".mlp." in name:
            packed = gguf.quantize(values, gguf.GGMLQuantizationType.Q4_1)
            writer.add_tensor(target, packed, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
        else:
            writer.add_tensor(target, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, source: Path) -> None:
    settings = json.loads((source / "tokenizer.json").read_text())
    vocabulary: dict[str, int] = settings["model"]["vocab"]
    special = {entry["content"] for entry in settings["added_tokens"]}
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in settings["model"]["merges"]])
    writer.add_eos_token_id(vocabulary["<|im_end|>"])
    writer.add_pad_token_id(vocabulary["<|pad|>"])
    writer.add_chat_template((source / "chat_template.jinja").read_text())
