"""Names of repositories, tags and files."""

from __future__ import annotations

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from registry.errors import UsageError
from registry.hub.names import (
    Repository,
    check_tag,
    pack_path,
    parse_repository,
    records_path,
    shard_path,
    tagged_version,
    version_tag,
)

DIGEST = "ab" + "c" * 62


@pytest.mark.parametrize(
    ("text", "revision"),
    [
        ("ada/handbook", None),
        ("ada/handbook@v3", "v3"),
        ("Ada-L/hand_book.v2@production", "production"),
        ("a/b@" + "0" * 40, "0" * 40),
        ("a/b@release/2026.1", "release/2026.1"),
    ],
)
def test_a_repository_is_taken_apart(text: str, revision: str | None) -> None:
    repository, found = parse_repository(text)
    assert (str(repository), found) == (text.partition("@")[0], revision)
    validate_repo_id(str(repository))


@pytest.mark.parametrize(
    "text",
    [
        *("", "handbook", "/handbook", "ada/", "ada/hand/book", "https://huggingface.co/ada/handbook", "ada/hand book"),
        *("ada/..", "../handbook", "ada/a..b", "ada/a--b", "ada/handbook.git", "-ada/handbook", "ada/handbook-"),
        *("ada/hand\nbook", "ada/handbook\n", "ädä/handbook", "ada/" + "x" * 97, "ada/hand%2fbook", "~/handbook"),
        *("ada/handbook@", "ada/handbook@-x", "ada/handbook@a..b", "ada/handbook@a b", "ada/handbook@a@b"),
        *("ada/handbook@a.lock", "ada/handbook@refs/", "ada/handbook@" + "x" * 200, "ada/handbook@a\x1b"),
    ],
)
def test_what_is_no_repository_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_repository(text)
    assert caught.value.hint
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("name", ["a", "a--b", "a..b", "x" * 96, "x" * 97, ".a", "a.", "-a", "a-", "_a_", "a.git", "é"])
def test_the_rules_for_names_are_the_client_s(name: str) -> None:
    def client() -> bool:
        try:
            validate_repo_id(f"ada/{name}")
        except HFValidationError:
            return False
        return True

    def ours() -> bool:
        try:
            return parse_repository(f"ada/{name}")[0] == Repository("ada", name)
        except UsageError:
            return False

    assert ours() == client()


def test_tags_of_versions_are_told_from_others() -> None:
    assert version_tag(3) == "v3"
    assert [tagged_version(tag) for tag in ("v3", "v03", "v0", "3", "production", "v3x")] == [3, *[None] * 5]
    check_tag("production")
    with pytest.raises(UsageError, match="cannot be a tag"):
        check_tag("a^b")


def test_paths_are_made_of_digests_alone() -> None:
    assert pack_path(DIGEST) == f"packs/ab/{DIGEST}.safetensors"
    assert shard_path(DIGEST) == f"shards/ab/{DIGEST}.parquet"
    assert records_path(DIGEST) == f"records/ab/{DIGEST}.parquet"
    for text in ("../../etc/passwd", DIGEST.upper(), DIGEST[:-1], DIGEST + "\n"):
        with pytest.raises(ValueError, match="no digest"):
            pack_path(text)
