import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import runtime
from runtime import BundleError, EngineError, Error, InputError, Model, NoEngineError, engines, host, writer
from runtime.bundle import Bundle, EngineEntry, Fallback
from runtime.loading import Decision
from runtime.model import Live
from runtime.tensors import Specs, TensorSpec

load = partial(runtime.load, rebuild=False)  # what is compiled anew has tests of its own

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
        writer.write(
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


def fake_model(session, again=None, **settings) -> Model:
    specs = Specs(
        (TensorSpec("image", "float32", ("n",)),),
        tuple(TensorSpec(name, "float32", ("n",)) for name in session.outputs),
    )
    bundle = Bundle(Path("nowhere"), "fake", specs, (), Fallback({"model": "m"}, {}), {}, {}, {})
    decisions = (Decision("a", False, "no"), Decision("b", True, "yes"))
    return Model(Live(bundle, session, decisions), again or (lambda path: None), **{"streams": 2, **settings})


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
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
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


@pytest.mark.parametrize("check_nan", [False, True])
def test_a_wrong_call_between_right_ones_never_reaches_the_engine(check_nan):
    class Looks:
        dtype, shape = np.dtype(np.float32), (2,)

    session, right = Fake(), np.zeros(2, np.float32)
    model = fake_model(session, check_nan=check_nan)
    wrong = [
        {"x": right}, {"image": right, "x": right}, {}, {"image": np.zeros(2)}, {"image": Looks()}, {"image": [0.0]},
        {"image": np.zeros((2, 2), np.float32)}, {"image": right.astype(">f4")}, [1], np.zeros(3),
    ]  # fmt: skip
    for number, feeds in enumerate(wrong):
        for length in (2, 2, 5):
            assert model.run({"image": np.zeros(length, np.float32)})["output"].shape == (length,)
        with pytest.raises(InputError):
            model.run(feeds)
        assert session.calls == 3 * (number + 1)


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


class Counting(Fake):
    """Gives each row's first number, and notes the rows of every call."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def run(self, feeds, out=None):
        x = feeds["image"]
        self.rows.append(len(x))
        if (x < 0).any():
            raise EngineError("negative")
        return {"output": x[:, 0] * 2}


def rows_model(session, **settings) -> Model:
    specs = Specs((TensorSpec("image", "float32", ("n", "w")),), (TensorSpec("output", "float32", ("n",)),))
    bundle = Bundle(Path("nowhere"), "fake", specs, (), Fallback({"model": "m"}, {}), {}, {}, {})
    live = Live(bundle, session, (Decision("b", True, "yes"),))
    return Model(live, lambda path: None, **{"streams": 2, **settings})


def row(*numbers) -> np.ndarray:
    return np.array([numbers], np.float32)


def test_answers_come_in_the_order_of_the_calls_and_calls_are_read_as_needed():
    read = []

    def calls():
        for i in range(50):
            read.append(i)
            yield row(i, 0)

    class Uneven(Counting):
        def run(self, feeds, out=None):
            time.sleep(0.002 if feeds["image"][0, 0] % 3 else 0)
            return super().run(feeds, out)

    model = rows_model(Uneven())
    answers = model.map(calls())
    assert float(next(answers)[0]) == 0
    assert len(read) < 10
    assert [float(one[0]) for one in answers] == [2 * i for i in range(1, 50)]
    model.close()


@pytest.mark.parametrize("name", BOTH)
def test_a_map_gives_each_call_its_own_answer_whatever_happens_between(name, make, tmp_path):
    calls = [np.random.default_rng(i).standard_normal((1 + i % 4, 3, 8, 8)).astype(np.float32) for i in range(40)]
    with load(make((name,)), streams=2) as model:
        wanted = [model(x) for x in calls]
        for got, right in zip(model.map(iter(calls)), wanted, strict=True):
            np.testing.assert_array_equal(got, right)
        answers = model.map(calls)
        np.testing.assert_array_equal(next(answers), wanted[0])
        del answers  # with calls under way, which nobody waits for
        bad = [*calls[:9], calls[0][:, :2], *calls[9:]]
        seen = []
        with pytest.raises(InputError, match="image"):
            seen += list(model.map(bad))
        answers = model.map(calls)
        first = next(answers)
        model.reload(model.bundle.path)
        for got, right in zip([first, *answers], wanted, strict=True):
            np.testing.assert_array_equal(got, right)
        answers = model.map(calls)
        next(answers)
    with pytest.raises(InputError, match="closed"):
        list(answers)


@pytest.mark.parametrize("form", ["array", "tuple", "dict"])
def test_a_map_joins_calls_of_equal_shapes(form):
    session = Counting()
    model = rows_model(session, streams=1)
    given = [row(i, 0) if i < 5 else row(i, 0, 0) for i in range(8)]
    forms = {"array": lambda x: x, "tuple": lambda x: (x,), "dict": lambda x: {"image": x}}
    answers = list(model.map(map(forms[form], given), batch=3))
    assert [one.tolist() for one in answers] == [[2.0 * i] for i in range(8)]
    assert session.rows == [3, 2, 3]
    for wrong in (0, 1.5, "2"):
        with pytest.raises(InputError, match="batch="):
            list(model.map(given, batch=wrong))
    with pytest.raises(InputError, match="is a list"):
        list(model.map([row(1, 1), [1.0]], batch=2))
    model.close()


def test_calls_of_a_model_with_a_fixed_batch_are_not_joined():
    specs = Specs((TensorSpec("image", "float32", (1, 2)),), (TensorSpec("output", "float32", (1,)),))
    live = Live(
        Bundle(Path(), "fixed", specs, (), Fallback({"model": "m"}, {}), {}, {}, {}),
        Counting(),
        (Decision("b", True, ""),),
    )
    model = Model(live, lambda path: None, streams=1)
    assert [one.tolist() for one in model.map([row(1, 0)])] == [[2.0]]
    with pytest.raises(InputError, match="cannot be joined"):
        list(model.map([row(1, 0)], batch=2))
    model.close()
    with pytest.raises(InputError, match="cannot be joined"):  # at once, not at the first call, and never in silence
        Model(live, lambda path: None, streams=1, max_batch=2)


def test_calls_that_come_together_run_as_one():
    session = Counting()
    model = rows_model(session, streams=1, max_batch=4, max_delay_ms=200.0)
    futures = [model.submit(row(i, 0)) for i in range(4)]
    assert [future.result(60).tolist() for future in futures] == [[0.0], [2.0], [4.0], [6.0]]
    assert session.rows == [4]
    two = [model.submit(np.concatenate([row(i, 0), row(i + 10, 0)])) for i in range(2)]
    assert [future.result(60).tolist() for future in two] == [[0.0, 20.0], [2.0, 22.0]]
    alone = model.submit(row(7, 0))
    began = time.monotonic()
    assert alone.result(60).tolist() == [14.0]
    assert time.monotonic() - began >= 0.1  # it waited for others
    with pytest.raises(InputError):
        model.submit(row(1).astype(np.float64))
    bad = [model.submit(row(-1, 0)), model.submit(row(1, 0))]
    for future in bad:
        with pytest.raises(EngineError, match="negative"):
            future.result(60)
    model.close()


def test_closing_answers_what_waits_for_its_batch():
    model = rows_model(Counting(), max_batch=100, max_delay_ms=10_000.0)
    futures = [model.submit(row(i, 0)) for i in range(3)]
    model.close()
    assert [future.result(1).tolist() for future in futures] == [[0.0], [2.0], [4.0]]


def test_shapes_that_do_not_fit_together_are_batches_of_their_own():
    session = Counting()
    model = rows_model(session, streams=1, max_batch=8, max_delay_ms=100.0)
    futures = [model.submit(row(*range(1, 2 + i % 2))) for i in range(4)]
    assert [future.result(60).tolist() for future in futures] == [[2.0]] * 4
    assert sorted(session.rows) == [1, 1, 1, 1]
    model.close()


@pytest.mark.parametrize("library", BOTH)
def test_batches_answer_as_calls_one_by_one_do(make, tiny_data, library):
    x = [tiny_data[0][i : i + 1] for i in range(24)]
    with load(make(names=[library])) as model:
        wanted = [model(one) for one in x]
        for batch in (1, 4, 7):
            for got, want in zip(model.map(x, batch=batch), wanted, strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    with load(make(names=[library]), max_batch=4, max_delay_ms=1.0) as model:
        for future, want in zip([model.submit(one) for one in x], wanted, strict=True):
            np.testing.assert_allclose(future.result(60), want, rtol=1e-5, atol=1e-6)


def test_outputs_are_written_where_the_caller_wants_them(make, tiny_data):
    x = tiny_data[0][:2]
    for library in BOTH:
        with load(make(names=[library])) as model:
            wanted, place = model(x), np.zeros((2, 5), np.float32)
            model(x, out=place)
            np.testing.assert_array_equal(place, wanted)
            other = np.zeros((2, 5), np.float32)
            model.run({"image": x}, out={"output": other})
            np.testing.assert_array_equal(other, wanted)
            for wrong in ({"no": place}, {"output": place.astype(np.float64)}, {"output": [1]}, {"output": place[:1]}):
                with pytest.raises(InputError, match="out="):
                    model.run({"image": x}, out=wrong)


def test_nan_is_looked_for_where_it_is_asked_for(make, tiny_data):
    x = tiny_data[0][:1].copy()
    x[0, 0, 0, 0] = np.nan
    path = make()
    with load(path) as model:
        model(x)
    with load(path, check_nan=True) as model:
        model(tiny_data[0][:1])
        for _ in range(2):
            with pytest.raises(InputError, match="input 'image' has NaN"):
                model(x)


@pytest.mark.parametrize(
    "wrong", [{"threads": 0}, {"streams": 1.5}, {"warm_up": -1}, {"max_batch": True}, {"max_delay_ms": float("nan")}]
)
def test_an_argument_that_cannot_be_is_refused_before_any_work(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        load("nowhere", **wrong)


def test_reload_takes_over_while_calls_finish_on_the_old_one():
    running, released = threading.Event(), threading.Event()

    class Slow(Fake):
        def run(self, feeds, out=None):
            running.set()
            assert released.wait(60)
            assert not self.closed
            return super().run(feeds, out)

    class New(Fake):
        def run(self, feeds, out=None):
            return {"output": feeds["image"] + 100}

    old, new = Slow(), New()
    fresh = fake_model(new)._live
    model = fake_model(old, again=lambda path: fresh)
    x = np.zeros(1, np.float32)
    with ThreadPoolExecutor(2) as pool:
        under_way = pool.submit(model, x)
        assert running.wait(60)
        reloading = pool.submit(model.reload, "elsewhere")
        while model._live is not fresh:
            time.sleep(0.001)
        assert model(x) == 100  # at once, on the new one
        assert not old.closed
        released.set()
        assert under_way.result(60) == 1
        reloading.result(60)
    assert old.closed == 1
    model.close()
    assert new.closed == 1
    with pytest.raises(InputError, match="closed"):
        model.reload("elsewhere")
    assert new.closed == 2  # what was loaded for nothing is closed


def test_reload_of_another_kind_of_model_keeps_the_old_one():
    other = fake_model(Fake(outputs=("x",)))._live
    model = fake_model(Fake(), again=lambda path: other)
    with pytest.raises(InputError, match="reload takes a model with the inputs and outputs of this one"):
        model.reload("elsewhere")
    assert other.session.closed == 1
    assert model(np.zeros(1, np.float32)) == 1
    model.close()


def test_reload_under_fire(make, tiny_data, tmp_path):
    """Calls from threads while the model is exchanged again and again: every answer is one of the two, none is lost."""
    path = make(names=["onnxruntime"])
    x = tiny_data[0][:1]
    with load(path) as model:
        wanted, ended = model(x), threading.Event()

        def caller():
            count = 0
            while not ended.is_set():
                np.testing.assert_array_equal(model(x), wanted)
                count += 1
            return count

        with ThreadPoolExecutor(4) as pool:
            counts = [pool.submit(caller) for _ in range(4)]
            for _ in range(10):
                model.reload(path)
            ended.set()
            assert all(count.result(60) > 0 for count in counts)


@pytest.mark.parametrize("library", BOTH)
def test_a_hundred_thousand_calls_from_sixteen_threads(make, tiny_data, library):
    threads, calls = 16, 100_000
    x = tiny_data[0]
    with load(make(names=[library])) as model:
        feeds = [x[i : i + 1] for i in range(threads)]
        wanted = [model(feed).tobytes() for feed in feeds]
        assert len(set(wanted)) == threads  # so that a mix-up would show

        def work(i):
            return sum(
                model(feeds[(i + n) % threads]).tobytes() == wanted[(i + n) % threads] for n in range(calls // threads)
            )

        with ThreadPoolExecutor(threads) as pool:
            assert sum(pool.map(work, range(threads))) == calls


@pytest.mark.parametrize("library", BOTH)
def test_arrays_of_any_layout_give_the_same_answer(make, tiny_data, library):
    x = tiny_data[0][:2]
    with load(make(names=[library])) as model:
        wanted = model(x)
        fortran, sliced, frozen = np.asfortranarray(x), np.repeat(x, 2, axis=3)[..., ::2], x.copy()
        frozen.setflags(write=False)
        backwards = np.ascontiguousarray(x[::-1])[::-1]
        misaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
        for value in (fortran, sliced, frozen, backwards, misaligned):
            np.testing.assert_allclose(model(value), wanted, rtol=1e-5, atol=1e-6)
