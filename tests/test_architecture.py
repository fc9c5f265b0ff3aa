"""What holds for the source as a whole: who may import whom, what importing costs, and the faces of the packages."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("runtime", "targets", "optimize")  # the lowest first: none may import what stands after it
VENDORS = {
    "torch",
    "onnx",
    "onnxruntime",
    "openvino",
    "onnxslim",
    "sklearn",
    "scipy",
    "tensorrt",
    "tensorrt_rtx",
    "cuda",
    "keras",
    "tensorflow",
    "xgboost",
    "lightgbm",
}
MAX_LINES = 400

FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
OURS = [path for path in FILES if "examples" not in path.parts]  # the examples are a user's code
LATE = [path for path in OURS if "onnx_torch" in path.parts]  # tables of torch's functions: imported where needed
PLAIN = [path for path in OURS if path not in LATE]

# Before a process's own code: it finds nothing but the standard library, numpy and what is ours.
BLOCK = """
import sys
from importlib.machinery import PathFinder
class Only:
    allowed = {*sys.stdlib_module_names, "numpy", "runtime", "targets", "optimize"}
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, path, target) if name.partition(".")[0] in Only.allowed else None
sys.meta_path[sys.meta_path.index(PathFinder)] = Only
"""


def _id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, cwd=ROOT, check=False
    )


def _imports(tree: ast.AST, package: str) -> set[str]:
    """Every module that a file imports, at any depth of it, by its full name."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            found.add(".".join([*base, *([node.module] if node.module else [])]))
    return found


def _type_checking_only(tree: ast.AST) -> set[ast.AST]:
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                found |= set(ast.walk(child))
    return found


def _imports_at_import_time(tree: ast.Module) -> set[str]:
    """The first parts of what is imported when the module is: not in functions, not for the type checker alone."""
    skipped = _type_checking_only(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            skipped |= set(ast.walk(node)) - {node}
    found = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


def test_there_are_files_to_look_at():
    assert {path.relative_to(ROOT).parts[0] for path in OURS} == set(PACKAGES)
    assert len(OURS) > 30


@pytest.mark.parametrize("path", FILES, ids=_id)
def test_imports_go_down_only(path):
    package = path.relative_to(ROOT).parts[0]
    above = set(PACKAGES[PACKAGES.index(package) + 1 :])
    module = _module(path) if path.name == "__init__.py" else _module(path).rpartition(".")[0]
    imported = _imports(ast.parse(path.read_text()), module)
    assert not {name for name in imported if name.partition(".")[0] in above}


def test_the_search_for_imports_sees_every_form():
    tree = ast.parse("import a.b\ndef f():\n    from c import d\n    from .. import e\n    from .g import h")
    assert _imports(tree, "optimize.steps") == {"a.b", "c", "optimize", "optimize.steps.g"}
    tree = ast.parse(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\nelse:\n    import scipy\n"
        "try:\n    import onnx\nexcept ImportError:\n    pass\nclass A:\n    import sklearn\n"
        "def f():\n    import openvino\n"
    )
    assert _imports_at_import_time(tree) & VENDORS == {"scipy", "onnx", "sklearn"}


@pytest.mark.parametrize("path", PLAIN, ids=_id)
def test_no_vendor_library_is_imported_with_a_module(path):
    assert not _imports_at_import_time(ast.parse(path.read_text())) & VENDORS


def test_what_is_imported_late_is_there():
    assert LATE


@pytest.mark.parametrize("path", FILES, ids=_id)
def test_files_are_short_and_finished(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    for word in ("TO" + "DO", "FIX" + "ME"):
        assert word not in text


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[len(ROOT.parts)] != "optimize"], ids=_id)
def test_what_a_device_runs_is_python_3_10(path):
    ast.parse(path.read_text(), feature_version=(3, 10))


