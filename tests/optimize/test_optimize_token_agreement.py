"""Without labels: sequences place by place, embeddings by their angle, and what a model of transformers takes of it."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from optimize import metrics
from optimize.answers import Answers
from optimize.data import Split
from optimize.evaluate import evaluate
from optimize.metrics import Rows
from runtime.contender import Contender
from runtime.errors import InputError

TOKENS, COSINE = metrics.get("token_agreement"), metrics.get("cosine_similarity")


def judged(metric, original, candidate, **feeds):
    return metric.update({"y": candidate}, metric.own({"y": original}, feeds))


def test_places_count_one_by_one_and_padding_does_not():
    original = np.eye(3)[[[0, 1, 2, 0], [1, 1, 0, 0]]]
    candidate = np.eye(3)[[[0, 1, 1, 1], [1, 1, 2, 2]]]
    np.testing.assert_array_equal(judged(TOKENS, original, candidate), [[2, 4], [2, 4]])
    mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0]])
    rows = judged(TOKENS, original, candidate, input_ids=mask, attention_mask=mask)
    np.testing.assert_array_equal(rows, [[2, 3], [2, 2]])
    assert TOKENS.finish(rows) == 4 / 5
    other = np.ones((2, 5))  # a sound's mask, of samples and not of frames
    np.testing.assert_array_equal(judged(TOKENS, original, candidate, attention_mask=other)[:, 1], [4, 4])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([(5, 7), (5, 4, 3), (5, 2, 3, 4)]))
def test_the_cosine_is_scipys(seed, shape):
    from scipy.spatial.distance import cosine

    random = np.random.default_rng(seed)
    a, b = random.standard_normal((2, *shape)).astype(np.float32)
    mask = np.arange(shape[1]) < random.integers(1, shape[1] + 1, 5)[:, None]
    found = judged(COSINE, a, b, attention_mask=mask)
    if len(shape) == 3:
        alike = [[1 - cosine(a[i, j], b[i, j]) for j in np.flatnonzero(mask[i])] for i in range(5)]
    else:
        alike = [[1 - cosine(a[i].ravel(), b[i].ravel())] for i in range(5)]
    np.testing.assert_allclose(found[:, 0], [np.mean(one) for one in alike], atol=1e-5)


def test_the_cosine_of_nothing():
    some, nothing = np.ones((1, 4)), np.zeros((1, 4))
    assert judged(COSINE, nothing, nothing) == 1
    assert judged(COSINE, some, nothing) == judged(COSINE, nothing, some) == 0
    assert judged(COSINE, some, 3 * some) == pytest.approx(1) and judged(COSINE, some, -some) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("metric", "original", "candidate", "words"),
    [
        (TOKENS, np.zeros((4, 3)), np.zeros((4, 3)), r"needs class scores \(samples, length, classes\)"),
        (TOKENS, np.zeros((4, 3, 2)), np.zeros((4, 2, 3)), r"the original's float64 \(4, 3, 2\)"),
        (COSINE, np.zeros(4), np.zeros(4), r"needs \(samples, width\)"),
        (COSINE, np.zeros((4, 3)), np.zeros((4, 5)), "needs the same"),
    ],
)
def test_answers_that_do_not_fit_are_refused(metric, original, candidate, words):
    with pytest.raises(InputError, match=words):
        judged(metric, original, candidate)


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, arrays.array_shapes(max_dims=4, max_side=3), elements=st.floats(-1, 1, width=32)))
@pytest.mark.parametrize("metric", [TOKENS, COSINE], ids=lambda one: one.name)
def test_an_original_agrees_with_itself_or_is_refused(metric, value):
    try:
        rows = Rows.of(judged(metric, value, value))
    except InputError:
        return
    assert len(rows) == len(value) and metric.finish(rows.values) == pytest.approx(1)


def test_answers_whose_largest_place_is_no_class_are_not_called_alike():
    random = np.random.default_rng(0)
    before, after = random.standard_normal((2, 9, 4))
    found = Answers(classes=COSINE.classes)
    found.update({"y": before}, {"y": after}, None, 0)
    assert found.finish().agreement is None and len(found.finish().moved) == 9


def test_evaluating_knows_what_is_padding(tmp_path, monkeypatch):
    """Contenders that differ in padding alone agree, a batch that is filled up too."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "padded.py").write_text(
        "import numpy as np\n"
        "class Session:\n"
        "    threads = None\n"
        "    def __init__(self, moved): self.moved = moved\n"
        "    def run(self, feeds, out=None):\n"
        "        x = np.eye(3, dtype=np.float32)[feeds['x']]\n"
        "        return {'y': np.where(feeds['attention_mask'][:, :, None] > 0, x, np.roll(x, self.moved, 2))}\n"
        "    def close(self): pass\n"
        "def open(moved): return Session(moved)\n"
    )
    rows = [Contender(str(moved), "padded:open", {"moved": moved}) for moved in (0, 1)]
    x, mask = np.arange(28).reshape(7, 4) % 3, (np.arange(4) < np.arange(1, 8)[:, None] % 4 + 1).astype(np.int64)
    split = Split("test", lambda: [({"x": x, "attention_mask": mask}, None)])
    for fixed in (False, True):
        found = evaluate(rows, split, TOKENS, 4, fixed=fixed).statistics["1"]
        np.testing.assert_array_equal(found.values, np.stack([mask.sum(1)] * 2, 1))


T = pytest.importorskip("transformers", reason="pip install 'edge-optimize[transformers]'")
torch = pytest.importorskip("torch")
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
KINDS = {
    "classes": (lambda c: T.BertForSequenceClassification(c), "agreement"),
    "tokens": (lambda c: T.BertForTokenClassification(c), "token_agreement"),
    "answers": (lambda c: T.BertForQuestionAnswering(c), "span_agreement"),
    "masks": (lambda c: T.BertForMaskedLM(c), "token_agreement"),
    "features": (lambda c: T.BertModel(c), "cosine_similarity"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_without_labels_has_its_own_agreement(kind, tmp_path):
    from optimize import sources
    from optimize.progress import Progress
    from optimize.sources import ModelSpec
    from optimize.subject import read_data

    build, wanted = KINDS[kind]
    torch.manual_seed(0)
    build(T.BertConfig(vocab_size=50, **TINY)).eval().save_pretrained(tmp_path)
    original = sources.load(ModelSpec("transformers", str(tmp_path)))
    row = {"input_ids": [5, 6, 7, 0], "attention_mask": [1, 1, 1, 0]}
    (tmp_path / "d.jsonl").write_text(f"{json.dumps(row)}\n" * 9)

    def read(metric=None):
        progress = Progress(1, silent=True)
        place = str(tmp_path / "d.jsonl")
        return read_data(place, None, metric, None, original.inputs, progress, meaning=original.meaning)[1]

    material = read()
    assert material.metric.name == wanted and not material.own_labels
    assert f"'{wanted}' was taken, without labels: the" in material.notes[-1]
    feeds, _ = material.splits.test.take(2)
    outputs = original.open().run(feeds)
    rows = Rows.of(material.metric.update(outputs, material.metric.own(outputs, feeds)))
    assert material.metric.finish(rows.values) == pytest.approx(1)
    assert wanted != "token_agreement" or (rows.values[:, 1] == 3).all()
    with pytest.raises(InputError, match=f"'accuracy' needs labels, and the data has none: leave it out for {wanted}"):
        read("accuracy")
