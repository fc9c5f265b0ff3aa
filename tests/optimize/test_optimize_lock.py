"""recipe.lock: what is in it, that it makes the same bytes again in another process, and what it refuses."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from optimize import changes, lock
from optimize.build import Built
from optimize.lock import Lock, Made, Pinned, opened
from optimize.models import read_onnx
from optimize.pipeline import run
from optimize.recipe import from_table, load
from runtime import bundle as bundles
from runtime.bundle import sha256
from runtime.errors import InputError, WorkError

ROOT = Path(__file__).parents[2]

MODEL = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )


def moved(feeds, random):
    return {"x": feeds["x"] + random.standard_normal(feeds["x"].shape).astype("float32") / 8}
"""
WAYS = ("fp32", "int8", "int8-nncf", "pruned-recovered-int8")
# These candidates' ONNX files, made in a cache of their own; their sums come on the last line.
MAKE = """
import json, sys, tempfile
from pathlib import Path

from optimize import plan, recipe
from optimize.build import Builder
from optimize.progress import Progress
from optimize.subject import prepare
from runtime import host
from runtime.bundle import sha256
from runtime.cache import Cache

with tempfile.TemporaryDirectory() as folder:
    folder, silent = Path(folder), Progress(1, silent=True)
    asked = recipe.load(Path("recipe.toml"))
    subject = prepare(asked, silent, folder / "log.txt")
    builder = Builder(subject, Cache(folder / "cache"), {}, folder, folder / "log.txt", silent)
    candidates = {one.name: one for one in plan.expand(asked, host.facts())}
    made = {way: sha256(builder.model(candidates[f"onnxruntime-{way}"])[0].path) for way in sys.argv[1:]}
print(json.dumps(made))
"""
RECIPE = """
[model]
entry = "model.py:build"
[data]
path = "data.npz"
[[steps]]
use = "prune_channels"
ratio = 0.5
[[steps]]
use = "recover"
epochs = 1
batch = 16
augment = "model.py:moved"
[[steps]]
use = "quantize_static"
method = "auto"
samples = 16
[targets.onnxruntime]
"""


