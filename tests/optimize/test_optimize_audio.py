"""Folders of recordings as data."""

import numpy as np
import pytest

from optimize import data, preprocessing
from runtime.errors import InputError
from runtime.tensors import TensorSpec

soundfile = pytest.importorskip("soundfile", reason="pip install 'edge-optimize[audio]'")

INPUTS = (TensorSpec("wave", "float32", ("n", 800)),)


def write(path, level, rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(500, level), rate, subtype="PCM_16")


def test_a_class_a_folder(tmp_path):
    for number, word in enumerate(("no", "yes", "stop")):
        for i in range(10):
            write(tmp_path / word / f"{i}.{('wav', 'flac')[i % 2]}", number / 4)
    (tmp_path / "readme.txt").write_text("not a recording")
    assert data.detect(str(tmp_path)) == "audio"
    read = preprocessing.read(data.load("audio", str(tmp_path)), (), INPUTS)
    assert [(spec.kind, spec.columns) for spec in read.specs] == [("audio", ("audio",))]
    feeds, labels = read.splits.whole().take(100)
    assert (feeds["wave"].shape, feeds["wave"].dtype) == ((30, 800), np.float32)
    levels = np.array([0, 2, 1]) / 4  # in the order of the alphabet: no, stop, yes
    np.testing.assert_allclose(feeds["wave"][:, 0], levels[labels], atol=1e-4)
    assert not feeds["wave"][:, 500:].any()
    assert any("in the order of their folders' names: no, stop, yes" in note for note in read.splits.notes)


def test_recordings_of_another_rate_are_left_out_by_name(tmp_path):
    for i in range(9):
        write(tmp_path / f"{i}.wav", 0.1)
    write(tmp_path / "odd.wav", 0.1, 8000)
    read = preprocessing.read(data.load("audio", str(tmp_path)), (), INPUTS)
    feeds, labels = read.splits.whole().take(100)
    assert (len(feeds["wave"]), labels) == (9, None)
    (note,) = read.losses.check(9, 0.2)
    assert "1 of 10 samples cannot be read" in note
    assert "odd.wav has 8000 samples a second, and the model takes 16000" in note
    with pytest.raises(InputError, match=r"At most 5% may be left out"):
        read.losses.check(9, 0.05)


def test_what_is_no_folder_of_recordings_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no such folder"):
        data.load("audio", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"has no recordings \(\.wav, \.flac"):
        data.load("audio", str(tmp_path))
