from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import InputError
from runtime.tensors import FeedCheck, Specs, TensorSpec, check_feeds, name_inputs

DTYPES = ("float16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool")
AXES = ("batch", "time")

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)


@st.composite
def tensor_specs(draw, least=1):
    """Some inputs with different names, and lengths for the named axes."""
    chosen = draw(st.lists(names, min_size=least, max_size=3, unique=True))
    dims = st.one_of(st.integers(1, 4), st.sampled_from(AXES))
    specs = tuple(
        TensorSpec(name, draw(st.sampled_from(DTYPES)), tuple(draw(st.lists(dims, max_size=3)))) for name in chosen
    )
    return specs, {axis: draw(st.integers(1, 4)) for axis in AXES}


def feeds_of(specs, axes):
    return {spec.name: np.zeros(spec.sized(axes), spec.dtype) for spec in specs}


@given(tensor_specs())
def test_arrays_that_fit_pass(made):
    specs, axes = made
    check_feeds(specs, feeds_of(specs, axes))


@given(tensor_specs(), st.data())
def test_every_wrong_name_is_refused(made, data):
    specs, axes = made
    feeds = feeds_of(specs, axes)
    spec = data.draw(st.sampled_from(specs))
    other = data.draw(names.filter(lambda name: name not in feeds))
    renamed = {other if name == spec.name else name: value for name, value in feeds.items()}
    lacking = {name: value for name, value in feeds.items() if name != spec.name}
    for wrong in (renamed, lacking, {**feeds, other: feeds[spec.name]}):
        with pytest.raises(InputError) as caught:
            check_feeds(specs, wrong)
        assert str(spec) in str(caught.value)  # what is allowed


@given(tensor_specs(), st.data())
def test_every_wrong_dtype_is_refused(made, data):
    specs, axes = made
    feeds = feeds_of(specs, axes)
    spec = data.draw(st.sampled_from(specs))
    kind = data.draw(st.sampled_from([kind for kind in (*DTYPES, "complex64", "<U3", "object") if kind != spec.dtype]))
    with pytest.raises(InputError, match="dtype") as caught:
        check_feeds(specs, {**feeds, spec.name: feeds[spec.name].astype(kind)})
    assert spec.dtype in str(caught.value)


def test_the_other_byte_order_is_refused():
    swapped = np.zeros(2, np.dtype("float32").newbyteorder())
    with pytest.raises(InputError, match="dtype"):
        check_feeds((TensorSpec("x", "float32", (2,)),), {"x": swapped})


@given(tensor_specs(), st.data())
def test_every_wrong_rank_is_refused(made, data):
    specs, axes = made
    feeds = feeds_of(specs, axes)
    spec = data.draw(st.sampled_from(specs))
    wrong = [feeds[spec.name][None]] + ([feeds[spec.name][0]] if spec.shape else [])
    for value in wrong:
        with pytest.raises(InputError) as caught:
            check_feeds(specs, {**feeds, spec.name: np.asarray(value)})
        assert str(spec) in str(caught.value)


@given(tensor_specs(), st.data())
def test_every_wrong_fixed_size_is_refused(made, data):
    specs, axes = made
    fixed = [(spec, i) for spec in specs for i, dim in enumerate(spec.shape) if isinstance(dim, int)]
    if not fixed:
        return
    spec, i = data.draw(st.sampled_from(fixed))
    shape = list(spec.sized(axes))
    shape[i] = data.draw(st.integers(0, 6).filter(lambda size: size != shape[i]))
    with pytest.raises(InputError):
        check_feeds(specs, {**feeds_of(specs, axes), spec.name: np.zeros(shape, spec.dtype)})


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_an_empty_array_is_refused(shape):
    spec = TensorSpec("x", "float32", ("batch", "time"))
    with pytest.raises(InputError, match="empty"):
        check_feeds((spec,), {"x": np.zeros(shape, np.float32)})


