import subprocess
import sys
from pathlib import Path

import pytest

import optimize
from optimize.usercode import load_callable, split_place
from runtime.errors import InputError

ROOT = Path(optimize.__file__).parent.parent


@pytest.fixture(autouse=True)
def _import_path_as_before(monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])


def write(folder: Path, text: str, name: str = "model.py") -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return f"{folder / name}:build"


def test_two_files_of_one_name_do_not_collide(tmp_path):
    first = load_callable(write(tmp_path / "a", "def build(): return 'a'", "twin.py"), "model")
    second = load_callable(write(tmp_path / "b", "def build(): return 'b'", "twin.py"), "model")
    assert (first(), second()) == ("a", "b")
    assert "twin" not in sys.modules and first.__module__ != second.__module__


def test_a_file_is_imported_once(tmp_path):
    place = write(tmp_path, "count = []\ndef build(): count.append(1); return len(count)")
    assert load_callable(place, "model")() == 1
    assert load_callable(place, "model")() == 2


def test_a_file_imports_what_lies_beside_it(tmp_path):
    (tmp_path / "layers_beside.py").write_text("WIDTH = 7")
    assert load_callable(write(tmp_path, "from layers_beside import WIDTH\ndef build(): return WIDTH"), "model")() == 7


def test_the_folder_of_the_user_comes_last_on_the_path(tmp_path):
    load_callable(write(tmp_path, "def build(): pass"), "model")
    assert sys.path[-1] == str(tmp_path.resolve()) and sys.path.count(str(tmp_path.resolve())) == 1


@pytest.mark.parametrize("name", ["targets", "runtime", "optimize", "data", "types", "numpy"])
def test_a_file_beside_it_does_not_become_ours(tmp_path, name):
    write(tmp_path, "raise SystemExit('the wrong file was imported')", f"{name}.py")
    place = write(tmp_path, "def build(): return 'mine'")
    code = (
        "from optimize.usercode import load_callable\n"
        f"assert load_callable({place!r}, 'model')() == 'mine'\n"
        "import numpy, optimize.data, optimize.plan, runtime.worker, targets, types\n"
        "print(optimize.__file__, runtime.__file__, targets.__file__, optimize.data.__file__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [Path(file).is_relative_to(ROOT) for file in done.stdout.split()] == [True] * 4


@pytest.mark.parametrize("place", ["model.py", "model.py:", ":build", "model.py:a.b", "model.py:2", ""])
def test_what_is_not_file_and_name_is_refused(place):
    with pytest.raises(InputError, match=r"not of the form file\.py:name"):
        split_place(place)


def test_a_place_is_a_file_and_a_name():
    assert split_place("a/b.py:build") == (Path("a/b.py"), "build")
    assert split_place("C:/a/b.py:build") == (Path("C:/a/b.py"), "build")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no such file: .*model\.py \(the model"):
        load_callable(f"{tmp_path}/model.py:build", "model")
    with pytest.raises(InputError, match="no such file"):
        load_callable(f"{tmp_path}:build", "model")


def test_a_name_that_is_not_there_names_the_nearest(tmp_path):
    place = write(tmp_path, "def biuld(): pass\ndef other(): pass\ndef _hidden(): pass")
    with pytest.raises(InputError, match=r"has no 'build'.*did you mean 'biuld'\? Known: biuld, other\."):
        load_callable(place, "model")


def test_a_name_that_cannot_be_called_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"'build' in .* is a int, not a callable"):
        load_callable(write(tmp_path, "build = 3"), "model")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise OSError('no disk')", "raised OSError when imported: no disk"),
        ("def build(:", "raised SyntaxError when imported"),
        ("import no_such_package", "raised ModuleNotFoundError when imported"),
    ],
)
def test_a_file_that_raises_is_refused_each_time(tmp_path, text, message):
    place = write(tmp_path, text)
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            load_callable(place, "model")


def test_a_file_that_was_mended_is_read_anew(tmp_path):
    with pytest.raises(InputError):
        load_callable(write(tmp_path, "raise OSError('no disk')"), "model")
    assert load_callable(write(tmp_path, "def build(): return 'now it is longer than before'"), "model")()


def test_what_is_not_python_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not a Python file"):
        load_callable(write(tmp_path, "x", "model.txt"), "model")


def test_ctrl_c_while_importing_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        load_callable(write(tmp_path, "raise KeyboardInterrupt"), "model")
