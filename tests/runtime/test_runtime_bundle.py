import copy
import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runtime import bundle as bundles
from runtime import load, writer
from runtime.bundle import Bundle, EngineEntry, Fallback
from runtime.errors import BundleError, InputError
from runtime.tensors import Specs, TensorSpec

SPECS = Specs((TensorSpec("image", "float32", ("batch", 3)),), (TensorSpec("scores", "int64", ("batch",)),))
AXES = {"batch": {"min": 1, "best": 1, "max": 8}}
LIBRARIES = {"onnxruntime": {"threads": 1}, "reference": {}}

json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=10,
)


def put(folder: Path, files: dict[str, bytes]) -> dict[str, str]:
    """Files on the build host, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {name: str(folder / name) for name in files}


def write(tmp_path: Path, out: Path, mark: bytes = b"", **changes) -> Bundle:
    """A bundle with two engines that come from one source, an engine that could not be built, and a report."""
    made = put(tmp_path / "build", {"model.xml": b"<net/>" + mark, "model.bin": b"\0\1\2", "model.onnx": b"source"})
    plain = put(tmp_path / "plain", {"model.onnx": b"plain"})
    report = put(tmp_path / "reports", {"report.json": b"{}", "report.md": b"# report"})
    entries = (
        EngineEntry(
            name="first int8", target="openvino", engine="openvino", source=made["model.onnx"],
            files={"model": made["model.xml"], "weights": made["model.bin"]}, options={"threads": 2},
            needs={"instruction_sets_any": ["avx2"]}, precision="int8 3 of 4 ops", measured={"drop": 0.25},
        ),
        EngineEntry("second", "onnxruntime", "onnxruntime", {"model": plain["model.onnx"]}, made["model.onnx"]),
        EngineEntry("elsewhere", "tensorrt", "tensorrt", {}, made["model.onnx"]),
    )  # fmt: skip
    given = {
        "name": "tiny", "specs": SPECS, "engines": entries, "axes": AXES, "made_with": {"numpy": "2"},
        "fallback": Fallback({"model": plain["model.onnx"]}, LIBRARIES, {"as": "second"}),
        "report": [Path(file) for file in report.values()],
    }  # fmt: skip
    return writer.write(out, **{**given, **changes})


@pytest.fixture
def out(tmp_path):
    write(tmp_path, tmp_path / "out" / "bundle")
    return tmp_path / "out" / "bundle"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A bundle for tests that change its manifest only."""
    folder = tmp_path_factory.mktemp("shared")
    write(folder, folder / "bundle")
    return folder / "bundle", (folder / "bundle" / "manifest.json").read_text()


def change(out: Path, edit) -> None:
    data = json.loads((out / "manifest.json").read_text())
    edit(data)
    (out / "manifest.json").write_text(json.dumps(data))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_was_written_is_read(tmp_path):
    written = write(tmp_path, tmp_path / "bundle")
    shutil.rmtree(tmp_path / "build")
    shutil.rmtree(tmp_path / "plain")
    read = bundles.read(tmp_path / "bundle")
    assert read == written
    assert (read.name, read.specs, read.axes, read.made_with) == ("tiny", SPECS, AXES, {"numpy": "2"})
    assert [entry.name for entry in read.engines] == ["first int8", "second", "elsewhere"]
    first, second, elsewhere = read.engines
    assert (first.target, first.engine, first.options) == ("openvino", "openvino", {"threads": 2})
    assert (first.needs, first.precision) == ({"instruction_sets_any": ["avx2"]}, "int8 3 of 4 ops")
    assert first.measured == {"drop": 0.25}
    assert {role: path.read_bytes() for role, path in read.resolve(first.files).items()} == {
        "model": b"<net/>",
        "weights": b"\0\1\2",
    }
    assert elsewhere.files == {}
    for entry in read.engines:
        assert (read.path / entry.source).read_bytes() == b"source"
    assert read.resolve(second.files)["model"].read_bytes() == b"plain"
    assert read.resolve(read.fallback.files)["model"].read_bytes() == b"plain"
    assert (read.fallback.engines, read.fallback.measured) == (LIBRARIES, {"as": "second"})
    assert (read.path / "report" / "report.md").read_bytes() == b"# report"


