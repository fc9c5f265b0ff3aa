import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime import BundleError, EngineError, Error, InputError, Model, NoEngineError, engines, host, load
from runtime import bundle as bundles
from runtime.bundle import Bundle, EngineEntry, Fallback
from runtime.model import Decision
from runtime.tensors import Specs, TensorSpec

SPECS = Specs((TensorSpec("image", "float32", ("batch", 3, 8, 8)),), (TensorSpec("output", "float32", ("batch", 5)),))
AXES = {"batch": {"min": 1, "best": 1, "max": 4}}
BOTH = ("openvino", "onnxruntime")


@pytest.fixture(scope="session")
def built(tmp_path_factory, tiny_onnx):
    """`tiny_onnx`, compiled for each engine library that these tests use."""
    found = {}
    for name in BOTH:
        pytest.importorskip(name, reason=f"pip install 'edge-optimize[{name}]'")
        folder = tmp_path_factory.mktemp(name)
        files = engines.get(name).compile(tiny_onnx, folder, {"threads": 1})
        found[name] = {role: str(path) for role, path in files.items()}
    return found


@pytest.fixture
def make(tmp_path, tiny_onnx, built):
    """Write a bundle with these engines; an engine named here gets these bytes for its files, or other fields."""

    def write(names=BOTH, damaged=(), fallback=("onnxruntime",), fallback_options=None, **changes) -> Path:
        entries = []
        for name in names:
            files = built[name]
            if name in damaged:
                broken = tmp_path / f"damaged {name}"
                broken.write_bytes(b"this is no model")
                files = {"model": str(broken)}
            fields = {
                "name": name, "target": name, "engine": name, "files": files, "source": str(tiny_onnx),
                "options": {"threads": 1},
            }  # fmt: skip
            entries.append(EngineEntry(**{**fields, **changes.get(name, {})}))
        model = tiny_onnx
        if "fallback" in damaged:
            model = tmp_path / "damaged.onnx"
            model.write_bytes(b"nor is this")
        bundles.write(
            tmp_path / "bundle", name="tiny", specs=SPECS, engines=entries, axes=AXES, made_with={},
            fallback=Fallback({"model": str(model)}, {name: fallback_options or {} for name in fallback}),
        )  # fmt: skip
        return tmp_path / "bundle"

    return write


class Fake:
    """A session that adds one, and tells what was done with it."""

    def __init__(self, outputs=("output",)):
        self.outputs, self.calls, self.threads, self.closed = outputs, 0, 3, 0

    def run(self, feeds, out=None):
        self.calls += 1
        return {name: feeds["image"] + 1 + i for i, name in enumerate(self.outputs)}

    def precision(self):
        return {"f32": 1}

    def close(self):
        self.closed += 1


def fake_model(session) -> Model:
    specs = Specs(
        (TensorSpec("image", "float32", ("n",)),),
        tuple(TensorSpec(name, "float32", ("n",)) for name in session.outputs),
    )
    bundle = Bundle(Path("nowhere"), "fake", specs, (), Fallback({"model": "m"}, {}), {}, {}, {})
    return Model(bundle, session, (Decision("a", False, "no"), Decision("b", True, "yes")))


def test_the_first_engine_is_taken(make, tiny_data):
    with load(make()) as model:
        assert model.engine == "openvino"
        assert model.decisions == (Decision("openvino", True, "the first that runs here"),)
        assert (model.inputs, model.outputs) == (SPECS.inputs, SPECS.outputs)
        assert model.threads == 1
        assert model.precision()["f32"] > 0
        assert "bf16" not in model.precision()  # which OpenVINO takes by itself only where no option at all is set
        assert model(tiny_data[0][:4]).shape == (4, 5)
        assert "openvino" in repr(model)
        assert "closed" not in repr(model)
    assert "closed" in repr(model)


def test_a_path_may_be_a_string(make):
    with load(str(make())) as model:
        assert model.engine == "openvino"


def test_a_missing_library_is_passed_over_in_the_open(make, monkeypatch, tiny_data):
    path = make()
    with load(path, "onnxruntime") as model:
        wanted = model(tiny_data[0][:2])
    monkeypatch.setitem(sys.modules, "openvino", None)  # as if it were not installed
    with pytest.warns(
        RuntimeWarning, match=r"tiny runs on onnxruntime, not on openvino: .*edge-optimize\[openvino\]"
    ) as w:
        model = load(path)
    assert [warning.filename for warning in w] == [__file__]
    assert [(d.engine, d.taken) for d in model.decisions] == [("openvino", False), ("onnxruntime", True)]
    assert "pip install 'edge-optimize[openvino]'" in model.decisions[0].reason
    assert model.engine == "onnxruntime"
    np.testing.assert_array_equal(model(tiny_data[0][:2]), wanted)
    model.close()


