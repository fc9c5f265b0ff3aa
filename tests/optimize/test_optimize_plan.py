from dataclasses import replace
from pathlib import Path

import pytest

import targets
from optimize import steps
from optimize.plan import expand, remarks, role_of
from optimize.recipe import from_table
from optimize.tables import Search
from runtime import host

BF16 = {"precision": "bf16"}
TRUE_TARGETS = targets.get
QUANTIZED = [{"use": "quantize_static", "samples": 7}]


def recipe(steps=(), **asked):
    return from_table(
        {
            "model": {"entry": "m.py:build"},
            "data": {"path": "d.npz"},
            "steps": steps if steps == "auto" else list(steps),
            "targets": asked,
        },
        Path("/"),
    )


def planned(recipe):
    return expand(recipe, host.facts())


@pytest.fixture(autouse=True)
def _every_target_builds_here(monkeypatch):
    change_targets(monkeypatch, why_not=lambda: None)
    change_targets(monkeypatch, bf16=lambda host: {})


def change_targets(monkeypatch, only=None, **changes):
    true = targets.get
    monkeypatch.setattr(
        targets, "get", lambda name: replace(true(name), **changes) if only in (None, name) else true(name)
    )


def test_a_recipe_with_steps_has_three_candidates_a_target():
    found = planned(recipe(QUANTIZED, openvino={}, onnxruntime={}))
    assert [(one.name, one.role, one.target.name) for one in found] == [
        ("openvino-fp32", "plain", "openvino"),
        ("openvino-default", "vendor", "openvino"),
        ("openvino-int8", "steps", "openvino"),
        ("onnxruntime-fp32", "plain", "onnxruntime"),
        ("onnxruntime-default", "vendor", "onnxruntime"),
        ("onnxruntime-int8", "steps", "onnxruntime"),
    ]
    names = {one.name: [steps.name_of(step) for step in one.steps] for one in found}
    exact = ["export", "simplify"]
    assert names["openvino-fp32"] == names["openvino-default"] == exact
    assert names["openvino-int8"] == [*exact, "quantize_static"]
    assert found[2].steps[-1].samples == 7


def test_exact_steps_alone_make_no_third_candidate():
    for asked in (recipe(openvino={}), recipe([{"use": "simplify"}], openvino={})):
        assert [one.role for one in planned(asked)] == ["plain", "vendor"]


PRUNED = [{"use": "prune_blocks", "count": 1}, {"use": "prune_channels", "ratio": 0.3}, {"use": "recover"}]


def test_steps_in_torch_and_in_onnx_make_the_latter_alone_a_candidate_too():
    found = planned(recipe([*PRUNED, *QUANTIZED], openvino={}))
    assert [(one.name, one.role) for one in found[2:]] == [
        ("openvino-int8", "steps"),
        ("openvino-pruned-recovered-int8", "steps"),
    ]
    uses = [[steps.name_of(step) for step in one.steps] for one in found[2:]]
    assert uses[0] == ["export", "simplify", "quantize_static"]
    assert uses[1] == ["prune_blocks", "prune_channels", "recover", "export", "simplify", "quantize_static"]


def test_steps_in_torch_alone_make_one_candidate_more():
    assert [one.name for one in planned(recipe(PRUNED, openvino={}))][2:] == ["openvino-pruned-recovered"]


def test_the_whole_list_is_what_travels_to_a_target_that_cannot_be_built_here(monkeypatch):
    change_targets(monkeypatch, "openvino", why_not=lambda: "not here: pip install it")
    assert [one.name for one in planned(recipe([*PRUNED, *QUANTIZED], openvino={}))] == [
        "openvino-pruned-recovered-int8"
    ]


def test_options_asked_for_hold_for_all_but_the_vendors_default():
    plain, vendor, quantized = planned(recipe(QUANTIZED, openvino={"threads": 3}))
    assert plain.options == quantized.options == {"precision": "f32", "threads": 3}
    assert vendor.options == targets.get("openvino").vendor


def test_fp16_has_the_options_that_make_it_fast_unless_the_recipe_says_otherwise():
    def tf32(steps, **options):
        return {one.name: one.options.get("tf32") for one in planned(recipe(steps, onnxruntime_cuda=options))}

    plain, vendor, half, int8 = (f"onnxruntime_cuda-{label}" for label in ("fp32", "default", "fp16", "int8-fp16"))
    assert tf32(QUANTIZED) == {plain: False, vendor: None, half: True, int8: True}
    assert tf32([{"use": "cast_fp16"}]) == {plain: False, vendor: None, half: True}
    assert tf32(QUANTIZED, tf32=False) == {plain: False, vendor: None, half: False, int8: False}


@pytest.mark.parametrize(("cpu", "said"), [("avx2", True), ("vnni", False)])
def test_a_way_of_auto_that_a_processor_does_not_go_with_is_said(cpu, said):
    asked = recipe([{"use": "quantize_static", "method": "auto"}], onnxruntime={"cpu": cpu})
    assert any("no candidate with 'quantize_torch'" in words for words in remarks(asked, host.facts())) == said
    assert ("onnxruntime-int8-torch" in [one.name for one in planned(asked)]) != said


def test_int8_is_not_tried_by_itself_where_it_is_computed_in_float():
    listed = recipe([{"use": "prune_channels", "macs": 0.5}, *QUANTIZED], onnxruntime_cuda={})
    itself = recipe("auto", onnxruntime_cuda={})
    whole = listed.all_steps()
    for asked, labels in (
        (itself, ["fp32", "default", "fp16", "pruned", "pruned-fp16"]),
        (listed, ["fp32", "default", "fp16", "int8-fp16", "pruned-int8-fp16"]),
    ):
        found = expand(asked, host.facts(), [whole])
        assert [one.name for one in found] == [f"onnxruntime_cuda-{label}" for label in labels]
        said = any("int8 was not tried" in words for words in remarks(asked, host.facts(), [whole]))
        assert said == (asked is itself)