def test_a_bundle_may_be_moved_and_reached_through_a_link(out, tmp_path):
    shutil.move(out, tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert bundles.read(tmp_path / "elsewhere").engines == bundles.read(str(tmp_path / "link")).engines


def test_equal_bytes_are_stored_once(out):
    stored = list(contents(out).values())
    assert stored.count(b"source") == 1
    assert stored.count(b"plain") == 1


def test_every_file_has_its_checksum_and_no_place_of_the_build_host_is_in_it(out, tmp_path):
    files = contents(out)
    assert set(bundles.read(out).files) == set(files) - {"manifest.json"}
    assert not any(str(tmp_path).encode() in content for content in files.values())


def test_one_changed_byte_is_seen_in_every_file(out):
    for name, content in contents(out).items():
        if name != "manifest.json":
            (out / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            with pytest.raises(BundleError, match="sha256") as caught:
                bundles.read(out)
            assert name in str(caught.value)
            (out / name).write_bytes(content)
    bundles.read(out)


def test_a_missing_file_is_seen(out):
    for name, content in contents(out).items():
        (out / name).unlink()
        with pytest.raises(BundleError) as caught:
            bundles.read(out)
        assert name in str(caught.value)
        (out / name).write_bytes(content)


def test_a_folder_in_a_files_place_is_seen(out):
    (out / "report" / "report.md").unlink()
    (out / "report" / "report.md").mkdir()
    with pytest.raises(BundleError, match="missing"):
        bundles.read(out)


@pytest.mark.parametrize("where", ["files", "role", "source", "fallback"])
@pytest.mark.parametrize("kind", ["parent", "within and out", "absolute", "backslash", "drive"])
def test_a_path_that_leads_out_is_refused(out, where, kind):
    secret = out.parent / "secret"
    secret.write_bytes(b"secret")
    name = {
        "parent": "../secret",
        "within and out": "fallback/../../secret",
        "absolute": str(secret),
        "backslash": "..\\secret",
        "drive": "C:secret",
    }[kind]
    if kind in ("backslash", "drive"):
        (out / name).write_bytes(b"secret")  # here a name like any other, on another system not

    def edit(data):
        data["files"][name] = {"sha256": bundles.sha256(secret), "bytes": 6}
        if where == "role":
            data["engines"][0]["files"]["model"] = name
        elif where == "source":
            data["engines"][0]["source"] = name
        elif where == "fallback":
            data["fallback"]["files"]["model"] = name

    change(out, edit)
    with pytest.raises(BundleError, match="leads out"):
        bundles.read(out)


def test_a_link_out_is_refused(out):
    secret = out.parent / "secret"
    shutil.copytree(out / "fallback", secret)
    (out / "fallback" / "model.onnx").unlink()
    (out / "fallback" / "model.onnx").symlink_to(secret / "model.onnx")
    with pytest.raises(BundleError, match="leads out"):
        bundles.read(out)
    shutil.rmtree(out / "fallback")
    (out / "fallback").symlink_to(secret)
    with pytest.raises(BundleError, match="leads out"):
        bundles.read(out)


def test_a_link_inside_is_refused_too(out):
    (out / "fallback" / "model.onnx").rename(out / "fallback" / "other.onnx")
    (out / "fallback" / "model.onnx").symlink_to("other.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        bundles.read(out)


def test_a_link_to_itself_is_refused(out):
    (out / "fallback" / "model.onnx").unlink()
    (out / "fallback" / "model.onnx").symlink_to("model.onnx")
    with pytest.raises(BundleError):
        bundles.read(out)


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "\ud800", "", ".", "fallback", "fallback/model.onnx/x"])
def test_a_name_that_no_file_can_have_is_refused(out, name):
    change(out, lambda data: data["files"].update({name: {"sha256": "0" * 64, "bytes": 6}}))
    with pytest.raises(BundleError):
        bundles.read(out)


def test_a_file_that_is_named_without_its_checksum_is_refused(out):
    for name in list(bundles.read(out).files):
        if name.startswith("report/"):
            continue
        before = (out / "manifest.json").read_text()
        change(out, lambda data, name=name: data["files"].pop(name))
        with pytest.raises(BundleError, match="without its sha256"):
            bundles.read(out)
        (out / "manifest.json").write_text(before)


def test_a_newer_format_says_how_to_read_it(out):
    change(out, lambda data: data.update(schema=bundles.SCHEMA + 1, engines="of a form not known yet"))
    with pytest.raises(BundleError, match="pip install --upgrade edge-optimize"):
        bundles.read(out)


def test_a_huge_manifest_is_not_read(out, monkeypatch):
    monkeypatch.setattr(bundles, "_MANIFEST_LIMIT", (out / "manifest.json").stat().st_size - 1)
    with pytest.raises(BundleError, match="not read"):
        bundles.read(out)


@pytest.mark.parametrize("path", ["nowhere", "a_file", "empty", "loop"])
def test_what_is_no_bundle_is_refused(tmp_path, path):
    (tmp_path / "a_file").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(BundleError, match="not a bundle"):
        bundles.read(tmp_path / path)


@given(st.binary(max_size=200))
@example(b"\xff\xfe{}")
@example(b"[" * 100_000)
@example(b'{"schema": ' + b"9" * 5000 + b"}")
def test_a_manifest_of_any_bytes_is_refused(tmp_path_factory, raw):
    folder = tmp_path_factory.getbasetemp() / "any bytes"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_bytes(raw)
    with pytest.raises(BundleError):
        bundles.read(folder)


@given(json_values)
@example({"schema": float("nan")})
def test_a_manifest_of_any_json_is_refused(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "any json"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(BundleError):
        bundles.read(folder)


def places(data, prefix=()):
    """Every place in a JSON value."""
    yield prefix
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from places(value, (*prefix, key))


@given(st.data())
def test_a_manifest_with_anything_put_anywhere_is_read_or_refused(shared, data):
    folder, text = shared
    manifest = json.loads(text)
    place = data.draw(st.sampled_from(list(places(manifest))[1:]))
    inner = manifest
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = data.draw(json_values)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    try:
        assert isinstance(bundles.read(folder), Bundle)
    except BundleError:
        pass
    finally:
        (folder / "manifest.json").write_text(text)


@pytest.mark.parametrize("value", ["Infinity", "-Infinity", "NaN", "1e999"])
@pytest.mark.parametrize("place", ["schema", "axis"])
def test_numbers_that_are_none_are_refused(out, place, value):
    text = (out / "manifest.json").read_text()
    assert bundles.read(out)
    old = f'"schema": {bundles.SCHEMA}' if place == "schema" else '"max": 8'
    assert old in text
    (out / "manifest.json").write_text(text.replace(old, old[:-1] + value))
    with pytest.raises(BundleError):
        bundles.read(out)


@pytest.mark.parametrize("dtype", [",4<", "(1,f4", "no such", "", None, 5, [["a", "f4"]], {"names": []}])
def test_a_dtype_that_no_tensor_has_is_refused(out, dtype):
    change(out, lambda data: data["inputs"][0].update(dtype=dtype))
    with pytest.raises(BundleError):
        bundles.read(out)


@pytest.mark.parametrize("axis", [[True], [1], "max", 5, None, {"max": [1]}, {"max": True}])
def test_an_axis_that_has_no_sizes_is_refused(out, axis):
    change(out, lambda data: data["axes"].update(batch=axis))
    with pytest.raises(BundleError):
        bundles.read(out)


def test_a_new_bundle_takes_the_old_ones_place(out, tmp_path):
    (out / "left from before").write_bytes(b"")
    write(tmp_path, out, b"new")
    assert (out / bundles.read(out).engines[0].files["model"]).read_bytes() == b"<net/>new"
    assert not (out / "left from before").exists()
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]


def full_disk(times):
    """Copies `times` files, then finds the disk full."""
    left, real = [times], shutil.copyfile

    def copyfile(source, target):
        if not left[0]:
            Path(target).write_bytes(b"ha")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= 1
        return real(source, target)

    return copyfile


@pytest.mark.parametrize("old", [True, False], ids=["an old one", "none yet"])
@pytest.mark.parametrize("fault", ["disk", "nan", "object", "no file", "unread", "kill"])
def test_a_write_that_fails_leaves_all_as_it_was(tmp_path, monkeypatch, old, fault):
    out = tmp_path / "out" / "bundle"
    if old:
        write(tmp_path, out)
    before = contents(tmp_path / "out") if old else {}
    changes, error = {}, OSError
    if fault == "disk":
        monkeypatch.setattr(writer.shutil, "copyfile", full_disk(2))
    elif fault == "nan":
        changes, error = {"made_with": {"x": float("nan")}}, ValueError
    elif fault == "object":
        changes, error = {"made_with": {"x": object()}}, TypeError
    elif fault == "no file":
        changes = {"fallback": Fallback({"model": str(tmp_path / "nowhere")}, {"reference": {}})}
    elif fault == "unread":
        changes, error = {"axes": {"batch": {"min": "one"}}}, BundleError
    elif fault == "kill":
        error = KeyboardInterrupt

        def interrupted(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(writer, "read", interrupted)
    with pytest.raises(error):
        write(tmp_path, out, b"new", **changes)
    monkeypatch.undo()
    assert contents(tmp_path / "out") == before
    assert {path.name for path in (tmp_path / "out").iterdir()} == ({"bundle"} if old else set())
    if old:
        bundles.read(out)


def test_a_rename_that_fails_keeps_the_old_one(out, tmp_path, monkeypatch):
    before, real = contents(out), Path.rename

    def rename(self, target):
        if Path(target) == out and self.name != ".bundle-old":
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="Permission"):
        write(tmp_path, out, b"new")
    monkeypatch.undo()
    assert out.is_dir()
    assert contents(out) == before
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]


