"""What the step tests share: a context around arrays in memory."""

import numpy as np
import pytest


@pytest.fixture
def make_context(tmp_path_factory):
    """A context of `feeds` (arrays by input name), with a fresh folder for the step's files."""
    from optimize.data import NAMES, from_arrays
    from optimize.steps import Context
    from targets import Scheme

    def make(feeds, axes=None, scheme=None):
        splits = from_arrays(dict.fromkeys(NAMES, feeds), "here")
        axes = {"batch": {"min": 1, "best": 1, "max": 4}} if axes is None else axes
        folder = tmp_path_factory.mktemp("step")
        return Context(splits.calibrate, axes, scheme or Scheme(ops=("Conv",)), folder)

    return make


@pytest.fixture
def image_context(make_context, tiny_data):
    """The same for `tiny_module` and `tiny_onnx`."""

    def make(axes=None, scheme=None, samples=64):
        return make_context({"image": np.array(tiny_data[0][:samples])}, axes, scheme)

    return make
