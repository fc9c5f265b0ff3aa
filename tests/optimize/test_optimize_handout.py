"""The papers of a bundle: its code runs as it stands, its bill of materials is one."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from optimize import handout
from runtime import engines, load, writer
from runtime.bundle import EngineEntry, Fallback
from runtime.pre import PreSpec
from runtime.pre import names as pre_kinds
from runtime.tensors import Specs, TensorSpec

SPECS = Specs((TensorSpec("image", "float32", ("batch", 3, 8, 8)),), (TensorSpec("output", "float32", ("batch", 5)),))
AXES = {"batch": {"min": 1, "best": 2, "max": 4}}
OPTIONS = {
    "openvino": {"threads": 1, "precision": "f32"},
    "onnxruntime": {"threads": 1, "spinning": False},
    **({"executorch": {"threads": 1}} if importlib.util.find_spec("executorch") else {}),
}
MADE_WITH = {"edge-optimize": "0.1.0", "numpy": np.__version__, "no-such-package": "1"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, tiny_onnx) -> Path:
    folder = tmp_path_factory.mktemp("handout")
    entries = []
    for name, options in OPTIONS.items():
        (folder / name).mkdir()
        files = engines.get(name).compile(tiny_onnx, folder / name, options)
        made = {role: str(file) for role, file in files.items()}
        entries.append(EngineEntry(f"{name}-fp32", name, name, made, str(tiny_onnx), options, precision="f32 5 of 5"))
    entries.append(EngineEntry("tensorrt-int8", "tensorrt", "tensorrt", {}, str(tiny_onnx)))
    return writer.write(
        folder / "bundle", name="tiny", specs=SPECS, engines=entries, axes=AXES, made_with=MADE_WITH,
        fallback=Fallback({"model": str(tiny_onnx)}, {"onnxruntime": {}}),
        pages=lambda entries: handout.pages("tiny", SPECS, AXES, entries, MADE_WITH),
    ).path  # fmt: skip


def code(bundle: Path, engine: str, language: str) -> str:
    part = (bundle / "USE.md").read_text().split(f"## {engine}-fp32 ")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", part, re.DOTALL)[0]


def first(text: str) -> float:
    return float(re.findall(r"-?[0-9]+\.?[0-9]*(?:e-?[0-9]+)?", text)[0])


@pytest.fixture
def wanted(bundle) -> float:
    with load(bundle) as model:
        return float(model(np.zeros((2, 3, 8, 8), np.float32))[0, 0])


@pytest.mark.parametrize("engine", OPTIONS)
def test_its_python_runs_as_it_stands(bundle, engine, wanted):
    done = subprocess.run(
        [sys.executable, "-c", code(bundle, engine, "python")], cwd=bundle, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert first(done.stdout) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("language", ["c", "cpp"])
def test_its_c_for_openvino_compiles_and_runs_as_it_stands(bundle, language, wanted, tmp_path):
    compiler = shutil.which("gcc" if language == "c" else "g++")
    openvino = Path(pytest.importorskip("openvino", reason="pip install 'edge-optimize[openvino]'").__file__).parent
    if compiler is None:
        pytest.skip("no C compiler here: apt-get install gcc g++")
    (tmp_path / f"main.{language}").write_text(code(bundle, "openvino", language))
    library = next((openvino / "libs").glob(f"libopenvino{'_c' if language == 'c' else ''}.so.*"))
    command = [
        compiler, "-Wall", "-Werror", f"main.{language}", "-o", "main", f"-I{openvino / 'include'}",
        str(library), f"-Wl,-rpath,{openvino / 'libs'}", f"-Wl,-rpath-link,{openvino / 'libs'}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ran = subprocess.run([tmp_path / "main"], cwd=bundle, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert first(ran.stdout) == pytest.approx(wanted, rel=1e-4)


def test_its_cpp_for_executorch_is_what_executorch_has(bundle, tmp_path):
    compiler = shutil.which("g++") or pytest.skip("no C++ compiler here: apt-get install g++")
    there = pytest.importorskip("executorch", reason="pip install 'edge-optimize[executorch]'")
    headers = Path(there.__path__[0]) / "include"
    (tmp_path / "main.cpp").write_text(code(bundle, "executorch", "cpp"))
    command = [
        compiler, "-std=c++17", "-w", "-fsyntax-only", "-DC10_USING_CUSTOM_GENERATED_MACROS", f"-I{headers}",
        f"-I{headers}/executorch/runtime/core/portable_type/c10", "main.cpp",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_says_what_goes_in_and_what_travels_as_its_source(bundle):
    page = (bundle / "USE.md").read_text()
    assert "| `image` | float32 | batch x 3 x 8 x 8 |" in page
    assert "`batch`: from 1 to 4, measured at 2." in page
    assert "| tensorrt-int8 | tensorrt | travels as its source | not measured |" in page
    assert "## tensorrt-int8" not in page


def test_a_name_that_would_end_a_string_brings_no_code():
    specs = Specs((TensorSpec('a"b', "float32", (1,)),), SPECS.outputs)
    entry = {
        "name": "x", "engine": "openvino", "target": "openvino", "precision": "f32", "measured": {}, "options": {},
        "files": {"model": "x/model.xml", "weights": "x/model.bin"},
    }  # fmt: skip
    assert "```cpp" not in handout.pages("t", specs, {}, [entry], {})["USE.md"]


def test_its_bill_of_materials_is_cyclonedx(bundle):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (bundle / "sbom.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    found = json.loads(text)
    tools = {tool["name"]: tool for tool in found["metadata"]["tools"]["components"]}
    assert tools["numpy"]["licenses"][0]["license"]["name"]
    assert tools["numpy"]["purl"] == f"pkg:pypi/numpy@{np.__version__}"
    assert "licenses" not in tools["no-such-package"]
    assert [one["name"] for one in found["components"]] == [
        *(f"{name}-fp32" for name in OPTIONS), "tensorrt-int8",
    ]  # fmt: skip


def test_there_is_a_dockerfile_for_each_target(bundle):
    assert sorted(path.name for path in bundle.glob("Dockerfile.*")) == [
        f"Dockerfile.{name}" for name in sorted([*OPTIONS, "tensorrt"])
    ]  # fmt: skip
    assert "pip install --no-cache-dir 'edge-optimize[openvino]==0.1.0'" in (bundle / "Dockerfile.openvino").read_text()


def test_raw_samples_are_said_with_the_libraries_that_read_them():
    pre = (PreSpec("image", ("image",), {}, {}), PreSpec("text", ("first", "second"), {}, {}))
    page = handout.pages("m", SPECS, AXES, [], MADE_WITH, pre=pre)["USE.md"]
    assert 'answer = model("cat.jpg", "a text", "a text")' in page
    assert "pip install 'edge-optimize[image,text]'" in page
    assert "raw" not in handout.pages("m", SPECS, AXES, [], MADE_WITH)["USE.md"].lower()


def test_every_kind_of_preprocessing_has_a_sample_to_show():
    assert set(handout._RAW) == set(pre_kinds())
