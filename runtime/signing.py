"""Who made a bundle: an Ed25519 signature (RFC 8032) over the manifest, which has the sha256 of every other file."""

import base64
from pathlib import Path
from typing import Any

from runtime.errors import BundleError, InputError

SIGNATURE = "manifest.sig"
_LIMIT = 1024  # bytes; a signature has 64, in base64
_NEW = "openssl genpkey -algorithm ed25519 -out KEY"


def sign(folder: Path, key: Path) -> str:
    """Write `manifest.sig`; returns the public key, PEM, that `runtime.load(verify_key=...)` takes.

    Args:
        folder: of a bundle.
        key: a file with an Ed25519 private key, PEM, without a password.

    Raises:
        InputError: there is no such key, or the folder cannot be written.
    """
    from runtime.bundle import read_manifest

    raw = read_manifest(folder)
    private, serialization = _loaded(key, "private")
    try:
        (folder / SIGNATURE).write_bytes(base64.b64encode(private.sign(raw)) + b"\n")
    except OSError as error:
        raise InputError(f"{folder / SIGNATURE} cannot be written: {error.strerror}") from error
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    text: bytes = private.public_key().public_bytes(*form)
    return text.decode()


def verify(folder: Path, manifest: bytes, key: str | Path) -> None:
    """See that the holder of a key signed these bytes of a manifest.

    Args:
        folder: of the bundle.
        manifest: its bytes.
        key: a file with the public key, PEM, or its text.

    Raises:
        InputError: the key is none.
        BundleError: there is no signature, or it is not this key's over these bytes.
    """
    public, _ = _loaded(key, "public")
    from cryptography.exceptions import InvalidSignature

    try:
        with (folder / SIGNATURE).open("rb") as stream:
            signature = base64.b64decode(stream.read(_LIMIT))
    except OSError as error:
        raise BundleError(
            f"{folder} is not signed ({SIGNATURE} is missing): optimize sign {folder} --key KEY"
        ) from error
    except ValueError as error:
        raise BundleError(f"{folder}: {SIGNATURE} is no signature.") from error
    try:
        public.verify(signature, manifest)
    except InvalidSignature as error:
        raise BundleError(
            f"{folder} is refused: its signature is not this key's, or the manifest was changed after it was signed."
        ) from error


def _loaded(key: str | Path, kind: str) -> tuple[Any, Any]:
    """An Ed25519 key, and the module that reads and writes keys."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise InputError("signatures need the package cryptography: pip install 'edge-optimize[sign]'") from error
    if isinstance(key, str) and key.lstrip().startswith("-----BEGIN"):
        where, text = "the key", key.encode()
    else:
        where = str(key)
        try:
            text = Path(key).read_bytes()
        except OSError as error:
            hint = f"; to make one: {_NEW}" if kind == "private" else ""
            raise InputError(f"the {kind} key {where} cannot be read: {error.strerror}{hint}") from error
    try:
        if kind == "private":
            found: Any = serialization.load_pem_private_key(text, password=None)
        else:
            found = serialization.load_pem_public_key(text)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{where} is not a {kind} key in PEM, or has a password; to make one: {_NEW}") from error
    wanted = ed25519.Ed25519PrivateKey if kind == "private" else ed25519.Ed25519PublicKey
    if not isinstance(found, wanted):
        raise InputError(f"{where} is a key of another kind; signatures here are Ed25519: {_NEW}")
    return found, serialization
