import hashlib
import json
import sys

from huggingface_hub import HfApi, HfFileSystem
from safetensors.numpy import load


def fetch(repository, digest, revision="main"):
    """Return the tensors of one adapter, and the factor of B @ A: W + scale * B @ A is the adapted matrix."""
    commit = HfApi().model_info(repository, revision=revision).sha  # one state, whatever is pushed meanwhile
    files = HfFileSystem()

    def read(path, begin=None, end=None):
        return files.cat_file(f"{repository}@{commit}/{path}", start=begin, end=end)

    root = json.loads(read("pragreg.json"))
    assert root["format"] == "pragreg-hub-1"
    recipe = root["recipes"][root["versions"][root["latest"] - 1]["recipe_digest"]]
    for entry in HfApi().list_repo_tree(repository, "packs", recursive=True, revision=commit):
        if not entry.path.endswith(".safetensors"):
            continue
        body = 8 + int.from_bytes(read(entry.path, 0, 8), "little")
        place = json.loads(read(entry.path, 8, body)).get(digest)
        if place:
            begin, end = place["data_offsets"]
            data = read(entry.path, body + begin, body + end)
            assert hashlib.sha256(data).hexdigest() == digest
            return load(data), recipe["alpha"] / recipe["rank"]
    raise LookupError(digest)


if __name__ == "__main__":
    tensors, scale = fetch(*sys.argv[1:])
    print(json.dumps({"scale": scale, "shapes": {name: list(value.shape) for name, value in tensors.items()}}))
