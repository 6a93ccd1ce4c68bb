"""Kinds of hostile repositories: root manifests that lie, name what is none, or are not by whom they should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registry.hub.names import ROOT, SIGNATURE
from registry.hub.signatures import sign
from tests.hub.hostile import Forgery, Row, kind

MALFORMED = "the root manifest of ada/notes is malformed: "


def _root(change: Callable[[Row], object]) -> Callable[[Forgery], None]:
    def changed(forgery: Forgery) -> None:
        change(forgery.root)
        forgery.write_root()

    return changed


def _newest(**changes: object) -> Callable[[Forgery], None]:
    """Change what the root says of its newest version."""
    return _root(lambda root: root["versions"][-1].update(changes))


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Forgery], None]:
    def changed(forgery: Forgery) -> None:
        forgery.files[ROOT] = change(forgery.files[ROOT])

    return changed


def _recipe(**changes: object) -> Callable[[Forgery], None]:
    return lambda forgery: forgery.change_recipe(**changes)


def _note(message: str, name: str, change: Callable[[Forgery], None], **settings: Any) -> None:
    def named(forgery: Forgery) -> None:
        change(forgery)

    named.__name__ = name
    kind(message, **settings)(named)


# What is no such JSON.
_note(f"{MALFORMED}it has a key twice", "duplicate_key", _bytes(lambda d: d.replace(b"{", b'{"latest": 1,', 1)))
_note(f"{MALFORMED}it is nested too deep", "nesting_bomb", _bytes(lambda d: b"[" * 100_000 + b"]" * 100_000))
_note(f"{MALFORMED}it has too many parts", "million_of_parts", _bytes(lambda d: b"[" + b"[]," * 1_500_000 + b"0]"))
_note(f"{MALFORMED}it has the number NaN", "no_number", _bytes(lambda d: d.replace(b'"latest": 3', b'"latest": NaN')))
_note(f"{MALFORMED}'utf-8' codec", "no_utf_8", _bytes(lambda d: d.replace(b"ada/notes", b"ada/\xff\xfe")))
_note(f"{MALFORMED}it is no object", "list_in_place_of_the_root", _bytes(lambda d: b"[]"))
_note(f"{MALFORMED}it has fields of no meaning: 'padding'", "five_megabytes_of_metadata_in_the_root",
      _root(lambda root: root.update(padding="y" * 5_000_000)))  # fmt: skip
_note(f"{MALFORMED}it has no 'packs'", "missing_field", _root(lambda root: root.pop("packs")))
_note(
    f"{MALFORMED}its format is 'pragreg-hub-2'", "later_format", _root(lambda root: root.update(format="pragreg-hub-2"))
)
_note(f"{MALFORMED}it has 'documents': 6.5", "number_of_another_type", _root(lambda root: root.update(documents=6.5)))

# Names and texts.
_note(
    "'../../etc' is no repository on the Hub",
    "path_in_place_of_the_repository",
    _root(lambda r: r.update(repository="../../etc")),
)
_note("and the corpus '../../home'", "path_in_place_of_the_corpus", _root(lambda r: r.update(corpus="../../home")))
_note("it has 'corpus': 'notes", "control_characters_in_the_corpus", _root(lambda r: r.update(corpus="notes\x1b[2J")))
_note("a version has 'message'", "control_characters_in_a_message", _newest(message="new\x1b]52;c;x\x07"))
_note("a version has 'message'", "writing_turned_around_in_a_message", _newest(message="\u202eegassem"))
_note("a version has 'message'", "endless_message", _newest(message="m" * 5000))
_note("a base model has 'reference'", "line_ends_in_a_base_model",
      _root(lambda root: root["base_models"][0].update(reference="a\nb")))  # fmt: skip
_note("the revision of a base model is neither", "path_in_place_of_a_revision",
      _root(lambda root: root["base_models"][0].update(revision="../../main")))  # fmt: skip
_note("a shard is given as", "path_in_place_of_the_digest_of_a_shard",
      _root(lambda root: root["shards"][0].__setitem__(0, "../../../../" + "e" * 52)), update=True)  # fmt: skip
_note("a shard is given as", "digest_in_capitals", _root(lambda r: r["shards"][0].__setitem__(0, "E" * 64)))
_note("its card_digest is no digest", "card_digest_that_is_none", _root(lambda root: root.update(card_digest="x")))
_note("a version has 'digest'", "version_digest_that_is_none", _newest(digest="sha256:" + "0" * 57))

# Counts.
_note("99 documents, 12 adapters, 12 rows", "documents_that_are_not_there", _root(lambda r: r.update(documents=99)))
_note(
    "counts 12 documents and 11 adapters",
    "adapters_that_are_not_there",
    _root(lambda r: r.update(adapters=11)),
    update=True,
)
_note("adapters in 2 packs of", "packs_that_are_not_counted", _root(lambda root: root.update(packs=2)))
_note(
    "packs of 7 bytes; its shards have", "bytes_of_packs_that_are_not_counted", _root(lambda r: r.update(packs_bytes=7))
)
_note("counts 5 documents and", "documents_of_a_version_that_are_not_counted", _newest(documents=5))
_note("documents and 1 bytes; its shards have", "bytes_of_a_version_that_are_not_counted", _newest(size_bytes=1))
_note(
    "12 rows instead of 13", "rows_of_a_shard_that_are_not_counted", _root(lambda r: r["shards"][0].__setitem__(2, 13))
)
_note("it has 1 shards by 1 bits", "shards_that_are_not_there", _root(lambda root: root.update(shard_bits=1)))
_note("of another shard", "shard_in_the_place_of_another",
      _root(lambda root: root.update(shard_bits=1, shards=[root["shards"][0], None])))  # fmt: skip
_note("it lists a shard twice", "shard_that_is_named_twice",
      _root(lambda root: root.update(shard_bits=1, shards=root["shards"] * 2)))  # fmt: skip
_note("lacks 0 adapters, other than it says", "incomplete_version_that_is_complete",
      _root(lambda root: root["versions"][0].update(is_complete=False)))  # fmt: skip
_note("its latest version is 9", "latest_version_that_is_not_there", _root(lambda root: root.update(latest=9)))
_note("are not numbered from 1 without a gap", "version_that_is_not_there", _root(lambda root: root["versions"].pop(1)))
_note("the parent of version 3 is 3", "version_that_is_its_own_parent", _newest(parent=3))
_note("it lacks the recipe of version 3", "version_without_a_recipe", _newest(recipe_digest="0" * 64))
_note("version 3 in the manifest of ada/notes has another digest than its members", "forged_version_digest",
      _newest(digest="0" * 64), update=True)  # fmt: skip


# Recipes and base models.
def _forged_recipe(root: Row) -> None:
    ((digest, settings),) = root["recipes"].items()
    root["recipes"] = {digest: settings | {"alpha": 1.0}}


_note("has another digest than its settings", "forged_recipe_digest", _root(_forged_recipe))
_note("this recipe has format 2, this pragreg reads format 1", "recipe_of_another_format", _recipe(format=2))
_note("there is no recipe setting 'exec'", "recipe_with_an_unknown_setting", _recipe(exec="import os"))
_note("has the rank 1000000000", "recipe_of_a_huge_rank", _recipe(rank=10**9))
_note("its recipe makes", "recipe_of_another_rank", _recipe(rank=4096))
_note("and the scale 1000000000.0", "recipe_of_a_huge_scale", _recipe(alpha=1e9))
_note("recipe setting rank must be above 0", "recipe_of_no_rank", _recipe(rank=0))
_note("has a setting that is none", "path_in_place_of_a_module", _recipe(targets=["../../q_proj"]))
_note("does not fit its base model", "recipe_for_other_modules", _recipe(targets=["lm_head"]))
_note("does not fit its base model", "recipe_for_other_blocks", _recipe(first_layer=99))


def _other_base_model(forgery: Forgery) -> None:
    forgery.root["base_models"][0]["fingerprint"] = "b" * 64
    forgery.change_recipe(base_model="b" * 64)


_note("with fingerprint bbbbbbbbbbbb, and", "another_base_model", _other_base_model, status=6)
_note("its recipes have other base models than it lists", "base_model_that_is_not_listed",
      _root(lambda root: root["base_models"][0].update(fingerprint="b" * 64)))  # fmt: skip
_note("it lacks the task adapter", "task_adapter_that_is_not_listed", _recipe(task_adapter="a" * 64))


@kind("the history of ada/notes was rewritten: its v1 was", first=False, update=True)
def rewritten_history(forgery: Forgery) -> None:
    first = next(row for row in forgery.rows if row["from_version"] == 1)
    forgery.rows.remove(first)
    forgery.seal_rows()


@kind("the history of ada/notes was rewritten: it had 2 versions and has 1", first=False, update=True)
def shortened_history(forgery: Forgery) -> None:
    forgery.rows = [row for row in forgery.rows if row["from_version"] == 1]
    for row in forgery.rows:
        row["to_version"] = None
    forgery.root["versions"] = forgery.root["versions"][:1]
    forgery.root["latest"] = 1
    forgery.seal_rows()


# Signatures. The publisher's key is made of ones, somebody else's of twos.
def public_key(seed: int) -> str:
    """Return the line of a key."""
    key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32).public_key()
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def _signature(forgery: Forgery, seed: int, message: bytes) -> bytes:
    file = forgery.folder / "key"
    file.touch(mode=0o600)
    file.write_bytes(
        Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
    )
    return sign(message, file)


def _signed(forgery: Forgery, seed: int = 1) -> None:
    forgery.arguments += ["--require-signature", public_key(1)]
    forgery.files[SIGNATURE] = _signature(forgery, seed, forgery.files[ROOT])


@kind("the root manifest is not signed", update=True)
def missing_signature(forgery: Forgery) -> None:
    _signed(forgery)
    del forgery.files[SIGNATURE]


@kind("is signed by the unknown key SHA256:", update=True)
def signature_by_an_unknown_key(forgery: Forgery) -> None:
    _signed(forgery, seed=2)


@kind("is not of this root manifest: one of the two was changed", update=True)
def signature_of_other_bytes(forgery: Forgery) -> None:
    _signed(forgery)
    forgery.files[ROOT] += b"\n"


@kind("was signed for ada/other")
def signature_for_another_repository(forgery: Forgery) -> None:
    forgery.root["repository"] = "ada/other"
    forgery.write_root()
    _signed(forgery)


@kind("signature is malformed: it is not armored")
def signature_that_is_none(forgery: Forgery) -> None:
    _signed(forgery)
    forgery.files[SIGNATURE] = b"-----BEGIN PGP SIGNATURE-----\n\n-----END PGP SIGNATURE-----\n"


@kind("pragreg.json.sig has 5000000 bytes, more than the")
def signature_of_five_megabytes(forgery: Forgery) -> None:
    _signed(forgery)
    forgery.files[SIGNATURE] = forgery.files[SIGNATURE].ljust(5_000_000)


@kind("the history of ada/notes was rewritten: it had 2 versions and has 1", first=False, update=True)
def older_signed_manifest(forgery: Forgery) -> None:
    """What the publisher signed before the version that was seen already."""
    shortened_history(forgery)
    _signed(forgery)


def sound_signature(forgery: Forgery) -> None:
    """No kind: what a signature looks like that is accepted."""
    _signed(forgery)
