import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from optimize import pruning
from optimize.models import TorchModel, measures
from optimize.recipe import from_table
from optimize.steps.prune_channels import Step, kept
from optimize.steps.prune_weights import Step as Weights
from optimize.steps.recover import Step as Recover
from runtime.errors import InputError, StepError


def model(module, context):
    return TorchModel(module, context.inputs)


def widths(module):
    return {name: layer.weight.shape[0] for name, layer in pruning.layers(module).items()}


def zeroed(whole, small, history):
    """The whole network with what is gone at zero, and the small one's answers."""
    x = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    _, broken = pruning.remove_channels(whole, history, [x])
    return broken, pruning.outputs(small, [x])["output"]


@pytest.mark.parametrize("importance", ["magnitude", "taylor", "bn"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_pruned_model_is_the_original_with_channels_at_zero(residual, torch_context, importance, scope):
    context = torch_context()
    found = Step(ratio=0.4, importance=importance, scope=scope)(model(residual(), torch_context), context)
    broken, answers = zeroed(residual(), found.module, found.history)
    assert broken == {} and answers.shape == (6, 5) and not found.module.training
    again, _ = pruning.remove_channels(residual(), found.history, [torch.zeros(2, 3, 16, 16)])
    x = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(pruning.outputs(again, [x]), pruning.outputs(found.module, [x]))


def test_the_model_given_is_not_changed(residual, torch_context):
    given = model(residual(), torch_context)
    before = copy.deepcopy(given.module.state_dict())
    Step(ratio=0.4, importance="taylor")(given, torch_context())
    after = given.module.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in given.module.parameters())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in given.module.modules())


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize(("goal", "key"), [("macs", "macs"), ("parameters", "parameters")])
def test_the_goal_is_reached_and_not_passed_by_far(residual, torch_context, goal, key, scope):
    given = model(residual(), torch_context)
    found = Step(**{goal: 0.6}, scope=scope, multiple=4)(given, torch_context())
    share = measures(found)[key] / measures(given)[key]
    assert 0.5 < share <= 0.6


def test_the_ratio_is_of_the_channels_that_may_go(residual, torch_context):
    given = model(residual(), torch_context)
    found = Step(ratio=0.25, multiple=1, include=("*.conv1",))(given, torch_context())
    before, after = (
        sum(size for name, size in widths(one.module).items() if name.endswith("conv1")) for one in (given, found)
    )
    assert 0.7 < after / before <= 0.75


@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_what_is_kept_is_a_multiple(residual, torch_context, multiple):
    found = Step(ratio=0.3, multiple=multiple)(model(residual(), torch_context), torch_context())
    sizes = widths(found.module)
    assert sizes.pop("classifier") == 5
    assert all(size % multiple == 0 for size in sizes.values())
    assert sum(sizes.values()) < sum(widths(residual()).values())


def test_the_output_layer_is_left_alone_and_named(residual, torch_context):
    context = torch_context()
    found = Step(parameters=0.3)(model(residual(), torch_context), context)
    assert found.module.classifier.out_features == 5
    assert any("left classifier alone: it gives the outputs" in note for note in context.notes)


def test_the_report_says_what_changed(residual, torch_context):
    context, given = torch_context(), model(residual(), torch_context)
    found = Step(macs=0.5)(given, context)
    before, after = measures(given), measures(found)
    assert f"parameters {before['parameters']:,} to {after['parameters']:,} (-" in context.notes[0]
    assert f"MACs {before['macs']:,} to {after['macs']:,} (-" in context.notes[0]
    assert f"bytes {before['size_bytes']:,} to {after['size_bytes']:,} (-" in context.notes[0]


def test_padded_shortcuts_are_left_alone_and_named(option_a, torch_context):
    context = torch_context()
    found = Step(ratio=0.4)(model(option_a(), torch_context), context)
    assert any("left conv1 alone: the" in note for note in context.notes)
    assert {removal.name for removal in found.history} <= {f"layer{i}.{j}.conv1" for i in (1, 2) for j in (0, 1)}
    assert zeroed(option_a(), found.module, found.history)[0] == {}


def test_include_and_exclude(residual, torch_context):
    before = widths(residual())
    found = Step(ratio=0.4, include=("stages.*",), exclude=("stages.2.conv1",))(
        model(residual(), torch_context), torch_context()
    )
    after = widths(found.module)
    # the stem's channels are those of stages.0, which the stem, not included, keeps from going
    assert {name for name in before if after[name] < before[name]} >= {"stages.0.conv1", "stages.1.conv1"}
    assert all(after[name] == before[name] for name in ("stem.0", "stages.0.conv2", "stages.2.conv1", "classifier"))
    with pytest.raises(InputError, match="unknown name 'stage'"):
        Step(ratio=0.4, include=("stage",))(model(residual(), torch_context), torch_context())


def test_a_class_can_be_left_out(residual, torch_context):
    with pytest.raises(StepError, match="no layer may lose channels"):
        Step(ratio=0.4, exclude=("Conv2d",))(model(residual(), torch_context), torch_context())


def test_a_goal_out_of_reach_says_how_far_it_goes(residual, torch_context):
    with pytest.raises(StepError, match=r"the goal is 1% of what there was, but \d+% stay .* classifier"):
        Step(macs=0.01)(model(residual(), torch_context), torch_context())


