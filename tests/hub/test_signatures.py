from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ecdsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registry.errors import IntegrityError, StorageError, UsageError
from registry.hub.signatures import key_fingerprint, read_public_key, sign, verify

MESSAGE = b'{"corpus": "handbook"}'
needs_ssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


@pytest.fixture
def write_key(tmp_path: Path) -> Callable[..., tuple[Path, str]]:
    """A function that writes a private key, the same for the same ``seed``, and returns its file and public line."""

    def write(seed: int = 1, passphrase: str | None = None) -> tuple[Path, str]:
        key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        secret = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else None
        path = tmp_path / f"key{seed}"
        path.touch(mode=0o600)
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.OpenSSH,
                secret or serialization.NoEncryption(),
            )
        )
        line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        return path, line.decode()

    return write


def test_the_signer_is_found_among_publishers(write_key: Callable[..., tuple[Path, str]]) -> None:
    (ada_file, ada), (bo_file, bo) = write_key(1), write_key(2)
    publishers = {"ada": f"{ada} ada@example.org", "bo": bo}
    assert verify(MESSAGE, sign(MESSAGE, ada_file), publishers) == "ada"
    assert verify(MESSAGE, sign(MESSAGE, bo_file), publishers) == "bo"
    assert sign(MESSAGE, ada_file) == sign(MESSAGE, ada_file) != sign(MESSAGE + b" ", ada_file)


def test_what_does_not_prove_anything_is_refused(write_key: Callable[..., tuple[Path, str]]) -> None:
    (file, ada), (_, bo) = write_key(1), write_key(2)
    signature = sign(MESSAGE, file)
    with pytest.raises(IntegrityError, match="is not signed"):
        verify(MESSAGE, None, {"ada": ada})
    with pytest.raises(IntegrityError, match="the signature by ada is not of this root manifest"):
        verify(MESSAGE + b"\n", signature, {"ada": ada})
    with pytest.raises(IntegrityError, match=r"unknown key SHA256:.{43}, not by bo"):
        verify(MESSAGE, signature, {"bo": bo})
    with pytest.raises(IntegrityError, match=r"unknown key.*not by nobody"):
        verify(MESSAGE, signature, {})


def _changed(signature: bytes, old: bytes, new: bytes) -> bytes:
    lines = signature.decode().splitlines()
    blob = base64.b64decode("".join(lines[1:-1]))
    assert blob.count(old) >= 1
    return "\n".join([lines[0], base64.b64encode(blob.replace(old, new, 1)).decode(), lines[-1], ""]).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: b"", "not armored"),
        (lambda s: s[:-20], "not armored"),
        (lambda s: b"hello " + s, "not armored"),
        (lambda s: s.replace(b"\n", b"\n" * 5000, 2), "not armored"),
        (lambda s: b"\xff" + s, "malformed"),
        (lambda s: s.replace(b"U1NIU0lH", b"U1NIU0lI"), "of another version"),
        (lambda s: _changed(s, b"\0\0\0\7pragreg", b"\0\0\0\3git"), "made for b'git', not for 'pragreg'"),
        (lambda s: _changed(s, b"sha512", b"sha256"), "not over a sha512 hash"),
        (lambda s: _changed(s, b"ssh-ed25519", b"ssh-ed25518"), "not by an ssh-ed25519 key"),
        (lambda s: _changed(s, b"\0\0\0\7pragreg", b"\0\0\xff\7pragreg"), "cut off"),
        (lambda s: _changed(s, b"sha512", b"sha512!"), "malformed"),
    ],
)
def test_malformed_signatures_are_refused(
    change: Callable[[bytes], bytes], message: str, write_key: Callable[..., tuple[Path, str]]
) -> None:
    file, line = write_key()
    with pytest.raises(IntegrityError, match=message):
        verify(MESSAGE, change(sign(MESSAGE, file)), {"ada": line})


def test_every_single_changed_byte_is_noticed(write_key: Callable[..., tuple[Path, str]]) -> None:
    file, line = write_key()
    lines = sign(MESSAGE, file).decode().splitlines()
    blob = base64.b64decode("".join(lines[1:-1]))
    for at in range(len(blob)):
        changed = blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
        armored = "\n".join([lines[0], base64.b64encode(changed).decode(), lines[-1], ""]).encode()
        with pytest.raises(IntegrityError):
            verify(MESSAGE, armored, {"ada": line})


