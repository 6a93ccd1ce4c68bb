"""Memory that runs out for real: groups are halved until they fit, and a document that never fits is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Adapters of 14 MB (rank 4096 on a tiny model), four copies each while they are trained: eight need over 450 MB.
ENCODE = """
import resource, sys
from pathlib import Path
import torch
from registry.base_model import linear_shapes, load, locate
from registry.encoding.pool import RAISE_AFTER, Encoder, Work
from registry.errors import EncodingError
from registry.recipe import Recipe
from registry.store.layout import AdapterLayout
from tests.encoding.conftest import make_input

torch.set_num_threads(1)
files = locate(sys.argv[1], models_path=Path(sys.argv[2]))
loaded = load(files, device="cpu", dtype="float32")
recipe = Recipe(rank=4096, first_layer=0, epochs=1, dtype="float32")
layout = AdapterLayout.of(linear_shapes(loaded.model, recipe.targets), recipe.rank, recipe.adapter_dtype)
work = Work(files, recipe, layout, "cpu")
inputs = [make_input(f"Lamp {n}", f"lamp {n} burns green oil in winter", pairs=1) for n in range(8)]
encoder = Encoder(loaded, work)
encoder.encode(inputs[:1])
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = used + int(sys.argv[3]) * 1_000_000
_, most = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def largest():
    done = encoder.encode(inputs)
    assert [one.document_digest for one in done] == [given.document.digest for given in inputs]
    return max(one.training.group_size for one in done)


try:
    halved = largest()
except EncodingError as error:
    print("refused", error.message, error.hint)
else:
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    sizes = []
    while (not sizes or sizes[-1] < len(inputs)) and len(sizes) < 4 * RAISE_AFTER:
        sizes.append(largest())
    print("largest", halved, "then", *sizes)
"""


def encode(model: Path, models_path: Path, megabytes: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ENCODE, str(model), str(models_path), str(megabytes)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_a_group_is_halved_until_it_fits_and_larger_ones_are_tried_again(tiny_model_path: Path, tmp_path: Path) -> None:
    word, *said = encode(tiny_model_path, tmp_path, 420).split()
    assert word == "largest"
    halved, later = int(said[0]), [int(size) for size in said[2:]]
    assert 1 <= halved < 8
    # When there is memory again the smaller size is kept for a while, and then the whole group is trained at once.
    assert later[0] <= halved
    assert later == sorted(later)
    assert later[-1] == 8


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_a_document_that_never_fits_is_named(tiny_model_path: Path, tmp_path: Path) -> None:
    said = encode(tiny_model_path, tmp_path, 10)
    assert said.startswith("refused")
    assert "('Lamp " in said
    assert "max_tokens" in said
