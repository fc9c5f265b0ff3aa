"""Signatures of bundles: made, verified, and refused after any change."""

import shutil
from pathlib import Path

import pytest

from runtime import BundleError, InputError, signing, writer
from runtime import bundle as bundles

pytest.importorskip("cryptography", reason="pip install 'edge-optimize[sign]'")
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

FOLDER = Path(__file__).parent / "bundles" / "2"


def key(path: Path, made=None, password: bytes | None = None) -> Path:
    made = made or ed25519.Ed25519PrivateKey.generate()
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    path.write_bytes(made.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden))
    return path


@pytest.fixture
def bundle(tmp_path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "bundle"))


@pytest.fixture
def public(bundle, tmp_path) -> str:
    return signing.sign(bundle, key(tmp_path / "key.pem"))


def test_a_signed_bundle_is_read_with_the_key_and_without(bundle, public, tmp_path):
    (tmp_path / "public.pem").write_text(public)
    for given in (public, tmp_path / "public.pem", str(tmp_path / "public.pem"), None):
        assert bundles.read(bundle, verify_key=given).name == "sample"


def test_every_changed_byte_is_seen(bundle, public):
    for file in [path for path in bundle.rglob("*") if path.is_file()]:
        content = file.read_bytes()
        for at in (0, len(content) // 2, len(content) - 2):
            file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            with pytest.raises(BundleError):
                bundles.read(bundle, verify_key=public)
        file.write_bytes(content)
    bundles.read(bundle, verify_key=public)


def test_another_key_is_refused(bundle, public, tmp_path):
    other = signing.sign(Path(shutil.copytree(FOLDER, tmp_path / "other")), key(tmp_path / "other.pem"))
    with pytest.raises(BundleError, match="not this key's"):
        bundles.read(bundle, verify_key=other)


def test_an_unsigned_bundle_is_refused_where_a_key_is_given(bundle, public):
    for name in (bundle / signing.SIGNATURE,):
        name.unlink()
        with pytest.raises(BundleError, match="is not signed"):
            bundles.read(bundle, verify_key=public)
    (bundle / signing.SIGNATURE).write_text("no signature")
    with pytest.raises(BundleError):
        bundles.read(bundle, verify_key=public)


def test_a_bundle_of_several_is_signed_whole(tmp_path, bundle):
    writer.join(tmp_path / "both", {"a": bundle, "b": FOLDER})
    public = signing.sign(tmp_path / "both", key(tmp_path / "key.pem"))
    assert bundles.read(tmp_path / "both", "a", public).name == "sample"
    file = tmp_path / "both" / "b" / "fallback" / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="sha256"):
        bundles.read(tmp_path / "both", "b", public)


def test_what_is_no_key_is_said_in_words(bundle, tmp_path, public):
    with pytest.raises(InputError, match="openssl genpkey"):
        signing.sign(bundle, tmp_path / "nowhere.pem")
    (tmp_path / "text.pem").write_text("no key")
    with pytest.raises(InputError, match="not a private key"):
        signing.sign(bundle, tmp_path / "text.pem")
    with pytest.raises(InputError, match="has a password"):
        signing.sign(bundle, key(tmp_path / "hidden.pem", password=b"secret"))
    with pytest.raises(InputError, match="Ed25519"):
        signing.sign(bundle, key(tmp_path / "rsa.pem", rsa.generate_private_key(65537, 2048)))
    for wrong in (tmp_path / "key.pem", tmp_path / "nowhere.pem", "-----BEGIN nothing"):
        with pytest.raises(InputError, match="public key"):
            bundles.read(bundle, verify_key=wrong)
    with pytest.raises(BundleError, match="not a bundle"):
        signing.sign(tmp_path, tmp_path / "key.pem")


def test_the_missing_package_names_its_extra(bundle, public, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(InputError, match=r"edge-optimize\[sign\]"):
        bundles.read(bundle, verify_key=public)
