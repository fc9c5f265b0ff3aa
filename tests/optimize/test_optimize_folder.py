import logging
import os
import warnings

import pytest

from optimize.folder import LOG, MARKS, chatter_to, claimed
from runtime.errors import InputError


def claim(path):
    """Held, and let go at once."""
    with claimed(path) as folder:
        return folder


@pytest.mark.parametrize("name", ["new", "new/deep/er"])
def test_a_new_folder_is_made(tmp_path, name):
    assert claim(tmp_path / name) == tmp_path / name and (tmp_path / name).is_dir()


def test_an_empty_folder_is_taken(tmp_path):
    assert claim(tmp_path) == tmp_path


@pytest.mark.parametrize("mark", MARKS)
def test_a_folder_of_an_earlier_run_is_taken_and_left_as_it_is(tmp_path, mark):
    (tmp_path / "mine.txt").write_text("kept")
    (tmp_path / mark).mkdir() if mark == "bundle" else (tmp_path / mark).write_text("of an earlier run")
    claim(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "kept"
    assert mark in ("bundle", ".lock") or (tmp_path / mark).read_text() == "of an earlier run"


def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="is not empty and not from an earlier run; choose another with --out"):
        claim(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("here")
    with pytest.raises(InputError, match="is a file, not a folder"):
        claim(tmp_path / name)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def denied(self, *arguments, **settings):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(tmp_path), "open", denied)  # also for root, to whom no folder is closed
    with pytest.raises(InputError, match="cannot be written: Permission denied; choose another"):
        claim(tmp_path)


def test_what_vendors_print_warn_and_log_goes_to_the_file_only(tmp_path, capfd):
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    with chatter_to(tmp_path / LOG) as screen:
        logging.getLogger("vendor").info("a line of a vendor's")
        warnings.warn("a warning of a vendor's", stacklevel=1)
        os.write(1, b"printed by C++\n")
        os.write(2, b"complained by C++\n")
        print("printed by Python", flush=True)
        screen.write("on the screen\n")
    text = (tmp_path / LOG).read_text()
    assert "INFO vendor: a line of a vendor's" in text and "a warning of a vendor's" in text
    assert "printed by C++" in text and "complained by C++" in text and "on the screen" not in text
    out, err = capfd.readouterr()
    assert "C++" not in out + err and err == "on the screen\n"
    assert root.handlers == before and root.level == level


def test_everything_is_as_before_after_an_error(tmp_path, capfd):
    root = logging.getLogger()
    before = root.handlers[:]
    with pytest.raises(KeyError), chatter_to(tmp_path / LOG):
        raise KeyError
    assert root.handlers == before
    os.write(1, b"seen again\n")
    assert capfd.readouterr().out == "seen again\n"
    with pytest.warns(UserWarning, match="seen"):
        warnings.warn("seen", stacklevel=1)


def test_an_earlier_log_is_not_lost_while_it_is_written(tmp_path):
    (tmp_path / LOG).write_text("before\n")
    with chatter_to(tmp_path / LOG):
        os.write(2, b"after\n")
    assert (tmp_path / LOG).read_text().startswith("before\n") and "after" in (tmp_path / LOG).read_text()


def test_a_folder_that_another_run_holds_is_refused(tmp_path):
    with claimed(tmp_path / "out"), pytest.raises(InputError, match="another run is writing into"):
        claim(tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    assert claim(tmp_path / "out").is_dir()