def test_a_file_that_is_refused_is_passed_over_in_the_open(make):
    with pytest.warns(RuntimeWarning, match="OpenVINO cannot load"):
        model = load(make(damaged=["openvino"]))
    assert [(d.engine, d.taken) for d in model.decisions] == [("openvino", False), ("onnxruntime", True)]
    model.close()


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ({"files": {}}, "could not be built"),
        ({"needs": {"instruction_sets_any": ["no_such_set", "nor_this"]}}, "no_such_set, nor_this"),
        ({"engine": "openvin"}, "did you mean 'openvino'"),
        ({"options": {"thread": 1}}, "did you mean 'threads'"),
    ],
)
def test_an_engine_that_does_not_fit_is_passed_over_in_the_open(make, field, reason):
    with pytest.warns(RuntimeWarning, match=reason):
        model = load(make(openvino=field))
    assert reason in model.decisions[0].reason
    assert model.engine == "onnxruntime"
    model.close()


def test_an_engine_whose_needs_are_met_is_taken(make):
    sets = host.facts().instruction_sets
    if not sets:
        pytest.skip("this processor has none of the known instruction sets")
    with load(make(openvino={"needs": {"instruction_sets_any": ["no_such_set", sets[0]]}})) as model:
        assert model.engine == "openvino"


def test_the_plain_model_is_the_last_resort(make):
    path = make(damaged=BOTH, fallback=("no_such_library", "onnxruntime"))
    with pytest.warns(RuntimeWarning, match="runs on fallback on onnxruntime"):
        model = load(path)
    assert [d.engine for d in model.decisions] == [*BOTH, "fallback on no_such_library", "fallback on onnxruntime"]
    assert [d.taken for d in model.decisions] == [False, False, False, True]
    model.close()


def test_the_plain_model_is_opened_with_its_own_options(make):
    with load(make(fallback_options={"threads": 1}), "fallback on onnxruntime") as model:
        assert model.threads == 1
    with pytest.raises(NoEngineError, match="did you mean 'threads'"):
        load(make(fallback_options={"thread": 1}), "fallback on onnxruntime")


def test_none_left_says_why_of_each(make):
    path = make(damaged=[*BOTH, "fallback"])
    with pytest.raises(NoEngineError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message
    for part in ("openvino: OpenVINO cannot load", "onnxruntime: ONNX Runtime cannot", "fallback on onnxruntime: "):
        assert part in message


def test_a_named_engine_is_taken_or_none(make):
    path = make(damaged=["openvino"])
    for name in ("onnxruntime", "fallback on onnxruntime"):
        with load(path, name) as model:
            assert model.engine == name
            assert [d.engine for d in model.decisions] == [name]
    with pytest.raises(NoEngineError, match="OpenVINO cannot load"):
        load(path, "openvino")
    with pytest.raises(InputError, match="did you mean 'onnxruntime'"):
        load(path, "onnxruntim")


def test_an_engine_that_is_not_the_manifests_model_is_passed_over(make, tmp_path):
    path = make()
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["outputs"][0]["name"] = "scores"
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(NoEngineError, match="scores"):
        load(path)


def test_a_damaged_bundle_is_refused(make):
    path = make()
    file = next(path.glob("openvino/*.bin"))
    file.write_bytes(b"\0" + file.read_bytes()[1:] + b"\0")
    with pytest.raises(BundleError, match="sha256"):
        load(path)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(st.data())
def test_a_manifest_with_anything_in_an_engine_gives_an_error_of_ours(make, data):
    path = Path(make_once(make))
    text = (path / "manifest.json").read_text()
    manifest = json.loads(text)
    part = manifest["fallback"] if data.draw(st.booleans()) else manifest["engines"][0]
    part[data.draw(st.sampled_from([key for key in part if key != "measured"]))] = data.draw(json_values)
    (path / "manifest.json").write_text(json.dumps(manifest))
    try:
        load(path, data.draw(st.sampled_from([None, "onnxruntime"]))).close()
    except Error:
        pass
    finally:
        (path / "manifest.json").write_text(text)


def make_once(make):
    if not hasattr(make, "path"):
        make.path = make(names=["onnxruntime"], damaged=["onnxruntime", "fallback"])
    return make.path


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("engines", "options", 5),
        ("engines", "needs", 5),
        ("engines", "needs", {"instruction_sets_any": 5}),
        ("engines", "engine", 5),
        ("engines", "files", {"nonsense": "fallback/damaged.onnx"}),
        ("fallback", "files", {}),
        ("fallback", "engines", ["onnxruntime"]),
        ("fallback", "engines", {"onnxruntime": 5}),
    ],
)
def test_a_field_of_the_wrong_kind_gives_an_error_of_ours(make, part, field, value):
    path = make_once(make)
    manifest = json.loads((path / "manifest.json").read_text())
    (manifest["engines"][0] if part == "engines" else manifest["fallback"])[field] = value
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Error):
        load(path)