def large(tmp_path: Path, folder: str, weights: bytes) -> dict[str, str]:
    files = put(tmp_path / folder, {"model.onnx": folder.encode(), "model.onnx.data": weights})
    return {"model": files["model.onnx"], "data": files["model.onnx.data"]}


def test_external_data_stays_beside_its_model(tmp_path):
    """An ONNX file names its weights' file; that name, beside the model, must hold the model's own bytes."""
    plain = large(tmp_path, "plain", b"weights")
    entry = EngineEntry("plain", "onnxruntime", "onnxruntime", plain, plain["model"])
    read = write(tmp_path, tmp_path / "bundle", engines=(entry,), fallback=Fallback(plain, {"reference": {}}))
    for model in (read.engines[0].files["model"], read.engines[0].source, read.fallback.files["model"]):
        assert (read.path / model).read_bytes() == b"plain"
        assert (read.path / model).with_name("model.onnx.data").read_bytes() == b"weights"


def test_equal_weights_of_different_models_stay_beside_each(tmp_path):
    plain, fused = large(tmp_path, "plain", b"weights"), large(tmp_path, "fused", b"weights")
    entry = EngineEntry("fused", "onnxruntime", "onnxruntime", fused, fused["model"])
    read = write(tmp_path, tmp_path / "bundle", engines=(entry,), fallback=Fallback(plain, {"reference": {}}))
    for model, content in ((read.engines[0].files["model"], b"fused"), (read.fallback.files["model"], b"plain")):
        assert (read.path / model).read_bytes() == content
        assert (read.path / model).with_name("model.onnx.data").read_bytes() == b"weights"