def test_a_key_with_a_passphrase_asks_for_it(write_key: Callable[..., tuple[Path, str]]) -> None:
    file, line = write_key(3, "correct horse")
    assert verify(MESSAGE, sign(MESSAGE, file, lambda: "correct horse"), {"ada": line}) == "ada"
    with pytest.raises(UsageError, match=r"the passphrase of .*key3 is wrong"):
        sign(MESSAGE, file, lambda: "battery staple")
    with pytest.raises(UsageError, match="has a passphrase, and there is nobody to ask"):
        sign(MESSAGE, file)


def test_a_key_without_a_passphrase_asks_for_none(write_key: Callable[..., tuple[Path, str]]) -> None:
    file, line = write_key()

    def never() -> str:
        raise AssertionError

    assert verify(MESSAGE, sign(MESSAGE, file, never), {"ada": line}) == "ada"


def test_a_key_that_others_may_read_signs_nothing(write_key: Callable[..., tuple[Path, str]]) -> None:
    file, _ = write_key()
    file.chmod(0o644)
    with pytest.raises(UsageError, match="others may read") as caught:
        sign(MESSAGE, file)
    assert caught.value.hint == f"chmod 600 {file}"


def test_files_that_are_no_keys(tmp_path: Path, write_key: Callable[..., tuple[Path, str]]) -> None:
    with pytest.raises(UsageError, match="there is no private key"):
        sign(MESSAGE, tmp_path / "none")
    with pytest.raises(StorageError, match="cannot be read"):
        sign(MESSAGE, tmp_path)
    file, line = write_key()
    for content in (line.encode(), b"", b"\x00" * 100, file.read_bytes()[:150]):
        file.write_bytes(content)
        with pytest.raises(UsageError, match="no private key in OpenSSH's format"):
            sign(MESSAGE, file, lambda: "")
    other = generate_ecdsa(SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    file.write_bytes(other)
    with pytest.raises(UsageError, match="is no Ed25519 key"):
        sign(MESSAGE, file)


def test_public_keys_as_people_have_them(tmp_path: Path, write_key: Callable[..., tuple[Path, str]]) -> None:
    _, line = write_key()
    file = tmp_path / "ada.pub"
    rsa = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC7"
    for text in (line, f"{line} ada@laptop", f'command="x",no-pty {line} ada', f"  {line}\n"):
        assert read_public_key(text) == line
        file.write_text(f"# my keys\n{rsa}\n{text}\n")
        assert read_public_key(str(file)) == line
    with pytest.raises(UsageError, match="a key of type ssh-rsa is not accepted, only ssh-ed25519"):
        read_public_key(rsa)
    with pytest.raises(UsageError, match=r"sk-ssh-ed25519@openssh\.com is not accepted"):
        read_public_key("sk-ssh-ed25519@openssh.com AAAAGnNr")
    with pytest.raises(UsageError, match="'ada' is no public key, and no file of one"):
        read_public_key("ada")
    with pytest.raises(UsageError, match="is no public key: it is cut off"):
        read_public_key(line[:-8])
    file.write_text(f"{line}\n{write_key(2)[1]}\n")
    with pytest.raises(UsageError, match="has 2 Ed25519 keys"):
        read_public_key(str(file))


@needs_ssh
@pytest.mark.parametrize("passphrase", [None, "correct horse"])
def test_ssh_keygen_accepts_our_signatures_and_we_its(tmp_path: Path, passphrase: str | None) -> None:
    key = tmp_path / "id_ed25519"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase or "", "-C", "ada", "-f", key], check=True, timeout=60
    )
    public = Path(f"{key}.pub").read_text()
    signers = tmp_path / "signers"
    signers.write_text(f'ada namespaces="pragreg" {public}')
    ours = tmp_path / "ours.sig"
    ours.write_bytes(sign(MESSAGE, key, lambda: str(passphrase)))

    def check(message: bytes) -> int:
        command = ["ssh-keygen", "-Y", "verify", "-f", signers, "-I", "ada", "-n", "pragreg", "-s", ours]
        return subprocess.run(command, input=message, capture_output=True, check=False, timeout=60).returncode

    assert check(MESSAGE) == 0
    assert check(MESSAGE + b" ") != 0
    shown = subprocess.run(["ssh-keygen", "-l", "-f", key], capture_output=True, text=True, check=True).stdout
    assert key_fingerprint(public) in shown.split()
    if passphrase is None:
        command = ["ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n"]
        theirs, for_git = (
            subprocess.run([*command, namespace], input=MESSAGE, capture_output=True, check=True, timeout=60).stdout
            for namespace in ("pragreg", "git")
        )
        assert verify(MESSAGE, theirs, {"ada": public}) == "ada"
        assert theirs == ours.read_bytes()
        with pytest.raises(IntegrityError, match="made for b'git'"):
            verify(MESSAGE, for_git, {"ada": public})
