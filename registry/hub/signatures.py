"""Signatures of root manifests, by the Ed25519 keys that people use for SSH.

A signature is what ``ssh-keygen -Y sign -n pragreg`` writes (SSHSIG, of OpenSSH's PROTOCOL.sshsig, with sha512), so
anyone can check it without us: users have such keys, their tools make them, and forges publish the public halves.
Other types of keys are refused: Ed25519 has one size, no parameters, and signs the same bytes the same way each time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import IntegrityError, StorageError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

NAMESPACE = "pragreg"
"""What a signature is for; one that was made for something else, such as a git commit, is not accepted."""

KEY_TYPE = "ssh-ed25519"
SIGNATURE_LIMIT_BYTES = 4096
"""Larger files are no signatures of one key."""

_HASH = "sha512"
_MAGIC = b"SSHSIG"
_VERSION = 1
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_ARMORED = re.compile(rf"{_BEGIN}\r?\n(?P<body>[A-Za-z0-9+/=\r\n]+?)\r?\n{_END}(?:\r?\n)?")
_LINE_LENGTH = 70
_KEY_LIMIT_BYTES = 64 * 1024
_OTHER_TYPE = re.compile(r"(?:^|\s)(?P<type>(?:sk-)?(?:ssh|ecdsa)-[a-z0-9@.-]+) AAAA")
_KEY = re.compile(rf"(?:^|\s){KEY_TYPE} (?P<key>AAAA[A-Za-z0-9+/]+={{0,2}})(?:\s|$)")
_GENERATE = "ssh-keygen -t ed25519 makes a key"


def sign(message: bytes, key_file: Path, passphrase: Callable[[], str] | None = None) -> bytes:
    """Return the armored signature of ``message`` by a private key in OpenSSH's format.

    ``passphrase`` is called if the key has one.

    Raises:
        UsageError: the file is no Ed25519 key, others may read it, or the passphrase is wrong or cannot be asked for.
        StorageError: it cannot be read.
    """
    key = _private_key(key_file, passphrase)
    public = _string(KEY_TYPE.encode()) + _string(key.public_key().public_bytes_raw())
    signature = _string(KEY_TYPE.encode()) + _string(key.sign(_signed(message)))
    blob = _MAGIC + _VERSION.to_bytes(4, "big") + _string(public) + _string(NAMESPACE.encode()) + _string(b"")
    text = base64.b64encode(blob + _string(_HASH.encode()) + _string(signature)).decode()
    lines = [text[start : start + _LINE_LENGTH] for start in range(0, len(text), _LINE_LENGTH)]
    return "\n".join([_BEGIN, *lines, _END, ""]).encode()


def verify(message: bytes, signature: bytes | None, publishers: Mapping[str, str]) -> str:
    """Return the name of the one of ``publishers`` (public keys by name) who signed ``message``.

    Raises:
        IntegrityError: there is no signature, it is malformed, made for something else or by an unknown key, or is
            not of these bytes.
        UsageError: a publisher's key is no ``ssh-ed25519`` key.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    trusted = {_raw_key(read_public_key(text)): name for name, text in publishers.items()}
    if signature is None:
        raise IntegrityError("the root manifest is not signed", hint="ask its publisher for `pragreg push --sign`")
    key, proof = _opened(signature)
    if key not in trusted:
        names = ", ".join(sorted(set(trusted.values()))) or "nobody"
        raise IntegrityError(
            f"the root manifest is signed by the unknown key {_fingerprint(key)}, not by {names}",
            hint="if you trust that key, put its line under [trust] in pragreg.toml",
        )
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(proof, _signed(message))
    except InvalidSignature as error:
        raise IntegrityError(
            f"the signature by {trusted[key]} is not of this root manifest: one of the two was changed"
        ) from error
    return trusted[key]


def read_public_key(text: str) -> str:
    """Return ``ssh-ed25519 AAAA...`` of a line of a ``.pub``, ``authorized_keys`` or ``USER.keys``, or of such a file.

    ``text`` is the line itself, or the path of a file with one Ed25519 key in it.

    Raises:
        UsageError: it is neither, or the key is of another type.
    """
    keys = {found["key"] for line in _lines(text) if (found := _KEY.search(line))}
    if len(keys) > 1:
        raise UsageError(
            f"{text!r} has {len(keys)} Ed25519 keys, and one is meant", hint="give the line of one of them"
        )
    for key in keys:
        line = f"{KEY_TYPE} {key}"
        _raw_key(line)
        return line
    if other := _OTHER_TYPE.search("\n".join(_lines(text))):
        raise UsageError(f"a key of type {other['type']} is not accepted, only {KEY_TYPE}", hint=_GENERATE)
    raise UsageError(
        f"{_excerpt(text)} is no public key, and no file of one",
        hint=f"give a line such as '{KEY_TYPE} AAAA...', or the path of a .pub file",
    )


def key_fingerprint(public_key: str) -> str:
    """Return ``SHA256:...`` of a public key, as ``ssh-keygen -l`` shows it.

    Raises:
        UsageError: it is no ``ssh-ed25519`` key.
    """
    return _fingerprint(_raw_key(read_public_key(public_key)))