def test_the_weights_of_an_engine_and_of_its_source_are_kept_apart(tmp_path):
    """A fused file and its source are both `model.onnx` with `model.onnx.data`, of different bytes."""
    fused, source = large(tmp_path, "fused", b"fused weights"), large(tmp_path, "source", b"weights as they were")
    entry = EngineEntry("one", "onnxruntime", "onnxruntime", fused, source["model"])
    read = write(tmp_path, tmp_path / "bundle", engines=(entry,), fallback=Fallback(source, {"reference": {}}))
    entry = read.engines[0]
    for model, weights in ((entry.files["model"], b"fused weights"), (entry.source, b"weights as they were")):
        assert (read.path / model).with_name("model.onnx.data").read_bytes() == weights
    assert (read.path / entry.files["data"]).read_bytes() == b"fused weights"


def test_two_files_of_one_name_are_both_kept(tmp_path):
    one, two = put(tmp_path / "a", {"part.bin": b"one"}), put(tmp_path / "b", {"part.bin": b"two"})
    files = {"model": one["part.bin"], "weights": two["part.bin"]}
    entry = EngineEntry("x", "openvino", "openvino", files, one["part.bin"])
    read = write(tmp_path, tmp_path / "bundle", engines=(entry,))
    found = {role: path.read_bytes() for role, path in read.resolve(read.engines[0].files).items()}
    assert found == {"model": b"one", "weights": b"two"}


