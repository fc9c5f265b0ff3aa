import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from runtime import wire

DTYPES = ("bool", "int8", "uint8", "float16", ">i4", "int64", "float32", "float64", "complex64", "S3", "U4", "M8[s]")
array = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(np.dtype(dtype), arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
)
messages = st.dictionaries(
    st.text(max_size=5).filter(lambda key: key != "arrays"),
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.lists(st.integers(), max_size=2)),
    max_size=3,
)


def sent(*pairs):
    stream = io.BytesIO()
    for message, values in pairs:
        wire.send(stream, message, values)
    return stream.getvalue()


def same(got, wanted):
    return got.keys() == wanted.keys() and all(
        got[name].dtype == value.dtype and got[name].shape == value.shape and got[name].tobytes() == value.tobytes()
        for name, value in wanted.items()
    )


@given(st.lists(st.tuples(messages, st.dictionaries(st.text(max_size=5), array, max_size=3)), min_size=1, max_size=3))
def test_messages_arrive_as_they_were_sent(pairs):
    stream = io.BytesIO(sent(*pairs))
    for message, values in pairs:
        got, found = wire.receive(stream)
        assert got == message
        assert same(found, values)
    with pytest.raises(EOFError):
        wire.receive(stream)


@pytest.mark.parametrize(
    "value", [np.arange(24.0).reshape(2, 3, 4).T, np.arange(24)[::-3], np.asfortranarray(np.eye(3))]
)
def test_the_order_in_memory_does_not_matter(value):
    _, found = wire.receive(io.BytesIO(sent(({}, {"x": value}))))
    np.testing.assert_array_equal(found["x"], value)


def test_a_message_cut_anywhere_is_the_end():
    whole = sent(({"do": "run"}, {"x": np.arange(3, dtype=np.int16), "y": np.ones((2, 2), np.uint8)}))
    for length in range(len(whole)):
        with pytest.raises(EOFError):
            wire.receive(io.BytesIO(whole[:length]))


def test_objects_are_not_unpickled():
    with pytest.raises(ValueError, match=r"(?i)object"):
        wire.receive(io.BytesIO(b'{"arrays": [{"name": "x", "dtype": "|O", "shape": [1]}]}\n' + b"\0" * 8))


def test_text_that_is_objects_arrives_as_text():
    stream = io.BytesIO(sent(({}, {"y": np.array([["red", "blue"]], object)})))
    found = wire.receive(stream)[1]["y"]
    assert found.dtype.kind == "U" and found.tolist() == [["red", "blue"]]
