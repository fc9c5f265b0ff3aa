import gzip
import pickle
import zipfile

import pytest

from optimize.filekind import told
from optimize.models import read_onnx
from runtime.errors import InputError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def archive(path, *names):
    with zipfile.ZipFile(path, "w") as made:
        for name in names:
            made.writestr(name, b"x")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file: a download that failed"),
        (LFS, "a Git LFS pointer.*git lfs pull"),
        (b"\n <!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (b"<html lang='en'>Sign in", "a web page"),
        (b"\x1c\0\0\0TFL3\0\0", "a TensorFlow Lite model.*tf2onnx"),
        (b"\x24\0\0\0ORTM\0\0", "in ONNX Runtime's own format.*give the \\.onnx file"),
        (b"\x10\0\0\0ET12\0\0", "an ExecuTorch program"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes"),
        (gzip.compress(b"model", mtime=0), "compressed by gzip"),
        (b"GGUF\x03\0\0\0", "a GGUF file"),
        (b"<?xml version='1.0'?><net name='m'>", "XML, OpenVINO's say"),
        (b"\x58\0\0\0\0\0\0\0" + b'{"w":{"dtype":"F32"}}', "a file of safetensors"),
        (pickle.dumps({"w": 1}), "a pickle"),
        (("m/data.pkl", "m/code/__torch__.py"), "TorchScript: call it \\.ts"),
        (("m/models/model.json", "m/data/sample_inputs/model.pt"), "an exported program.*\\.pt2"),
        (("m/data.pkl", "m/data/0"), "a checkpoint of PyTorch.*--weights"),
        (("config.json", "model.weights.h5"), "a Keras model"),
        (("schema.json",), "a file of skops"),
        (("model.onnx",), "a zip archive: unpack it"),
    ],
)
def test_what_is_no_onnx_is_told_with_what_to_give_instead(tmp_path, content, message):
    path = tmp_path / "model.onnx"
    path.write_bytes(archive(tmp_path / "made.zip", *content) if isinstance(content, tuple) else content)
    with pytest.raises(InputError, match=rf"model\.onnx is not an ONNX model but {message}"):
        read_onnx(path)


def test_an_onnx_file_is_nothing_else(tiny_onnx, tmp_path):
    assert told(tiny_onnx) == ""
    (tmp_path / "cut.onnx").write_bytes(tiny_onnx.read_bytes()[:100])
    assert told(tmp_path / "cut.onnx") == ""
