"""Kinds of hostile repositories: files that are damaged, exchanged, missing, or served in another way than they lie."""

from __future__ import annotations

from registry.hub.names import ROOT
from tests.hub.hostile import Forgery, flipped, kind


@kind("arrived with bytes of another digest", update=True)
def bit_flip_in_an_adapter(forgery: Forgery) -> None:
    path = forgery.paths("packs")[-1]
    forgery.files[path] = flipped(forgery.files[path], -7)


@kind("has not the header of the adapters that the manifest names")
def bit_flip_in_the_header_of_a_pack(forgery: Forgery) -> None:
    path = forgery.paths("packs")[-1]
    at = forgery.files[path].index(b'"U8"') - 30  # in an adapter's name
    forgery.files[path] = flipped(forgery.files[path], at)


@kind("arrived damaged", update=True)
def bit_flip_in_the_shard(forgery: Forgery) -> None:
    forgery.files[forgery.shard] = flipped(forgery.files[forgery.shard], 1000)


@kind("arrived damaged", update=True)
def bit_flip_in_the_records(forgery: Forgery) -> None:
    path = next(path for path in forgery.paths("records") if forgery.newest()["records"].hex() in path)
    forgery.files[path] = flipped(forgery.files[path], 1000)


@kind("the root manifest of ada/notes is malformed", update=True)
def bit_flip_in_the_root(forgery: Forgery) -> None:
    at = forgery.files[ROOT].index(b'"latest"') + 1
    forgery.files[ROOT] = flipped(forgery.files[ROOT], at)


@kind("bytes that it should have", update=True)
def truncated_pack(forgery: Forgery) -> None:
    path = forgery.paths("packs")[-1]
    forgery.files[path] = forgery.files[path][:-1]


@kind("bytes that it should have")
def truncated_shard(forgery: Forgery) -> None:
    forgery.files[forgery.shard] = forgery.files[forgery.shard][:-100]


@kind("bytes that it should have")
def truncated_records(forgery: Forgery) -> None:
    for path in forgery.paths("records"):
        forgery.files[path] = forgery.files[path][:100]


@kind("the root manifest of ada/notes is malformed")
def truncated_root(forgery: Forgery) -> None:
    forgery.files[ROOT] = forgery.files[ROOT][:1000]


@kind("bytes that it should have")
def pack_that_goes_on_behind_its_end(forgery: Forgery) -> None:
    path = forgery.paths("packs")[-1]
    forgery.files[path] += b"\0" * 4096


@kind("has not the header of the adapters that the manifest names", update=True)
def exchanged_packs(forgery: Forgery) -> None:
    first, second = forgery.paths("packs")[-2:]
    assert len(forgery.files[first]) == len(forgery.files[second])
    forgery.files[first], forgery.files[second] = forgery.files[second], forgery.files[first]


@kind("arrived damaged")
def records_in_place_of_the_shard(forgery: Forgery) -> None:
    data = forgery.files[forgery.paths("records")[0]]
    size = len(forgery.files[forgery.shard])
    forgery.files[forgery.shard] = data[:size].ljust(size, b"\0")


@kind("there is no such file", status=12, update=True)
def pack_that_is_not_there(forgery: Forgery) -> None:
    del forgery.files[forgery.paths("packs")[-1]]


@kind("there is no such file", status=12)
def shard_that_is_not_there(forgery: Forgery) -> None:
    del forgery.files[forgery.shard]


@kind("there is no such file", status=12)
def pickle_in_place_of_a_pack(forgery: Forgery) -> None:
    path = forgery.paths("packs")[-1]
    forgery.entries[path.replace(".safetensors", ".bin")] = forgery.files.pop(path)


@kind("has neither pragreg.json", status=4)
def pickles_only(forgery: Forgery) -> None:
    forgery.files = {"adapter_model.bin": b"\x80\x04.", "pytorch_model.bin": b"\x80\x04.", "evil.py": b"import os"}


@kind("an adapter in PEFT's format", status=4)
def peft_folder(forgery: Forgery) -> None:
    forgery.files = {"adapter_config.json": b"{}", "adapter_model.bin": b"\x80\x04."}


@kind("claims a header of")
def symbolic_link_in_place_of_a_pack(forgery: Forgery) -> None:
    path = forgery.paths("packs")[-1]
    del forgery.files[path]
    forgery.entries[path] = {"symlink": "../../../../../../etc/passwd"}


@kind("the root manifest of ada/notes is malformed")
def symbolic_link_in_place_of_the_root(forgery: Forgery) -> None:
    del forgery.files[ROOT]
    forgery.entries[ROOT] = {"symlink": "/etc/passwd"}


@kind("more bytes, not the")
def endless_pack(forgery: Forgery) -> None:
    forgery.faults.append(("endless", {"path": forgery.paths("packs")[-1].rpartition("/")[2][:64], "times": None}))


@kind("pragreg.json has more than")
def endless_root(forgery: Forgery) -> None:
    forgery.faults.append(("endless", {"path": r"resolve/.*/pragreg\.json", "times": None}))


@kind("the server compresses what it was asked to send as it is", status=12)
def compressed_pack(forgery: Forgery) -> None:
    forgery.faults.append(("gzip", {"path": forgery.paths("packs")[-1].rpartition("/")[2][:64], "times": None}))


@kind("the server compresses what it was asked to send as it is", status=12)
def compressed_root(forgery: Forgery) -> None:
    forgery.faults.append(("gzip", {"path": r"resolve/.*/pragreg\.json", "times": None}))


@kind("pragreg.json has 40000000 bytes, more than the")
def root_of_40_megabytes(forgery: Forgery) -> None:
    file = forgery.folder / "root"
    file.write_bytes(forgery.files.pop(ROOT))
    with file.open("r+b") as stream:
        stream.truncate(40_000_000)
    forgery.entries[ROOT] = file
