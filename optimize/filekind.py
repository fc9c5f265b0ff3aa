"""What a file is that was given for an ONNX model and is none, told by its first bytes, and what to give instead."""

import zipfile
from pathlib import Path

_FLAT = 4  # where FlatBuffers have the four letters of their format
_STARTS = (
    (b"version https://git-lfs", "a Git LFS pointer, which stands for the file: git lfs pull"),
    (b"\x89HDF", "an HDF5 file, as Keras writes: convert it, by tf2onnx say"),
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (b"GGUF", "a GGUF file, weights for llama.cpp: give the ONNX file of the same model"),
    (
        b"\x80",
        "a pickle, as PyTorch and scikit-learn write: give file.py:callable with --weights, or the pickle as .pkl",
    ),
    (b"<?xml", "XML, OpenVINO's say: give the ONNX file that it came from"),
    (b"<net", "OpenVINO's: give the ONNX file that it came from"),
)
_LETTERS = {
    b"TFL3": "a TensorFlow Lite model: convert it, by tf2onnx say",
    b"ORTM": "in ONNX Runtime's own format: give the .onnx file that it was made of",
    b"ET12": "an ExecuTorch program: give the model that it was made of",
}
_MEMBERS = (
    ("/code/", "TorchScript: call it .ts, and give --trust"),
    ("models/model.json", "an exported program of PyTorch: call it .pt2, and give --trust"),
    ("data.pkl", "a checkpoint of PyTorch: give file.py:callable that builds the module, and this by --weights"),
    ("model.weights.h5", "a Keras model: convert it, by tf2onnx say"),
    ("schema.json", "a file of skops: call it .skops"),
)


def told(path: Path) -> str:
    """` but a zip archive: unpack it`, in this form; empty for what is not known, and may be a damaged ONNX model."""
    found = _told(path)
    return f" but {found}" if found else ""


def _told(path: Path) -> str:
    with path.open("rb") as stream:
        start = stream.read(512)
    if not start:
        return "an empty file: a download that failed?"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page, as a download that failed leaves: get the file itself"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        return next((what for member, what in _MEMBERS if any(member in name for name in names)),
                    "a zip archive: unpack it")  # fmt: skip
    if found := _LETTERS.get(start[_FLAT : _FLAT + 4]):
        return found
    if start[8:10] == b'{"':
        return "a file of safetensors, weights alone: give file.py:callable that builds it, and this by --weights"
    return next((what for begins, what in _STARTS if start.startswith(begins)), "")
