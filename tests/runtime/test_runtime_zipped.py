"""A bundle in a .zip, and what a hostile .zip tries."""

import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime import BundleError, load, zipped
from runtime import bundle as bundles

FOLDER = Path(__file__).parent / "bundles" / "2"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pack(path: Path, root: str = "", **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(FOLDER.rglob("*")):
            if file.is_file():
                archive.write(file, root + file.relative_to(FOLDER).as_posix())
        for name, content in more.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("root", ["", "bundle/"])
def test_a_zip_is_loaded_as_its_folder_is(tmp_path, root, cache):
    pytest.importorskip("onnxruntime", reason="pip install 'edge-optimize[onnxruntime]'")
    x = np.array([[1, 2, 3]], np.float32)
    with load(pack(tmp_path / "b.zip", root), check=True) as model, load(FOLDER) as plain:
        np.testing.assert_array_equal(model(x), plain(x))
        where = model.bundle.path
    assert where.is_relative_to(cache)
    assert bundles.read(tmp_path / "b.zip").path == where  # unpacked once
    assert len([entry for entry in cache.iterdir() if entry.is_dir()]) == 1


def test_what_was_unpacked_and_damaged_is_unpacked_again(tmp_path):
    path = pack(tmp_path / "b.zip")
    file = bundles.read(path).path / "fallback" / "model.onnx"
    file.write_bytes(b"damaged")
    bundles.read(path)
    assert file.read_bytes() == (FOLDER / "fallback" / "model.onnx").read_bytes()


def test_where_the_cache_cannot_be_written_it_is_unpacked_for_this_process(tmp_path, monkeypatch, cache, caplog):
    cache.write_bytes(b"a file where the folder should be")
    found = bundles.read(pack(tmp_path / "b.zip"))
    assert not found.path.is_relative_to(cache)
    assert "so it is made for this process only" in caplog.text
    shutil.rmtree(found.path.parent)


def test_a_zip_that_was_changed_is_refused(tmp_path):
    path = pack(tmp_path / "b.zip", **{"report/x": b""})
    bundles.read(path)
    raw = bytearray(path.read_bytes())
    raw[200] ^= 1
    path.write_bytes(raw)
    with pytest.raises(BundleError):
        bundles.read(path)


@pytest.mark.parametrize(
    "name", ["../climbed", "a/../../climbed", "/climbed", "..\\climbed", "C:climbed", "a\nb", "./../climbed"]
)
def test_a_name_that_climbs_is_refused(tmp_path, name, cache):
    with pytest.raises(BundleError, match="leads out"):
        bundles.read(pack(tmp_path / "b.zip", **{name: b"here"}))
    assert not list(tmp_path.rglob("climbed*"))
    assert not cache.exists()


def test_a_link_is_refused(tmp_path):
    path = pack(tmp_path / "b.zip")
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("fallback/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(BundleError, match="is a link"):
        bundles.read(path)


def test_a_bomb_is_refused_before_anything_is_written(tmp_path, cache):
    path = pack(tmp_path / "b.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("big", "w") as stream:
        for _ in range(160):
            stream.write(bytes(2**20))
    with pytest.raises(BundleError, match="no bundle shrinks so far"):
        bundles.read(path)
    assert not cache.exists()


def test_a_bomb_of_many_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(zipped, "ENTRIES", 3)
    with pytest.raises(BundleError, match="a bundle has at most 3"):
        bundles.read(pack(tmp_path / "b.zip"))


@pytest.mark.parametrize("lie", [-1, 1])
def test_a_size_that_lies_is_refused(tmp_path, lie, monkeypatch):
    path = pack(tmp_path / "b.zip")
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("fallback/model.onnx")
    old = entry.file_size.to_bytes(4, "little")
    new = (entry.file_size + lie).to_bytes(4, "little")
    at = raw.rindex(b"fallback/model.onnx")  # in the central directory, which is what is read
    size_at = at - 46 + 24
    assert raw[size_at : size_at + 4] == old
    path.write_bytes(raw[:size_at] + new + raw[size_at + 4 :])
    with pytest.raises(BundleError):
        bundles.read(path)


def test_two_files_of_one_name_are_refused(tmp_path):
    path = pack(tmp_path / "b.zip")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("manifest.json", "{}")
    with pytest.raises(BundleError, match="two files of one name"):
        bundles.read(path)


def test_an_encrypted_file_is_refused(tmp_path):
    path = pack(tmp_path / "b.zip")
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"fallback/model.onnx") - 46
    raw[at + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(BundleError, match="encrypted"):
        bundles.read(path)


def test_a_zip_without_a_bundle_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("deep/er/manifest.json", "{}")
    with pytest.raises(BundleError, match="is not a bundle"):
        bundles.read(tmp_path / "b.zip")


def test_a_disk_that_is_full_is_said_before_writing(tmp_path, monkeypatch):
    used = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(zipped.shutil, "disk_usage", lambda _: used._replace(free=100))
    with pytest.raises(OSError, match="are free"):
        bundles.read(pack(tmp_path / "b.zip"))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_zip_with_any_bytes_changed_is_read_whole_or_refused(tmp_path, changes):
    base = tmp_path / "base.zip"
    if not base.exists():
        pack(base)
    raw = bytearray(base.read_bytes())
    for at, value in changes:
        raw[at % len(raw)] = value
    path = tmp_path / "b.zip"
    path.write_bytes(raw)
    try:
        found = bundles.read(path)
    except BundleError:
        return
    assert found.files == bundles.read(FOLDER).files