def test_in_several_turns_with_recovery_between(residual, torch_context):
    context, given = torch_context(original=None), model(residual(), torch_context)
    step = Step(parameters=0.5, iterations=2, recover=Recover(epochs=2, batch=32))
    found = step(given, context)
    assert measures(found)["parameters"] <= 0.5 * measures(given)["parameters"]
    assert [note.split(":")[0] for note in context.notes[:2]] == ["recover", "prune_channels"]
    # replaying the history gives the shape, and the weights are others since they were trained
    small = pruning.replay(residual(), found.history, [torch.zeros(2, 3, 16, 16)])
    assert widths(small) == widths(found.module)
    assert not torch.equal(small.classifier.weight, found.module.classifier.weight)


def test_depthwise_and_grouped_convolutions(torch_context):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 32, 1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, groups=2), nn.ReLU(), nn.Conv2d(32, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 100, 5),
    ).eval()  # fmt: skip
    context = torch_context()
    found = Step(macs=0.5, multiple=2, scope="layer")(model(module, torch_context), context)
    assert found.module[2].groups == found.module[2].in_channels == found.module[0].out_channels < 16
    assert pruning.remove_channels(module, found.history, [torch.randn(2, 3, 16, 16)])[1] == {}


def test_without_labels_taylor_takes_the_models_own_answers(residual, torch_context):
    found = Step(ratio=0.3, importance="taylor")(model(residual(), torch_context), torch_context(labels=False))
    assert found.history


def test_widths_are_what_is_kept(residual, torch_context):
    given = model(residual(), torch_context)
    one = Step(macs=0.6)(given, torch_context())
    found = kept(one, given)
    assert found and all(widths(one.module)[name] == count for name, count in found.items())
    other = Step(until="1.5x faster on openvino", widths=found)(given, torch_context())
    assert other.history == one.history and Step(widths={})(given, torch_context()).history == ()
    with pytest.raises(InputError, match=r"unknown layer that may lose channels 'stem'; did you mean 'stem\.0'"):
        Step(widths={"stem": 8})(given, torch_context())
    with pytest.raises(InputError, match=r"widths: stages\.0\.conv1 has 16 channels, of which 17 cannot stay"):
        Step(widths={"stages.0.conv1": 17})(given, torch_context())
    with pytest.raises(StepError, match=r'how far to prune until "2x faster on openvino" was not found'):
        Step(until="2x faster on openvino")(given, torch_context())


@hypothesis_given(st.floats(1.001, 1e5).map(lambda value: round(value, 3)), st.sampled_from(["openvino", "tensorrt"]))
def test_until_says_how_much_faster_and_where(factor, target):
    for said in (f"{factor}x faster on {target}", f"  {factor}x  faster on\t{target} "):
        assert Step(until=said).sought() == (factor, target)
    assert Step(until=f"{factor}x faster on {target}").amount() == f"{factor:g}x"


@hypothesis_given(
    st.text() | st.sampled_from(["1x", "0.5x", "-2x", "nanx", "infx", "1e3x", "x", "2"]).map("{} faster on a".format)
)
def test_until_that_says_nothing_is_refused(said):
    with pytest.raises(ValidationError, match=r'until = "1\.5x faster on openvino", say, with more than 1x; got'):
        Step(until=said)


def test_the_target_of_until_must_be_the_recipes():
    table = {
        "model": {"entry": "model.py:build"}, "data": {"path": "data.npz"}, "targets": {"openvino": {}},
        "steps": [{"use": "prune_channels", "until": "1.5x faster on opnvino"}],
    }  # fmt: skip
    with pytest.raises(InputError, match=r"until = .*: unknown target 'opnvino'; did you mean 'openvino'\?"):
        from_table(table, Path())
    table["steps"][0]["until"] = "1.5 times faster on openvino"
    with pytest.raises(InputError, match=r"the step 'prune_channels'.*1\.5x faster on openvino.*1\.5 times"):
        from_table(table, Path())


def test_masks_come_later(residual, torch_context):
    masked = Weights(sparsity=0.5)(model(residual(), torch_context), torch_context())
    with pytest.raises(InputError, match="prune_channels comes before prune_weights"):
        Step(ratio=0.3)(masked, torch_context())


@pytest.mark.parametrize(
    "settings",
    [{}, {"ratio": 0.3, "macs": 0.5}, {"ratio": 0}, {"ratio": 1}, {"macs": 1.5}, {"ratio": 0.3, "multiple": 0},
     {"ratio": 0.3, "importance": "luck"}, {"ratio": 0.3, "iterations": 0}, {"ratio": 0.3, "recover": {"epoch": 1}},
     {"ratio": 0.3, "widths": {"a": 1}},
     {"until": "2x faster on openvino", "iterations": 2}, {"widths": {"a": 8}, "recover": {}}],
)  # fmt: skip
def test_settings_that_cannot_be(settings):
    with pytest.raises(ValidationError):
        Step(**settings)


def test_the_path_in_recover_is_the_recipes(tmp_path):
    step = Step.model_validate({"ratio": 0.3, "recover": {"augment": "data.py:flip"}})
    assert step.resolved(lambda place: f"/there/{place}").recover.augment == "/there/data.py:flip"
    assert Step(ratio=0.3).resolved(lambda place: f"/there/{place}") == Step(ratio=0.3)
