import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from runtime import BundleError, EngineError, InputError, load, writer
from runtime.bundle import Fallback
from runtime.contender import Contender, Worker
from runtime.streaming import Stream, Streaming, check_states
from runtime.tensors import Specs, TensorSpec

# y = x + h[0], and each layer of h halves what it had and takes x in: the batch is the state's second axis
INPUTS = (TensorSpec("x", "float32", ("batch", 3)), TensorSpec("h", "float32", (2, "batch", 3)))
OUTPUTS = (TensorSpec("y", "float32", ("batch", 3)), TensorSpec("hn", "float32", (2, "batch", 3)))
SPECS = Specs(INPUTS, OUTPUTS)
STATES = {"h": "hn"}
X = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)


def leaky(feeds):
    """The model in numpy."""
    h = feeds["h"] / 2 + feeds["x"]
    return {"y": feeds["x"] + feeds["h"][0], "hn": h.astype(np.float32)}


def by_hand(x):
    """(samples, steps, 3) of a batch of recordings."""
    h, found = np.zeros((2, len(x), 3), np.float32), []
    for step in range(x.shape[1]):
        found.append(x[:, step] + h[0])
        h = h / 2 + x[:, step]
    return np.stack(found, 1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The model in a bundle, run by ONNX Runtime."""
    pytest.importorskip("onnxruntime", reason="pip install 'edge-optimize[onnxruntime]'")
    folder = tmp_path_factory.mktemp("leaky")
    nodes = [
        helper.make_node("Gather", ["h", "zero"], ["first"], axis=0),
        helper.make_node("Add", ["x", "first"], ["y"]),
        helper.make_node("Mul", ["h", "half"], ["halved"]),
        helper.make_node("Add", ["halved", "x"], ["hn"]),
    ]
    ends = [
        [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, spec.shape) for spec in part]
        for part in (INPUTS, OUTPUTS)
    ]
    weights = [
        helper.make_tensor("zero", TensorProto.INT64, [], [0]),
        helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
    ]
    graph = helper.make_graph(nodes, "leaky", *ends, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "m.onnx")
    writer.write(
        folder / "bundle", name="leaky", specs=SPECS, engines=[], axes={"batch": {"min": 1, "best": 1, "max": 4}},
        fallback=Fallback({"model": str(folder / "m.onnx")}, {"onnxruntime": {"threads": 1}}), made_with={},
        states=STATES,
    )  # fmt: skip
    return folder / "bundle"


def test_a_stream_keeps_the_states_between_calls_and_begins_anew_when_told(bundle):
    with load(bundle) as model:
        assert model.bundle.states == STATES
        stream = model.stream()
        for _ in range(2):
            found = np.stack([stream(X[:, step]) for step in range(5)], 1)
            np.testing.assert_allclose(found, by_hand(X), rtol=1e-6)
            stream.reset()
        explicit = model.run({"x": X[:, 0], "h": np.ones((2, 2, 3), np.float32)})
        np.testing.assert_allclose(explicit["y"], X[:, 0] + 1, rtol=1e-6)


def test_streams_of_one_model_run_at_once_each_with_its_own_states(bundle):
    x = np.random.default_rng(1).standard_normal((8, 1, 40, 3)).astype(np.float32)
    with load(bundle) as model, ThreadPoolExecutor(8) as pool:

        def whole(one):
            stream = model.stream()
            return np.stack([stream(one[:, step]) for step in range(one.shape[1])], 1)

        for one, found in zip(x, pool.map(whole, x), strict=True):
            np.testing.assert_allclose(found, by_hand(one), rtol=1e-5)


def test_a_call_that_is_refused_leaves_the_states_as_they_were(bundle):
    with load(bundle) as model:
        stream = model.stream()
        with pytest.raises(InputError, match=r"got inputs \['h', 'x'\]; this model takes x: float32\[batch, 3\]"):
            stream({"x": X[:, 0], "h": X[:, 0]})
        stream(X[:, 0])
        before = {name: value.copy() for name, value in stream.states.items()}
        for wrong in (X[:1, 0], X[:, 0, :2], X[:, 0].astype(np.float64)):
            with pytest.raises(InputError, match=r"this model takes"):
                stream(wrong)
        with pytest.raises(InputError, match=r"got 2 arrays; this model takes 1"):
            stream(X[:, 0], X[:, 0])
        np.testing.assert_array_equal(stream.states["h"], before["h"])


def test_a_bundle_without_states_has_no_stream(tmp_path, bundle):
    import shutil

    shutil.copytree(bundle, tmp_path / "bundle")
    place = tmp_path / "bundle" / "manifest.json"
    data = json.loads(place.read_text())
    data.pop("states")
    place.write_text(json.dumps(data))
    with load(tmp_path / "bundle") as model, pytest.raises(InputError, match=r"leaky has no states; call the model"):
        model.stream()


@pytest.mark.parametrize("states", [{"h": "no"}, {"no": "hn"}, {"h": 3}, ["h"], {"x": "hn"}, {"h": "y"}, "h"])
def test_a_manifest_whose_states_cannot_be_is_refused(tmp_path, bundle, states):
    import shutil

    shutil.copytree(bundle, tmp_path / "bundle")
    place = tmp_path / "bundle" / "manifest.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "states": states}))
    with pytest.raises(BundleError, match=r"is damaged"):
        load(tmp_path / "bundle")


@given(st.integers(1, 3), st.integers(1, 6))
def test_a_recording_gives_what_its_steps_give(batch, steps):
    x = np.random.default_rng(batch * 10 + steps).standard_normal((batch, steps, 3)).astype(np.float32)
    streaming = check_states(STATES, SPECS)
    found = streaming.unrolled(leaky, {"x": x})
    assert list(found) == ["y"]
    np.testing.assert_allclose(found["y"], by_hand(x), rtol=1e-5)
    held = streaming.before(leaky, {"x": x}, 1, 2)
    assert len(held.get("h", ())) == steps // 2
    if steps > 3:
        np.testing.assert_allclose(held["h"][1][0], ((x[:, 0] / 2) + x[:, 1]) / 2 + x[:, 2], rtol=1e-5)


def test_what_has_a_calls_own_rank_is_the_same_at_each_step():
    speaker = TensorSpec("speaker", "float32", ("batch", 2))
    streaming = check_states(STATES, Specs((INPUTS[0], speaker, INPUTS[1]), OUTPUTS))
    feeds = {"x": X, "speaker": np.ones((2, 2), np.float32)}
    assert [str(spec) for spec in streaming.recorded(feeds)] == [
        "x: float32[batch, steps, 3]", "speaker: float32[batch, 2]",
    ]  # fmt: skip
    assert all(step["speaker"].shape == (2, 2) and step["x"].shape == (2, 3) for step in streaming.steps(feeds))
    with pytest.raises(InputError, match=r"with states a sample is a recording, \(samples, steps, 3\); one call"):
        streaming.recorded({"x": X[:, 0], "speaker": feeds["speaker"]})


def test_an_output_that_is_all_there_is_is_given_out_and_kept():
    spec = TensorSpec("last", "float32", ("batch", 3))
    streaming = check_states({"last": "y"}, Specs((INPUTS[0], spec), (OUTPUTS[0],)))
    found = streaming.unrolled(lambda feeds: {"y": feeds["x"] + feeds["last"]}, {"x": X})
    np.testing.assert_allclose(found["y"], np.cumsum(X, 1), rtol=1e-5)


@pytest.mark.parametrize(
    ("states", "inputs", "said"),
    [
        ({"g": "hn"}, INPUTS, r"unknown input for a state 'g'.*Known: h, x"),
        (
            {"h": "hm"},
            INPUTS,
            r"unknown output for the state 'h' 'hm'.*did you mean hn|unknown output for the state 'h'",
        ),
        ({"h": "y"}, INPUTS, r"h: float32\[2, batch, 3\] and y: float32\[batch, 3\] do not agree"),
        ({"h": "hn", "x": "hn"}, INPUTS, r"'hn' is named for several states"),
        ({"h": "hn", "x": "y"}, INPUTS, r"every input is named as a state"),
        (STATES, (TensorSpec("sr", "int64", ()), *INPUTS), r"'sr' is a single number.*--fix sr=NUMBER"),
        (STATES, (INPUTS[0], TensorSpec("h", "float32", (2, 1, 3))), r"has no axis for the batch, 'batch' of 'x'"),
        (STATES, (INPUTS[0], TensorSpec("h", "int64", (2, "batch", 3))), r"do not agree"),
    ],
)
def test_states_that_cannot_be_are_refused(states, inputs, said):
    with pytest.raises(InputError, match=said):
        check_states(states, Specs(inputs, OUTPUTS))


def test_a_state_that_does_not_come_back_as_it_went_in_is_an_error():
    streaming = Streaming(STATES, INPUTS)
    stream = Stream(lambda feeds: {"y": feeds["x"], "hn": np.zeros((1, 2, 3), np.float32)}, streaming)
    with pytest.raises(
        EngineError, match=r"'h', \[2, 2, 3\], is to come back as 'hn', and it came back as \[1, 2, 3\]"
    ):
        stream(X[:, 0])
    stream = Stream(lambda feeds: {"y": feeds["x"]}, streaming)
    with pytest.raises(EngineError, match=r"is to come back as 'hn', and it gives y"):
        stream(X[:, 0])
    growing = iter((1, 2, 3))
    with pytest.raises(EngineError, match=r"the outputs of the steps cannot be stacked"):
        streaming.unrolled(lambda feeds: {**leaky(feeds), "y": np.zeros((2, next(growing)))}, {"x": X[:, :3]})


def test_the_axis_of_the_batch_is_found_by_its_name_or_as_the_one_that_no_input_knows():
    def axis(first, state):
        return Streaming(STATES, (TensorSpec("x", "float32", first), TensorSpec("h", "float32", state))).batch_axis(
            TensorSpec("h", "float32", state)
        )

    assert axis(("batch", 3), (2, "batch", 3)) == 1
    assert axis(("x_0", "x_1"), (2, "h_1", 128)) == 1  # as a file has them that names no axis
    assert axis((1, 3), (2, 1, 3)) == 1
    assert axis((1, 3), (64,)) is None
    assert axis(("batch", 3), ("h_0", "h_1")) is None


def test_a_worker_runs_recordings_and_single_calls(bundle):
    opened = Contender(
        "leaky", "runtime.worker:open_bundle", {"path": str(bundle)}, streaming=check_states(STATES, SPECS)
    )
    with Worker.start(opened, {"x": X}) as worker:
        np.testing.assert_allclose(worker.outputs["y"], by_hand(X), rtol=1e-6)
        one = worker.run({"x": X[:, 0], "h": np.ones((2, 2, 3), np.float32)})
        assert set(one) == {"y", "hn"}
        np.testing.assert_allclose(one["y"], X[:, 0] + 1, rtol=1e-6)
        np.testing.assert_allclose(worker.states({"x": X}, 0, 4)["h"][1][0], by_hand(X)[:, 4] - X[:, 4], atol=1e-6)


def test_the_devices_command_runs_a_recording_and_a_single_call(bundle, tmp_path, capsys):
    from runtime.__main__ import main

    np.savez(tmp_path / "whole.npz", x=X)
    np.savez(tmp_path / "one.npz", x=X[:, 0], h=np.ones((2, 2, 3), np.float32))
    np.savez(tmp_path / "flat.npz", x=X[:, 0])
    given = ["run", str(bundle), "--output", str(tmp_path / "out.npz"), "--input"]
    assert main([*given, str(tmp_path / "whole.npz")]) == 0
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_allclose(found["y"], by_hand(X), rtol=1e-6)
    assert main([*given, str(tmp_path / "one.npz")]) == 0
    with np.load(tmp_path / "out.npz") as found:
        assert set(found) == {"y", "hn"}
    assert main([*given, str(tmp_path / "flat.npz")]) == 2
    assert "a sample is a recording, (samples, steps, 3)" in capsys.readouterr().err