def _private_key(key_file: Path, passphrase: Callable[[], str] | None) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    data = _private_bytes(key_file)
    password: bytes | None = None
    try:
        if _has_passphrase(data):
            if passphrase is None:
                raise UsageError(
                    f"the key {key_file} has a passphrase, and there is nobody to ask for it",
                    hint="run the command in a terminal, or give --key a key without one",
                )
            password = passphrase().encode()
        key = load_ssh_private_key(data, password)
    except (ValueError, TypeError, IndexError, UnsupportedAlgorithm) as error:
        if password is not None:
            raise UsageError(f"the passphrase of {key_file} is wrong, or the key is damaged") from error
        raise UsageError(
            f"{key_file} is no private key in OpenSSH's format: {error}", hint=f"{_GENERATE}; --key names its file"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{key_file} is no Ed25519 key, and only those sign", hint=_GENERATE)
    return key


def _private_bytes(key_file: Path) -> bytes:
    """Read a private key; as ssh does, not one that others may read too."""
    try:
        with key_file.expanduser().open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_mode & 0o077 and status.st_uid == os.getuid():
                raise UsageError(f"others may read the private key {key_file}", hint=f"chmod 600 {key_file}")
            return file.read(_KEY_LIMIT_BYTES)
    except FileNotFoundError as error:
        raise UsageError(f"there is no private key {key_file}", hint=f"{_GENERATE}; --key names its file") from error
    except OSError as error:
        raise StorageError(f"the private key {key_file} cannot be read: {error.strerror or error}") from error


def _has_passphrase(data: bytes) -> bool:
    """Say whether a private key is encrypted: the first text behind the magic word names the cipher."""
    body = b"".join(line for line in data.splitlines() if not line.startswith(b"-"))
    start = base64.b64decode(body + b"=" * (-len(body) % 4))[:64]
    return start.startswith(b"openssh-key-v1\0") and not start[15:].startswith(_string(b"none"))


def _opened(signature: bytes) -> tuple[bytes, bytes]:
    """Return the 32 bytes of the public key and the 64 of the signature itself."""
    try:
        armored = _ARMORED.fullmatch(signature.decode("ascii"))
        if armored is None or len(signature) > SIGNATURE_LIMIT_BYTES:
            raise ValueError("it is not armored as SSH signatures are")
        blob = base64.b64decode(re.sub(r"\s", "", armored["body"]), validate=True)
        if not blob.startswith(_MAGIC + _VERSION.to_bytes(4, "big")):
            raise ValueError("it is of another version")
        public, namespace, reserved, used_hash, proof = _strings(blob[len(_MAGIC) + 4 :], 5)
        key_type, key = _strings(public, 2)
        proof_type, numbers = _strings(proof, 2)
        if key_type != KEY_TYPE.encode() or proof_type != key_type or len(key) != 32 or len(numbers) != 64:
            raise ValueError(f"it is not by an {KEY_TYPE} key")
        if reserved or used_hash != _HASH.encode():
            raise ValueError(f"it is not over a {_HASH} hash")
    except (ValueError, binascii.Error) as error:
        raise IntegrityError(f"the root manifest's signature is malformed: {error}") from error
    if namespace != NAMESPACE.encode():
        raise IntegrityError(f"the root manifest's signature was made for {namespace[:40]!r}, not for {NAMESPACE!r}")
    return key, numbers


def _signed(message: bytes) -> bytes:
    """Return the bytes that the key signs for ``message``."""
    digest = hashlib.sha512(message).digest()
    return _MAGIC + b"".join(_string(part) for part in (NAMESPACE.encode(), b"", _HASH.encode(), digest))


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _strings(data: bytes, count: int) -> list[bytes]:
    """Take ``data`` apart into so many texts, each behind 4 bytes of length."""
    parts = []
    for _ in range(count):
        size = int.from_bytes(data[:4], "big")
        if len(data) < 4 + size:
            raise ValueError("it is cut off")
        parts.append(data[4 : 4 + size])
        data = data[4 + size :]
    if data:
        raise ValueError("there are bytes left over")
    return parts


def _lines(text: str) -> list[str]:
    """Return the lines of a key's text, or of the file that the text names, without comments."""
    lines = [text]
    if not _KEY.search(text) and not _OTHER_TYPE.search(text) and len(text) < 4096 and "\0" not in text:
        path = Path(text).expanduser()
        try:
            if path.is_file() and path.stat().st_size <= _KEY_LIMIT_BYTES:
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            raise UsageError(f"the public key {text} cannot be read: {error.strerror or error}") from error
    return [line for line in lines if not line.startswith("#")]


def _raw_key(line: str) -> bytes:
    """Return the 32 bytes of an ``ssh-ed25519 AAAA...`` line."""
    try:
        key_type, key = _strings(base64.b64decode(line.split()[1], validate=True), 2)
    except (ValueError, binascii.Error) as error:
        raise UsageError(f"{_excerpt(line)} is no public key: {error}", hint="copy the whole line") from error
    if key_type != KEY_TYPE.encode() or len(key) != 32:
        raise UsageError(f"{_excerpt(line)} is no {KEY_TYPE} key", hint=_GENERATE)
    return key


def _fingerprint(key: bytes) -> str:
    blob = _string(KEY_TYPE.encode()) + _string(key)
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
