from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import helper
from torch import nn

from optimize import automatic, steps
from optimize.data import NAMES, Facts
from optimize.data._profile import Profile
from optimize.models import OnnxModel
from optimize.plan import expand
from optimize.recipe import from_table
from runtime import host
from runtime.errors import InputError

FEW = Facts(100, "", None, True, True, Profile())
MANY = dict.fromkeys(NAMES, replace(FEW, samples=automatic.ENOUGH))
CONVOLUTIONS = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2))
PRODUCTS = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def recipe(steps_="auto", targets=("onnxruntime", "openvino"), cpu="vnni", **more):
    """For a processor that is named, since what this one's kernels do decides what is tried."""
    table = {"model": {"entry": "m.py:build"}, "data": {"path": "d.npz"}, "steps": steps_}
    return from_table({**table, "targets": {name: {"cpu": cpu} for name in targets}, **more}, Path("/"))


def names(asked, model, facts=None):
    """The steps of each list, but for those that every one has."""
    found = automatic.lists(asked, model, facts or dict.fromkeys(NAMES, FEW))
    return [[steps.name_of(s) for s in one if steps.name_of(s) not in ("export", "simplify")] for one in found]


ROUNDED = ["quantize_static", "repair"]
PRUNED = ["prune_channels", "recover", *ROUNDED]


def test_a_recipes_own_steps_are_what_is_done():
    assert names(recipe([{"use": "quantize_dynamic"}]), CONVOLUTIONS, MANY) == [["quantize_dynamic"]]
    assert names(recipe([]), CONVOLUTIONS, MANY) == [[]]


def test_in_a_hurry_it_is_int8_in_one_way():
    assert names(recipe(search={"quick": True}), CONVOLUTIONS, MANY) == [["quantize_static"]]


def test_convolutions_with_enough_labels_are_pruned_too():
    assert names(recipe(), CONVOLUTIONS, MANY) == [PRUNED, PRUNED, ROUNDED]
    assert names(recipe(), CONVOLUTIONS) == [ROUNDED]
    unlabelled = dict.fromkeys(NAMES, replace(MANY["test"], labelled=False))
    assert names(recipe(), CONVOLUTIONS, unlabelled) == [ROUNDED]


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x):
        return x + self.norm(self.conv(x))


def test_a_network_of_blocks_loses_some_of_them_in_the_place_of_a_share_of_its_channels():
    shallow, deep = (nn.Sequential(nn.Conv2d(3, 8, 3), *(Residual() for _ in range(n))) for n in (5, 6))
    blocks = ["prune_blocks", "recover", *ROUNDED]
    assert names(recipe(), shallow, MANY) == [PRUNED, PRUNED, ROUNDED]
    assert names(recipe(), deep, MANY) == [blocks, PRUNED, ROUNDED]
    assert names(recipe(search={"trials": 1}), deep, MANY) == [blocks, ROUNDED]
    assert names(recipe(search={"trials": 2}), deep, MANY) == [blocks, PRUNED, ROUNDED]
    assert names(recipe(search={"trials": 3}), deep, MANY) == [blocks, PRUNED, PRUNED, ROUNDED]
    assert names(recipe(search={"trials": 0}), deep, MANY) == [ROUNDED]
    found = [one.name for one in expand(recipe(), host.facts(), automatic.lists(recipe(), deep, MANY))]
    assert {"onnxruntime-pruned-blocks60-recovered-int8", "onnxruntime-pruned50-recovered-int8"} <= set(found)


def test_what_is_made_of_products_is_rounded_in_the_call_too_and_by_its_weights_where_they_are_heavy():
    assert names(recipe(), PRODUCTS, MANY) == [["quantize_dynamic"], ROUNDED]
    heavy = nn.Linear(2048, 2048)
    assert names(recipe(), heavy) == [["quantize_dynamic"], ["quantize_weights"], ROUNDED]
    assert names(recipe(), nn.TransformerEncoderLayer(32, 2), MANY)[0] == ["quantize_dynamic"]


def test_the_objective_size_tries_half_precision():
    assert ["cast_fp16"] in names(recipe(constraints={"objective": "size"}), PRODUCTS)


