"""A program in which builds, gcs and a reader run at once on one registry, and prints what there is at the end.

    python crowd.py HOME CATALOG SAMPLE BASE_MODEL SEED BUILDS

SAMPLE has documents.jsonl and augmentations.jsonl. Two processes build a corpus each, of documents drawn anew every
time, so that adapters die, are shared and come back; two collect without a grace period; one reads what is newest.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import transformers.models.llama.modeling_llama
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import registry.encoding.train
from registry.catalog import schema
from registry.catalog.adapters import pack_digests
from registry.catalog.members import member_adapters
from registry.catalog.references import list_versions, resolve_open
from registry.digests import sha256_hex
from registry.errors import NotFoundError
from registry.pipeline.build import BuildRequest, build
from registry.pipeline.opened import Registry, opened
from registry.pipeline.recipes import RecipeRequest
from registry.progress import Silent
from registry.records import Version
from registry.settings import Home, create_home
from registry.upkeep.gc.collect import collect
from registry.upkeep.gc.collection import CollectRequest
from registry.upkeep.readers import reading

# Imported here so that no fork has to.
IMPORTED = (torch, transformers, AutoConfig, AutoModelForCausalLM, AutoTokenizer, registry.encoding.train)
CORPORA = ("one", "two")
COLLECT = CollectRequest(keep_last=1, grace_seconds=0.0, yes=True)


def build_often(home: Home, sample: Path, base_model: str, corpus: str, seed: str, builds: int) -> None:
    lines = (sample / "documents.jsonl").read_text().splitlines(keepends=True)
    source = sample / f"{corpus}.jsonl"
    rng = random.Random(f"{seed} {corpus}")
    for _ in range(builds):
        source.write_text("".join(rng.sample(lines, rng.randint(1, 3))))
        settings = {"epochs": 1, "rank": 2, "seed": rng.randint(1, 2)}
        request = BuildRequest(
            sources=(str(source),),
            corpus=corpus,
            recipe=RecipeRequest(base_model=base_model, dtype="float32", settings=settings),
            augmenter=f"import:{sample / 'augmentations.jsonl'}",
            device="cpu",
            group_size=2,
            workers=1,
        )
        build(home, request, Silent())


def collect_often(home: Home, until: Path) -> None:
    while not until.exists():
        with opened(home) as registry:
            collect(home, registry.catalog, registry.packs, COLLECT, Silent())
        time.sleep(0.02)


def read_often(home: Home, until: Path) -> None:
    while not until.exists():
        for corpus in CORPORA:
            with opened(home) as registry:
                try:
                    version = registry.version(corpus)
                except NotFoundError:
                    continue
                with reading(home, version):
                    try:
                        with registry.catalog.read() as session:
                            resolve_open(session, version.reference)
                    except NotFoundError:  # collected before the lease was held
                        continue
                    # Slower than a few gcs and builds.
                    for _ in range(3):
                        read(registry, version)
                        time.sleep(0.05)


def read(registry: Registry, version: Version) -> None:
    with registry.catalog.read() as session:
        digests = list(member_adapters(session, version))
    for digest, data in registry.adapters(digests).items():
        assert sha256_hex(data) == digest


def fork(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


def state(home: Home) -> dict[str, object]:
    """What there is: how many versions of each corpus were not collected, having read those, and unnamed files."""
    whole = {}
    with opened(home) as registry:
        for corpus in CORPORA:
            with registry.catalog.read() as session:
                versions = list_versions(session, corpus)
            kept = 0
            for version in versions:
                try:
                    with registry.catalog.read() as session:
                        resolve_open(session, version.reference)
                except NotFoundError:
                    continue
                read(registry, version)
                kept += 1
            whole[corpus] = (kept, len(versions))
        with registry.catalog.read() as session:
            named = pack_digests(session)
        stored = {pack.digest for pack in registry.packs.list()}
    return {"whole": whole, "unnamed": sorted(stored - named), "missing": sorted(named - stored)}


def main() -> None:
    folder, catalog_url, sample, base_model, seed, builds = sys.argv[1:]
    home = create_home(Path(folder), catalog_url=catalog_url)
    schema.upgrade(home.catalog_url)
    until = home.path / "stop"
    builders = [
        fork(partial(build_often, home, Path(sample), base_model, corpus, seed, int(builds))) for corpus in CORPORA
    ]
    others = [fork(partial(work, home, until)) for work in (collect_often, collect_often, read_often)]
    statuses = [os.waitpid(child, 0)[1] for child in builders]
    until.touch()
    statuses += [os.waitpid(child, 0)[1] for child in others]
    before = state(home)
    with opened(home) as registry:
        collect(home, registry.catalog, registry.packs, COLLECT, Silent())
    print(json.dumps({"statuses": statuses, "before": before, "after": state(home)}))


if __name__ == "__main__":
    main()