def python(folder, *words, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_two_processes_make_the_same_bytes_in_every_way(tmp_path, tiny_data):
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    np.savez(tmp_path / "data.npz", x=tiny_data[0], y=tiny_data[1])
    done = [python(tmp_path, "-c", MAKE, *WAYS, PYTHONHASHSEED=seed) for seed in ("1", "2")]
    first, second = (json.loads(one.stdout.splitlines()[-1]) for one in done)
    assert tuple(first) == WAYS and len(set(first.values())) == len(WAYS)
    assert first == second


def held(finished) -> Lock:
    return Lock.model_validate_json((finished[1].parent / lock.FILE).read_text())


def changed(finished, folder, **parts):
    """The run's lock with other parts, in a folder from which its own paths are found."""
    path = finished[1].parent.parent / folder / lock.FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(held(finished).model_copy(update=parts).model_dump_json(by_alias=True))
    return path


def test_a_lock_has_all_that_decides_and_all_that_came_of_it(finished, tiny_onnx):
    report, bundle = finished
    found = held(finished)
    assert found.recipe == report.recipe and found.recipe["measure"]["seed"] == found.seeds["measure.seed"] == 0
    assert found.made_with == report.made_with and {"onnx", "protobuf", "torch-pruning"} <= set(found.made_with)
    assert found.data == report.data.splits and found.machine["instruction_sets"]
    assert list(found.files.values()) == [sha256(tiny_onnx)]
    assert set(found.candidates) == {row.name for row in report.candidates if row.made}
    for entry in bundles.read(bundle).engines:
        made = found.candidates[entry.name]
        assert made.onnx == {"model": sha256(bundle / entry.source)}
        assert made.engine == {role: sha256(bundle / file) for role, file in entry.files.items()}
    assert {name: sha256(bundle / name) for name in found.bundle} == found.bundle and len(found.bundle) > 10
    copy = Lock.model_validate_json((bundle / "report" / lock.FILE).read_text())
    assert copy == found.model_copy(update={"bundle": {}})


def test_a_locked_run_makes_the_same_files_takes_the_choice_and_tells_what_differs(finished, tmp_path):
    report, _ = finished
    assert report.exit_code == 0
    chosen = {"openvino": "openvino-int8", "onnxruntime": "onnxruntime-int8"}  # whatever is fastest today
    candidates = dict(held(finished).candidates)
    wanted = candidates["openvino-int8"].onnx["model"]
    candidates["onnxruntime-int8"] = candidates["onnxruntime-int8"].model_copy(update={"onnx": {"model": "0" * 64}})
    path = changed(finished, "other", candidates=candidates, chosen=chosen)
    done = python(tmp_path, "-m", "optimize", "run", "--locked", str(path), "--json")
    assert done.returncode == 1, done.stderr
    again = json.loads(done.stdout)
    assert again["chosen"] == chosen
    assert not any(made["cached"] for row in again["candidates"] for made in row["made"])
    assert [one.partition(":")[0] for one in again["unlike"]] == ["onnxruntime-int8"]
    assert "no reason is known" in again["unlike"][0]
    made = sum(bool(row["made"]) for row in again["candidates"])
    assert f"{made - 1} of {made} ONNX files are the lock's, bit by bit" in again["notes"] and made >= 4
    assert any("the choice is the lock's" in note for note in again["notes"]) and lock.NEVER_THE_SAME in again["notes"]
    assert again["why"]["onnxruntime"] == "taken from the lock; its ONNX file is another"
    assert again["why"]["openvino"] == "taken from the lock; its ONNX file is the same, bit by bit"
    new = tmp_path / "reproduced"
    assert "NOT REPRODUCED: onnxruntime-int8: " in (new / "report.md").read_text()
    (entry,) = [one for one in bundles.read(new / "bundle").engines if one.target == "openvino"]
    assert (entry.name, sha256(new / "bundle" / entry.source)) == ("openvino-int8", wanted)


def refused(path, tmp_path, says, what=None, **more):
    with pytest.raises(InputError, match=says):
        run(what, out=tmp_path / "out", locked=path, silent=True, **more)
    assert not (tmp_path / "out").exists()


def test_versions_that_are_others_are_named_with_what_mends_them(finished, tmp_path):
    versions = {**held(finished).made_with, "onnx": "1.2.3", "no-such-library": "4"}
    says = (
        r"onnx \S+ here, 1.2.3 there; no-such-library is not here, 4 .*pip install 'onnx==1.2.3' 'no-such-library==4'"
    )
    refused(changed(finished, "versions", made_with=versions), tmp_path, says)
    machine = {**held(finished).machine, "python": "3.9.1"}
    refused(changed(finished, "python", machine=machine), tmp_path, r"made by Python 3\.9, this is 3\.1\d")
    refused(
        changed(finished, "processes", processes=2), tmp_path, r"accelerate launch --num_processes 2 -m optimize run"
    )


def test_another_model_or_other_data_is_refused(finished, tmp_path):
    files = {name: "0" * 64 for name in held(finished).files}
    refused(changed(finished, "files", files=files), tmp_path, r"the files are not those of .*model\.onnx was changed")
    refused(
        changed(finished, "gone", files={"gone.py": "0"}), tmp_path, r"no such file: .*gone\.py.*RECIPE\.toml --locked"
    )
    refused(changed(finished, "weights", weights="0" * 64), tmp_path, r"what builds it gives others each time")
    splits = held(finished).data
    splits = {**splits, "test": splits["test"].model_copy(update={"samples": 7, "sha256": "0"})}
    refused(
        changed(finished, "data", data=splits), tmp_path, r"the split 'test' differs \(\d+ samples, 7 in the lock\)"
    )


def test_what_is_no_lock_or_more_than_a_lock_is_refused(finished, tmp_path):
    path = finished[1].parent / lock.FILE
    refused(path, tmp_path, r"--set \(or --quick, --only and the like\) with --locked", changes=["measure.budget=1"])
    refused(path, tmp_path, r"--targets with --locked", targets=["openvino"])
    refused(tmp_path / "none.lock", tmp_path, r"no lock at .*none\.lock.*optimize run writes DIR/recipe\.lock")
    (tmp_path / "bad.lock").write_text("{}")
    refused(tmp_path / "bad.lock", tmp_path, r"bad\.lock is damaged, or no lock")
    (tmp_path / "new.lock").write_text('{"schema": 99}')
    refused(tmp_path / "new.lock", tmp_path, r"of format 99.*pip install -U edge-optimize")
    with pytest.raises(InputError, match=r"would write over itself: give another folder with --out"):
        run(out=path.parent, locked=path)
    with pytest.raises(InputError, match=r"which model\?"):
        run(out=tmp_path / "out")
    refused(path, tmp_path, r"takes a recipe beside it.*got 'model\.onnx'", what="model.onnx")
    machine = {**held(finished).machine, "cpu": 7, "of": "no use"}
    refused(changed(finished, "machine", machine=machine), tmp_path, r"is damaged, or no lock")
    no_such = changed(finished, "choice", chosen={"openvino": "openvino-int4"})
    refused(no_such, tmp_path, r"chose openvino-int4, which its recipe does not make")


def test_every_file_of_the_users_that_a_recipe_names_is_in_it(tmp_path):
    names = {"model.py": MODEL, "more.py": "", "recipe.toml": RECIPE.replace("model.py:moved", "more.py:moved")}
    for name, text in names.items():
        (tmp_path / name).write_text(text)
    asked = load(tmp_path / "recipe.toml")
    subject = SimpleNamespace(model=None, pre=[SimpleNamespace(files={"x": tmp_path / "recipe.toml"})])
    found = lock._files(asked, subject)
    assert found == {name: sha256(tmp_path / name) for name in sorted(names)}


def test_a_recipe_beside_a_lock_says_where_the_files_lie_and_must_say_the_same(finished, tiny_onnx, tmp_path):
    path = finished[1].parent / lock.FILE
    asked = opened(path, None, tmp_path, {}).asked
    assert opened(path, asked, tmp_path, {}).asked == asked
    other = asked.model_copy(update={"constraints": asked.constraints.model_copy(update={"max_drop": 0.5})})
    refused(path, tmp_path, r"the recipe is not that of .*constraints\.max_drop: 90pp -> 0\.5", what=other)


def test_layers_that_a_repair_returned_come_from_the_lock(finished):
    asked = from_table({**held(finished).recipe, "steps": [{"use": "quantize_static"}, {"use": "repair"}]}, Path())
    name = "onnxruntime-int8-repaired"
    made = {name: Made(onnx={}, engine={}, layers=["conv"])}
    told = held(finished).model_copy(update={"candidates": made, "chosen": {"onnxruntime": name}})
    subject = SimpleNamespace(
        model=read_onnx(finished_model(finished)), facts=finished[0].data, plans=(asked.all_steps(),)
    )
    (found,) = Pinned(Path(lock.FILE), told, asked).candidates(subject)
    assert (found.name, found.steps[-1].layers, found.repair) == (name, ("conv",), None)


def test_what_cannot_run_here_ends_the_work_and_another_machine_is_named(finished, tmp_path):
    machine = {**held(finished).machine, "cpu": "another", "gpus": ["one"]}
    pinned = Pinned(Path(lock.FILE), held(finished).model_copy(update={"machine": machine}), None)
    rows = {row.name: row.model_copy(update={"status": "wrong", "reason": "NaN"}) for row in finished[0].candidates}
    with pytest.raises(WorkError, match=r"which recipe\.lock chose, does not run here: NaN"):
        replace(pinned, asked=SimpleNamespace(targets=["openvino"])).choices(rows, [])
    entry = bundles.read(finished[1]).engines[0]
    built = {entry.name: Built(read_onnx(finished[1] / entry.source), {}, None, "", (), None)}
    unlike, notes = pinned.compared(built)
    assert unlike == [] and notes[1] == "1 of 1 ONNX files are the lock's, bit by bit"
    assert notes[-1].startswith("this machine is not the lock's: cpu ") and "gpus none here, one there" in notes[-1]
    proto = onnx.load(finished_model(finished))
    proto.producer_name = "another"
    onnx.save(proto, other := tmp_path / "other.onnx")
    built = {entry.name: Built(read_onnx(other), {"model": other}, None, "", (), None)}
    unlike, notes = pinned.compared(built)
    assert unlike[0].startswith(f"{entry.name}: its ONNX file is not the lock's; this machine is not the lock's: cpu")
    assert "a GPU adds up in no fixed order" in unlike[0]
    assert any(note.startswith(f"compiled engines that are other bytes: {entry.name}") for note in notes)


def finished_model(finished):
    return Path(finished[0].recipe["model"]["path"])


def test_a_place_that_differs_is_named():
    old = {"a": 1, "b": [1, 2], "c": None, "d": {"e": []}}
    assert changes.changed(old, {"a": 1, "b": [1], "d": {"e": None, "f": 0}}) == {"b.1": (2, None), "d.f": (None, 0)}
    assert changes.changed(old, old) == {}


def test_training_by_the_clock_is_a_reason_in_a_search_too(finished):
    searched = held(finished).model_copy(update={"recipe": {**held(finished).recipe, "steps": "auto"}})
    pinned = Pinned(Path(), searched, from_table(searched.recipe, Path()))
    exported, recovered = SimpleNamespace(use="export"), SimpleNamespace(use="recover")
    assert "training ended by the clock" in pinned._reason(SimpleNamespace(made=(exported, recovered)))
    assert "training ended by the clock" not in pinned._reason(SimpleNamespace(made=(exported,)))