def test_writing_changes_nothing_of_what_it_was_given(tmp_path):
    made = put(tmp_path / "build", {"model.onnx": b"source"})
    entry = EngineEntry("x", "reference", "reference", {"model": made["model.onnx"]}, made["model.onnx"])
    before = copy.deepcopy(entry)
    write(tmp_path, tmp_path / "bundle", engines=(entry,))
    assert entry == before


@pytest.mark.parametrize("version", sorted(path.name for path in (Path(__file__).parent / "bundles").iterdir()))
def test_a_bundle_of_every_version_is_read_and_runs(version, tmp_path):
    pytest.importorskip("onnxruntime", reason="pip install 'edge-optimize[onnxruntime]'")
    folder = Path(__file__).parent / "bundles" / version
    assert json.loads((folder / "manifest.json").read_text())["schema"] == int(version)
    with load(folder, rebuild=False, check=True) as model:
        assert model.engine == "onnxruntime-fp32"
        np.testing.assert_allclose(model(np.array([[1, 2, 3], [0, 0, 0]], np.float32)), [[0, 6], [0.5, 0]])


def test_there_is_a_bundle_of_every_version():
    assert {path.name for path in (Path(__file__).parent / "bundles").iterdir()} == {
        str(version) for version in range(1, bundles.SCHEMA + 1)
    }


def test_a_size_that_lies_is_seen_before_the_file_is_read(out, monkeypatch):
    def never(path):
        raise AssertionError(path)

    change(out, lambda data: data["files"]["fallback/model.onnx"].update(bytes=10**15))
    monkeypatch.setattr(bundles, "sha256", lambda path: never(path) if path.name == "model.onnx" else real(path))
    with pytest.raises(BundleError, match=r"fallback/model\.onnx has 5 bytes, and was written with 1000000000000000"):
        bundles.read(out)


real = bundles.sha256