def test_where_the_default_is_the_plain_engine_it_is_there_once(monkeypatch):
    change_targets(monkeypatch, plain={"threads": 2}, vendor={"threads": 2})
    assert [one.role for one in planned(recipe(QUANTIZED, onnxruntime={}))] == ["plain", "steps"]


def test_the_scheme_is_that_of_the_cpu_asked_for():
    for cpu in ("avx2", "vnni", "arm"):
        found = planned(recipe(QUANTIZED, onnxruntime={"cpu": cpu}))
        expected = targets.get("onnxruntime").scheme(cpu, host.facts())
        assert all(one.scheme == expected for one in found)
        assert all("cpu" not in one.options for one in found)


@pytest.mark.parametrize(
    ("listed", "name", "role"), [(QUANTIZED, "openvino-int8", "steps"), ([], "openvino-fp32", "plain")]
)
def test_a_target_that_cannot_be_built_here_travels_as_one_source(monkeypatch, listed, name, role):
    change_targets(monkeypatch, "openvino", why_not=lambda: "not here: pip install it")
    found = planned(recipe(listed, openvino={}, onnxruntime={}))
    own = [one for one in found if one.target.name == "openvino"]
    assert [(one.name, one.role, one.why_not) for one in own] == [(name, role, "not here: pip install it")]
    assert all(one.why_not is None for one in found if one.target.name != "openvino")


def test_names_are_unique_for_every_target():
    found = planned(recipe(QUANTIZED, **{name: {} for name in targets.names()}))
    assert len({one.name for one in found}) == len(found)
    assert {one.target.name for one in found} == set(targets.names())


def test_a_role_is_found_or_the_first_stands_for_it():
    found = planned(recipe(QUANTIZED, openvino={}, onnxruntime={}))
    assert role_of(found, "onnxruntime", "vendor").name == "onnxruntime-default"
    assert role_of(found, "openvino", "plain").name == "openvino-fp32"
    assert role_of(found[4:], "onnxruntime", "plain").name == "onnxruntime-default"


def test_what_is_asked_for_computes_the_rest_in_bf16_too_where_the_target_and_the_processor_can():
    target = TRUE_TARGETS("openvino")
    for sets, can in ((("avx512_bf16",), True), (("amx_bf16",), True), (("avx512_vnni",), False)):
        assert bool(target.bf16(replace(host.facts(), instruction_sets=sets))) == can
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "get", lambda name: replace(target, why_not=lambda: None, bf16=lambda host: BF16))
        found = planned(recipe([*PRUNED, *QUANTIZED], openvino={}))
        assert [(one.name, dict(one.options)) for one in found[2:]] == [
            ("openvino-int8", {"precision": "f32"}),
            ("openvino-pruned-recovered-int8-bf16", BF16),
            ("openvino-pruned-recovered-int8", {"precision": "f32"}),
        ]
        asked = planned(recipe(QUANTIZED, openvino={"precision": "f16"}))
        assert [one.name for one in asked[2:]] == ["openvino-int8"], "who names a precision means it"


@pytest.mark.parametrize(
    ("step", "fits", "reason"),
    [
        ({"use": "quantize_dynamic"}, {"onnxruntime"}, "no kernels that round in the call"),
        ({"use": "cast_bf16"}, {"tensorrt", "reference"}, "does not take bf16 from the graph"),
        ({"use": "quantize_weights", "bits": 4, "method": "hqq"}, {"onnxruntime"}, "no whole numbers"),
    ],
)
def test_a_step_is_not_offered_to_a_target_that_does_not_run_it_and_that_is_said(step, fits, reason):
    names = ("onnxruntime", "openvino", "tensorrt", "reference")
    asked = recipe([step], **{name: {} for name in names})
    found = planned(asked)
    assert {one.target.name for one in found if step["use"] in map(steps.name_of, one.steps)} == fits
    assert {one.target.name for one in found} == set(names), "the plain model is there all the same"
    notes = remarks(asked, host.facts())
    assert [note.partition(":")[0] for note in notes] == [name for name in names if name not in fits]
    assert all(f"no candidate with '{step['use']}', since" in note and reason in note for note in notes)


def test_what_is_deployed_to_an_older_cpu_is_measured_as_one_where_that_can_be(monkeypatch):
    change_targets(monkeypatch, bf16=lambda host: BF16)
    assert any("bf16" in one.name for one in planned(recipe(QUANTIZED, openvino={})))
    quick = recipe(QUANTIZED, openvino={}).model_copy(update={"search": Search(quick=True)})
    assert [one.name for one in planned(quick) if one.role == "steps"] == ["openvino-int8"]
    asked = recipe(QUANTIZED, openvino={"cpu": "avx2"}, onnxruntime={"cpu": "avx2"})
    found = {one.name: one for one in expand(asked, host.facts())}
    for name, one in found.items():
        assert one.options.get("isa") == ("AVX2" if name.startswith("openvino") else None)
        assert one.options.get("precision") == ("f32" if name.startswith("openvino") else None)
        assert one.scheme.reduce_range
    assert not any("bf16" in name for name in found)  # this processor's, not that one's
    said = remarks(asked, host.facts())
    assert any(note.startswith("openvino: for avx2; figures are those of its kernels limited to AVX2") for note in said)
    assert any(note.startswith("onnxruntime: quantized for avx2; its kernels cannot be limited here") for note in said)