def test_one_array_or_a_dict(make, tiny_data):
    x = tiny_data[0][:3]
    with load(make()) as model:
        wanted = model.run({"image": x})
        assert list(wanted) == ["output"]
        np.testing.assert_array_equal(model(x), wanted["output"])
        np.testing.assert_array_equal(model({"image": x}), wanted["output"])
        np.testing.assert_array_equal(model.submit(x).result(60), wanted["output"])


def test_several_outputs_come_in_order():
    model = fake_model(Fake(outputs=("z", "a")))
    first, second = model(np.zeros(2, np.float32))
    np.testing.assert_array_equal(first, [1, 1])
    np.testing.assert_array_equal(second, [2, 2])


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (np.zeros(2, np.float32), np.zeros(2, np.float32)),
        (np.zeros(2),),
        (np.zeros((2, 2), np.float32),),
        (np.zeros(0, np.float32),),
        ([0.0],),
        ({"x": np.zeros(2, np.float32)},),
    ],
)
def test_a_wrong_call_never_reaches_the_engine(arguments):
    session = Fake()
    model = fake_model(session)
    with pytest.raises(InputError):
        model(*arguments)
    with pytest.raises(InputError):
        model.submit(*arguments).result(60)
    model.close()
    assert session.calls == 0


def test_the_engine_of_a_model_is_the_last_decision():
    assert fake_model(Fake()).engine == "b"


def test_closing():
    session = Fake()
    model = fake_model(session)
    assert (model.threads, model.precision()) == (3, {"f32": 1})
    assert session.closed == 0
    model.close()
    model.close()
    assert session.closed == 1
    x = np.zeros(1, np.float32)
    for use in (lambda: model(x), lambda: model.run({"image": x}), lambda: model.submit(x), model.precision):
        with pytest.raises(InputError, match="closed"):
            use()
    with pytest.raises(InputError, match="closed"):
        _ = model.threads
    with fake_model(session):
        pass
    assert session.closed == 2


def test_an_error_in_a_submitted_call_arrives():
    class Broken(Fake):
        def run(self, feeds, out=None):
            raise EngineError("it broke")

    model = fake_model(Broken())
    with pytest.raises(EngineError, match="it broke"):
        model.submit(np.zeros(1, np.float32)).result(60)
    model.close()


def test_as_many_calls_run_at_once_as_there_are_cores(monkeypatch):
    monkeypatch.setattr(host, "cores", lambda: 2)
    together = threading.Barrier(2)

    class Meeting(Fake):
        def run(self, feeds, out=None):
            together.wait(60)  # passes only when two are here
            return super().run(feeds, out)

    model = fake_model(Meeting())
    for future in [model.submit(np.zeros(1, np.float32)) for _ in range(4)]:
        assert future.result(60) == 1
    model.close()


def test_closing_finishes_the_calls_that_were_submitted(monkeypatch):
    monkeypatch.setattr(host, "cores", lambda: 1)
    running, released = threading.Event(), threading.Event()
    closed_after: list[int] = []

    class Slow(Fake):
        def run(self, feeds, out=None):
            running.set()
            assert released.wait(60)
            return super().run(feeds, out)

        def close(self):
            closed_after.append(self.calls)

    model = fake_model(Slow())
    futures = [model.submit(np.full(1, i, np.float32)) for i in range(3)]
    assert running.wait(60)
    closing = threading.Thread(target=model.close)
    closing.start()
    released.set()
    closing.join(60)
    assert not closing.is_alive()
    assert [float(future.result(60)[0]) for future in futures] == [1, 2, 3]
    assert closed_after == [3]


@pytest.mark.parametrize("library", BOTH)
@pytest.mark.parametrize("options", [{"threads": 1}, {}], ids=["one thread", "as shipped"])
def test_many_threads_get_the_answers_that_one_gets(make, tiny_data, library, options):
    threads, calls = 16, 50
    x = tiny_data[0]
    with load(make(names=[library], **{library: {"options": options}})) as model:
        feeds = [x[i : i + 1 + i % 4] for i in range(threads)]
        wanted = [model(feed) for feed in feeds]
        assert len({answer.tobytes() for answer in wanted}) == threads  # so that a mix-up would show
        start = threading.Barrier(threads)

        def work(i):
            start.wait(60)
            return [model(feeds[(i + n) % threads]) for n in range(calls)]

        with ThreadPoolExecutor(threads) as pool:
            answers = list(pool.map(work, range(threads)))
    for i, got in enumerate(answers):
        for n, answer in enumerate(got):
            np.testing.assert_array_equal(answer, wanted[(i + n) % threads])


@pytest.mark.parametrize("library", BOTH)
def test_an_answer_is_the_callers_own(make, tiny_data, library):
    with load(make(names=[library])) as model:
        first = model(tiny_data[0][:1])
        kept = first.copy()
        model(tiny_data[0][1:2])
        np.testing.assert_array_equal(first, kept)
        first[...] = 0
        np.testing.assert_array_equal(model(tiny_data[0][:1]), kept)
    np.testing.assert_array_equal(first, 0)
