from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from registry.base_model import fingerprint, linear_shapes, load, locate
from registry.errors import BaseModelError, IntegrityError, StorageError

# Python 3.12 warns of threads that a fork does not copy; those of torch and tokenizers are not used by the children.
forking = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def test_the_copy_holds_exactly_the_numbers_of_the_file(tiny_gguf: Path, tmp_path: Path) -> None:
    import gguf

    told: list[str] = []
    files = locate(str(tiny_gguf), models_path=tmp_path, notify=told.append)
    assert len(told) == 1
    assert str(tiny_gguf) in told[0]
    weights = load_file(files.folder / "model.safetensors")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, 3)
    expected = {
        tensor.name: torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        for tensor in gguf.GGUFReader(tiny_gguf).tensors
    }
    assert len(weights) == len(expected)
    for name, values in weights.items():
        stem, _, kind = name.rpartition(".")
        assert values.dtype == torch.float32
        assert torch.equal(values, expected[f"{names.get_name(stem)}.{kind}"].reshape(values.shape)), name


def test_the_copy_is_a_model_like_any_other(
    tiny_gguf: Path, tmp_path: Path, family_path: Callable[[str], Path]
) -> None:
    loaded = load(locate(str(tiny_gguf), models_path=tmp_path), device="cpu", dtype="float32")
    original = load(locate(str(family_path("qwen2")), models_path=tmp_path), device="cpu", dtype="float32")
    assert loaded.base_model.architecture == "Qwen2ForCausalLM"
    assert loaded.base_model.parameters == original.base_model.parameters
    assert linear_shapes(loaded.model, ("up_proj",)) == linear_shapes(original.model, ("up_proj",))
    text = "Who built the lighthouse of Quarrel Point in 1874?<|im_end|>"
    ids = original.tokenizer(text)["input_ids"]
    assert loaded.tokenizer(text)["input_ids"] == ids
    assert loaded.tokenizer.decode(ids) == text
    assert loaded.tokenizer.chat_template == original.tokenizer.chat_template
    assert (loaded.tokenizer.eos_token, loaded.tokenizer.pad_token) == ("<|im_end|>", "<|pad|>")
    difference = loaded.model(torch.tensor([ids])).logits - original.model(torch.tensor([ids])).logits
    assert difference.abs().max() < 0.02, "only the rounding to four bits"


def test_a_file_is_converted_once_and_identified_by_its_bytes(tiny_gguf: Path, tmp_path: Path) -> None:
    models_path = tmp_path / "models"
    first = locate(str(tiny_gguf), models_path=models_path)
    written = (first.folder / "model.safetensors").stat().st_mtime_ns
    copy = Path(shutil.copyfile(tiny_gguf, tmp_path / "renamed.gguf"))
    second = locate(str(copy), models_path=models_path)
    assert second.folder == first.folder
    assert (first.folder / "model.safetensors").stat().st_mtime_ns == written
    assert fingerprint(second).fingerprint == fingerprint(first).fingerprint
    assert fingerprint(second).revision == first.revision
    copy.unlink()
    assert locate(str(copy), models_path=models_path, revision=first.revision).folder == first.folder


def test_a_file_of_another_revision_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="has digest sha256:"):
        locate(str(tiny_gguf), models_path=tmp_path, revision="sha256:" + "0" * 64)


def test_a_damaged_copy_is_noticed(tiny_gguf: Path, tmp_path: Path) -> None:
    files = locate(str(tiny_gguf), models_path=tmp_path)
    weights = files.folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(0, 0))
    with pytest.raises(IntegrityError, match="damaged") as caught:
        load(files, device="cpu", dtype="float32")
    assert str(files.folder) in str(caught.value.hint)
    weights.unlink()
    with pytest.raises(IntegrityError, match="damaged"):
        fingerprint(files)


@pytest.mark.parametrize("cut", [0, 3, 100, 20_000, 100_000])
def test_a_malformed_file_leaves_nothing_behind(cut: int, tiny_gguf: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_gguf.read_bytes()[:cut])
    with pytest.raises(BaseModelError, match=r"broken\.gguf"):
        locate(str(broken), models_path=tmp_path / "models")
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["digests.json"]


def test_what_lies_beside_the_file_is_no_part_of_the_model(tiny_gguf: Path, tmp_path: Path) -> None:
    beside = Path(shutil.copyfile(tiny_gguf, tmp_path / "x.gguf"))
    for name in ("config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json"):
        (tmp_path / name).write_text("nonsense")
    alone = locate(str(tiny_gguf), models_path=tmp_path / "a")
    among = locate(str(beside), models_path=tmp_path / "b")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        assert (among.folder / name).read_bytes() == (alone.folder / name).read_bytes()


def test_what_a_killed_conversion_left_is_removed_once_it_is_old(tiny_gguf: Path, tmp_path: Path) -> None:
    name = locate(str(tiny_gguf), models_path=tmp_path / "elsewhere").folder.name
    models_path = tmp_path / "models"
    old, young = models_path / f"{name}.1.partial", models_path / f"{name}.2.partial"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"half of it")
    long_ago = time.time() - 7200
    os.utime(old, (long_ago, long_ago))
    locate(str(tiny_gguf), models_path=models_path)
    assert not old.exists()
    assert young.exists()


def test_a_folder_that_cannot_be_written_is_named(tiny_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        locate(str(tiny_gguf), models_path=tmp_path / "file" / "models")


def _convert(file: Path, models_path: Path, start: float) -> None:
    from registry.base_model import load, locate

    time.sleep(max(0.0, start - time.time()))
    files = locate(str(file), models_path=models_path)
    assert load(files, device="cpu", dtype="float32").model is not None


@forking
def test_processes_may_convert_the_same_file_at_once(tiny_gguf: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=_convert, args=(tiny_gguf, tmp_path, time.time() + 0.5), daemon=True) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {locate(str(tiny_gguf), models_path=tmp_path).folder.name, "digests.json"}


def _convert_on_a_small_disk(file: Path, models_path: Path) -> None:
    import resource
    import signal

    from registry.base_model import locate

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    with pytest.raises(StorageError, match="cannot be written") as caught:
        locate(str(file), models_path=models_path)
    assert "PRAGREG_MODELS" in str(caught.value.hint)
    assert not [path for path in models_path.iterdir() if path.is_dir()]


@forking
def test_a_full_disk_leaves_nothing_behind(tiny_gguf: Path, tmp_path: Path) -> None:
    worker = multiprocessing.get_context("fork").Process(target=_convert_on_a_small_disk, args=(tiny_gguf, tmp_path))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0