def model(path, *nodes, weights=()):
    kinds = [helper.make_tensor(name, 1, [4, 4], [0.5] * 16) for name in weights]
    value = [helper.make_tensor_value_info(name, 1, ["batch", 4]) for name in ("x", "y")]
    onnx.save(helper.make_model(helper.make_graph(list(nodes), "g", value[:1], value[1:], kinds)), path)
    return path


def test_a_file_is_told_by_its_ops(tmp_path):
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    assert names(recipe(), model(tmp_path / "a.onnx", product, weights="w")) == [["quantize_dynamic"], ROUNDED]
    tree = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml")
    assert names(recipe(), model(tmp_path / "b.onnx", tree)) == [[]]
    assert names(recipe(), model(tmp_path / "c.onnx", helper.make_node("Relu", ["x"], ["y"]))) == [[]]
    done = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["z"]),
    ]
    done.append(helper.make_node("MatMul", ["z", "w"], ["y"]))
    assert names(recipe(), model(tmp_path / "d.onnx", *done, weights="ws")) == [[]]


def test_every_list_can_be_done_in_its_order(tmp_path):
    for made in (CONVOLUTIONS, PRODUCTS):
        for one in automatic.lists(recipe(), made, MANY):
            assert steps.gives(one[-1]) is OnnxModel


def expanded(**more):
    return [one.name for one in candidates(**more)]


def candidates(**more):
    asked = recipe(**more)
    return expand(asked, host.facts(), automatic.lists(asked, CONVOLUTIONS, MANY))


def test_where_kernels_may_saturate_8_bits_are_tried_too_if_they_are_measured():
    wide = {"openvino-int8-wide", "openvino-int8-nncf-wide", "openvino-int8-torch-wide"}
    assert not [name for name in expanded() if "wide" in name]
    found = expanded(cpu="avx2")  # which OpenVINO's kernels can be limited to, and ONNX Runtime's cannot
    assert {name for name in found if "wide" in name and "pruned" not in name} == wide
    assert {"openvino-int8", "openvino-int8-nncf", "openvino-int8-percentile"} <= set(found)
    assert "onnxruntime-int8-torch" in expanded() and not [name for name in found if name.endswith("int8-torch")]
    assert "openvino-int8" in expanded(cpu="avx2", search={"quick": True})
    assert not [name for name in expanded(cpu="avx2", search={"quick": True}) if "wide" in name]
    assert len(set(found)) == len(found)


def test_candidates_have_names_of_their_own_and_no_target_has_two_plain_ones():
    found = expanded()
    assert len(set(found)) == len(found)
    assert found.count("onnxruntime-fp32") == found.count("openvino-fp32") == 1
    assert {"onnxruntime-pruned70-recovered-int8", "onnxruntime-pruned50-recovered-int8"} <= set(found)
    assert found == sorted(found, key=lambda name: not name.startswith("onnxruntime"))


def test_patterns_choose_among_candidates_and_leave_what_they_are_compared_with():
    fixed = {"onnxruntime-fp32", "onnxruntime-default", "openvino-fp32"}
    # on an older processor OpenVINO as it ships is the plain one: both compute in f32
    for cpu, more in (("vnni", set()), ("host", {"openvino-default"})):
        assert set(expanded(cpu=cpu, search={"only": ["*-int8"], "skip": ["*pruned*"]})) == {
            *fixed, *more, "onnxruntime-int8", "openvino-int8",
        }  # fmt: skip
    assert [one.name for one in candidates(search={"redo": ["openvino-int8-torch"]}) if one.anew] == [
        "openvino-int8-torch"
    ]
    with pytest.raises(InputError, match=r"no candidate is called 'int4\*'; there are onnxruntime-"):
        expanded(search={"only": ["int4*"]})
    with pytest.raises(
        InputError, match=r"--only \*int8 and --skip onn\*, open\* leave none of .*: take one of them off"
    ):
        expanded(search={"only": ["*int8"], "skip": ["onn*", "open*"]})


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), (20, 20), ("20", 20)])
def test_a_time_is_read(text, seconds):
    assert recipe(search={"time": text}).search.time == seconds


@pytest.mark.parametrize("text", ["soon", "-3m", 0, "0s", "3d"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(InputError, match=r"search\.time"):
        recipe(search={"time": text})