@pytest.mark.parametrize(
    "golden",
    [
        5, {"outputs": {}, "tolerance": 1}, {"outputs": {}, "tolerance": 2.0}, {"outputs": {}, "tolerance": -1.0},
        {"outputs": {"y": "no such file"}, "tolerance": 0.1}, {"tolerance": 0.1},
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["engine", "fallback"])
def test_golden_answers_that_cannot_be_are_refused(out, golden, where):
    change(out, lambda data: (data["engines"][0] if where == "engine" else data["fallback"]).update(golden=golden))
    with pytest.raises(BundleError):
        bundles.read(out)


def external(path: Path, place: str, inner: str = "") -> None:
    """An ONNX file whose weights lie elsewhere, in the graph, in a subgraph or in a function."""
    onnx = pytest.importorskip("onnx", reason="pip install 'edge-optimize[optimize]'")
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", place), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    model = onnx.ModelProto(ir_version=9)
    graph = model.graph
    if inner == "attribute":
        graph.node.add(op_type="Constant").attribute.add(name="value", type=4).t.CopyFrom(tensor)
    elif inner == "subgraph":
        graph.node.add(op_type="If").attribute.add(name="then_branch", type=5).g.initializer.append(tensor)
    elif inner == "function":
        model.functions.add(name="f").node.add(op_type="Constant").attribute.add(name="value", type=4).t.CopyFrom(
            tensor
        )
    elif inner == "sparse":
        graph.sparse_initializer.add().values.CopyFrom(tensor)
    elif inner == "training":
        model.training_info.add().algorithm.initializer.append(tensor)
    else:
        graph.initializer.append(tensor)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("inner", ["", "attribute", "subgraph", "function", "sparse", "training"])
@pytest.mark.parametrize("place", ["../secret", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", "other.data", "a\\b"])
def test_weights_that_an_onnx_file_takes_from_elsewhere_are_refused(tmp_path, place, inner):
    (tmp_path / "other.data").write_bytes(b"1234")  # beside the file, but it does not come into the bundle
    external(tmp_path / "hostile.onnx", place, inner)
    hostile = Fallback({"model": str(tmp_path / "hostile.onnx")}, {"reference": {}})
    with pytest.raises(BundleError, match="takes weights from"):
        write(tmp_path, tmp_path / "out" / "bundle", fallback=hostile)


def test_what_leads_to_a_tensor_is_what_onnx_has():
    """`runtime.external` walks every message of onnx.proto in which a tensor can be."""
    onnx = pytest.importorskip("onnx", reason="pip install 'edge-optimize[optimize]'")
    from runtime.external import _MODEL

    names = {
        "model": "ModelProto", "training": "TrainingInfoProto", "graph": "GraphProto", "function": "FunctionProto",
        "node": "NodeProto", "attribute": "AttributeProto", "sparse": "SparseTensorProto", "tensor": "TensorProto",
        "entry": "StringStringEntryProto",
    }  # fmt: skip
    ours = {proto: short for short, proto in names.items()}
    for short, proto in names.items():
        if short == "entry":
            continue
        fields = getattr(onnx, proto).DESCRIPTOR.fields
        wanted = {
            field.number: ours[field.message_type.name]
            for field in fields
            if field.message_type is not None and field.message_type.name in ours
            and (field.message_type.name != "StringStringEntryProto" or field.name == "external_data")
        }  # fmt: skip
        assert _MODEL[short] == wanted, short


@pytest.fixture
def two(out, tmp_path):
    write(tmp_path / "second", tmp_path / "second" / "bundle", b"second", name="other")
    writer.join(tmp_path / "both", {"detector": out, "classifier": tmp_path / "second" / "bundle"})
    return tmp_path / "both"


def test_several_models_are_told_apart_by_name(two):
    assert bundles.read(two, "detector").name == "tiny"
    assert bundles.read(two, "classifier").name == "other"
    with pytest.raises(InputError, match=r"several models; name one, model=\.\.\.: classifier, detector"):
        bundles.read(two)
    with pytest.raises(InputError, match="did you mean 'detector'"):
        bundles.read(two, "detecter")
    with pytest.raises(InputError, match="unknown model of this bundle 'x'"):
        bundles.read(two / "detector", "x")
    assert bundles.read(two / "detector", "tiny").name == "tiny"


@pytest.mark.parametrize("folder", ["../out/bundle", "/", "nowhere", "link", 5])
def test_a_model_that_is_not_in_its_bundle_is_refused(two, folder):
    (two / "link").symlink_to(two / "detector")
    change(two, lambda data: data["models"]["detector"].update(folder=folder))
    with pytest.raises(BundleError):
        bundles.read(two, "detector")


def test_a_model_in_a_bundle_of_several_is_the_one_that_was_joined(two):
    change(two / "detector", lambda data: data.update(name="another"))
    with pytest.raises(BundleError, match="sha256"):
        bundles.read(two, "detector")
    bundles.read(two, "classifier")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "/a", "c:", "manifest.json", "a\nb"])
def test_a_name_that_is_no_folders_is_no_models(out, tmp_path, name):
    with pytest.raises(InputError, match="cannot be a model's name"):
        writer.join(tmp_path / "both", {name: out, "b": out})
    assert not (tmp_path / "both").exists()
    with pytest.raises(InputError, match="at least two"):
        writer.join(tmp_path / "both", {"a": out})