@pytest.mark.parametrize("sizes", [(2, 3), (3, 2), (1, 4)])
def test_an_axis_named_twice_has_one_length(sizes):
    within = (TensorSpec("x", "int64", ("n", "n")),)
    across = (TensorSpec("a", "int64", ("n", 2)), TensorSpec("b", "int64", (2, "n")))
    with pytest.raises(InputError):
        check_feeds(within, {"x": np.zeros(sizes, np.int64)})
    with pytest.raises(InputError):
        check_feeds(across, {"a": np.zeros((sizes[0], 2), np.int64), "b": np.zeros((2, sizes[1]), np.int64)})


@pytest.mark.parametrize("value", [None, 1.0, [[1.0]], "x", np.float32(1), b"", range(3)])
def test_what_is_no_array_is_refused(value):
    with pytest.raises(InputError, match=type(value).__name__):
        check_feeds((TensorSpec("x", "float32", (1, 1)),), {"x": value})


@given(tensor_specs())
def test_specs_survive_json(made):
    specs, _ = made
    both = Specs(specs, specs[:1])
    assert Specs.from_json(both.to_json()) == both


@pytest.mark.parametrize("shape", ["batch", None, [0], [-1], [1.0], [None], [True], [[1]], {"a": 1}])
def test_a_shape_that_is_none_is_not_read(shape):
    with pytest.raises((KeyError, TypeError, ValueError)):
        TensorSpec.from_json({"name": "x", "dtype": "float32", "shape": shape})


def test_sized_takes_one_for_an_axis_that_nobody_names():
    assert TensorSpec("x", "float32", ("batch", 3, "time")).sized({"batch": 7}) == (7, 3, 1)


def test_the_arguments_of_a_call_by_name():
    specs = (TensorSpec("a", "float32", (1,)), TensorSpec("b", "float32", (1,)))
    first, second = np.zeros(1, np.float32), np.ones(1, np.float32)
    assert name_inputs(specs, (first, second)) == {"a": first, "b": second}
    assert name_inputs(specs, ({"b": second, "a": first},)) == {"a": first, "b": second}
    assert name_inputs(specs[:1], (first,)) == {"a": first}
    for wrong in ((), (first,), (first, second, first), ({"a": first}, second, first)):
        with pytest.raises(InputError, match=f"got {len(wrong)} arrays"):
            name_inputs(specs, wrong)


@given(tensor_specs(), tensor_specs(), st.lists(st.booleans(), max_size=8))
def test_what_was_found_right_once_hides_nothing_later(made, other, order):
    """`FeedCheck` says of every call what `check_feeds` says, whatever it has seen before."""
    specs = made[0]
    check = FeedCheck(specs)
    for right in order:
        given_ = feeds_of(*made) if right else feeds_of(*other)
        answers = []
        for one in (check, partial(check_feeds, specs)):
            try:
                one(given_)
                answers.append("")
            except InputError as error:
                answers.append(str(error))
        assert answers[0] == answers[1]


def test_a_right_shape_of_no_array_is_still_no_array():
    class Looks:
        dtype, shape = np.dtype(np.float32), (2,)

    check = FeedCheck([TensorSpec("x", "float32", ("n",))])
    check({"x": np.zeros(2, np.float32)})
    with pytest.raises(InputError, match="is a Looks"):
        check({"x": Looks()})
    with pytest.raises(InputError, match="got inputs"):
        check({"x": np.zeros(2, np.float32), "y": np.zeros(2, np.float32)})


def test_text_is_taken_as_numpy_has_it_and_as_objects():
    check = FeedCheck([TensorSpec("x", "str", ("n",))])
    for value in (np.array(["a", "bcd"]), np.array(["a", "bcd"], object)):
        check({"x": value})
    for value in (np.array(["a", 1], object), np.array([b"a"]), np.zeros(2)):
        with pytest.raises(InputError, match="takes text"):
            check({"x": value})
    with pytest.raises(InputError, match="dtype object"):
        FeedCheck([TensorSpec("x", "float32", ("n",))])({"x": np.array([1.0], object)})