@pytest.mark.parametrize("package", ["runtime", "targets"])
def test_import_loads_the_standard_library_and_numpy_only(package):
    code = f"""
import json, sys
before = set(sys.modules)  # a virtual environment may load things of its own at start
from {package} import *
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    done = _python(code)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert {package, "runtime", "numpy"} <= loaded
    assert not loaded - set(sys.stdlib_module_names) - {package, "runtime", "numpy"}


def test_every_module_of_runtime_and_targets_imports_where_only_numpy_is():
    modules = [_module(path) for path in PLAIN if path.relative_to(ROOT).parts[0] != "optimize"]
    done = _python(
        f"{BLOCK}\nimport importlib\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\nprint('all')",
        *modules,
    )
    assert (done.returncode, done.stdout) == (0, "all\n"), done.stderr


def test_every_module_imports_first_of_all_and_loads_no_vendor_library():
    code = f"""
import importlib, json, sys
loaded, failed = {{}}, {{}}
for name in sys.argv[1:]:
    for other in [m for m in sys.modules if m.partition(".")[0] in {PACKAGES!r}]:
        del sys.modules[other]
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = repr(error)
    loaded[name] = sorted({VENDORS!r} & set(sys.modules))
print(json.dumps([loaded, failed]))
"""
    modules = [_module(path) for path in PLAIN if path.name != "__main__.py"]
    done = _python(code, *modules)
    assert done.returncode == 0, done.stderr
    loaded, failed = json.loads(done.stdout)
    assert set(loaded) == set(modules)
    assert failed == {}
    assert {name: vendors for name, vendors in loaded.items() if vendors} == {}


def test_importing_opens_no_socket():
    code = """
import importlib, sys
opened = []
sys.addaudithook(lambda event, arguments: opened.append(event) if event.startswith("socket.") else None)
for name in sys.argv[1:]:
    importlib.import_module(name)
import targets
for name in targets.names():
    targets.get(name).why_not()  # imports the library, where it is there
ours = list(opened)
import socket
socket.socket().close()
print(ours, "socket.__new__" in opened)
"""
    done = _python(code, *[_module(path) for path in OURS if path.name != "__main__.py"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[] True"  # nothing of ours, and the trap works


def test_the_face_of_runtime():
    import runtime

    face = {
        "Bundle", "BundleError", "EngineError", "EngineMissing", "Error", "InputError", "Model", "NoEngineError",
        "TensorSpec", "WorkError", "load",
    }  # fmt: skip
    assert set(runtime.__all__) == face
    assert len(runtime.__all__) == len(face)
    assert all(hasattr(runtime, name) for name in face)


def test_the_face_of_optimize():
    pytest.importorskip("pydantic", reason="pip install 'edge-optimize[optimize]'")
    import optimize

    face = {"Recipe", "Report", "run"}
    assert set(optimize.__all__) == face
    assert len(optimize.__all__) == len(face)
    assert all(callable(getattr(optimize, name)) for name in face)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = optimize.no_such_name


def test_help_names_every_command():
    pytest.importorskip("typer", reason="pip install 'edge-optimize[optimize]'")
    done = subprocess.run(
        [sys.executable, "-m", "optimize", "--help"], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    listed = {line.split()[0] for line in done.stdout.partition("Commands")[2].splitlines() if line.split()}
    assert {"demo", "run", "init", "inspect", "export", "eval", "bench", "doctor"} <= listed


def test_the_block_blocks():
    code = f"{BLOCK}\nimport importlib.util, numpy\nprint(importlib.util.find_spec('pytest'))\nimport pytest"
    done = _python(code)
    assert (done.returncode, done.stdout) == (1, "None\n")
    assert "No module named 'pytest'" in done.stderr


def test_without_its_extra_the_command_says_which_one():
    done = _python(
        f"{BLOCK}\nimport runpy\nsys.argv = ['optimize', 'doctor']\nrunpy.run_module('optimize', run_name='__main__')"
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "pip install 'edge-optimize[" in done.stderr
    assert "Traceback" not in done.stderr
