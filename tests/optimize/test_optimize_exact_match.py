"""Questions about a context: the best span, how it is judged, and a folder of transformers judged so, data and all."""

import json
from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from optimize import data, metrics
from optimize.data._answers import spans
from optimize.metrics.exact_match import LONGEST, best
from optimize.statistics import paired_drop
from runtime.errors import InputError

EM, F1, SAME = metrics.get("exact_match"), metrics.get("span_f1"), metrics.get("span_agreement")


def searched(begin, end, context, none):
    """The best span by trying each."""
    tried = [
        (begin[i] + end[j], i, j)
        for i in range(context[0], context[1] + 1)
        for j in range(i, min(i + LONGEST, context[1] + 1))
    ]
    found = max(tried)
    if none[0] >= 0 and begin[none[0]] + end[none[1]] > found[0]:
        return none
    return found[1:]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 45), st.booleans())
def test_the_best_span_is_found(seed, length, optional):
    random = np.random.default_rng(seed)
    begin, end = random.standard_normal((2, 7, length))
    context = np.sort(random.integers(0, length, (7, 2)), 1)
    none = np.full((7, 2), 0 if optional else -1)
    wanted = [searched(*one) for one in zip(begin, end, context, none, strict=True)]
    np.testing.assert_array_equal(best(begin, end, context, none), wanted)


def of_spans(found, length=12):
    """Outputs whose best span is this one."""
    hot = 9 * np.eye(length, dtype=np.float32)
    return {"start_logits": hot[[a for a, _ in found]], "end_logits": hot[[b for _, b in found]]}


def test_exact_match_and_f1_by_hand():
    outputs = of_spans([(3, 5), (3, 5), (3, 5), (0, 0)])
    labels = np.array(
        [
            [(2, 11), (-1, -1), (7, 8), (3, 5)],  # the second answer
            [(2, 11), (-1, -1), (4, 7), (-1, -1)],  # two of three, two of four
            [(2, 11), (0, 0), (0, 0), (-1, -1)],  # there is none
            [(2, 11), (0, 0), (0, 0), (-1, -1)],
        ]
    )
    np.testing.assert_array_equal(EM.update(outputs, labels), [[1], [0], [0], [1]])
    np.testing.assert_allclose(F1.update(outputs, labels)[:, 0], [1, 4 / 7, 0, 1])
    assert EM.finish(EM.update(outputs, labels)) == 0.5


def test_the_span_lies_in_the_context_begins_before_it_ends_and_is_short():
    labels = np.array([[(4, 9), (-1, -1), (5, 6)]])
    outputs = {"a": np.zeros((1, 12)), "b": np.zeros((1, 12))}
    outputs["a"][0, [1, 5, 8]], outputs["b"][0, [2, 6, 4]] = (99, 5, 9), (99, 5, 9)
    assert EM.update(outputs, labels) == 1  # not 1 to 2, which is the question's, nor 8 to 4
    long = {"a": 9 * np.eye(1, 40), "b": 9 * np.eye(1, 40, 30)}
    assert EM.update(long, np.array([[(0, 39), (-1, -1), (0, 30)]])) == 0


def test_an_answer_is_right_or_wrong_so_that_the_interval_is_tangos():
    labels = np.tile(np.array([[(2, 11), (-1, -1), (3, 5)]]), (40, 1, 1))
    rows = EM.update(of_spans([(3, 5)] * 40), labels)
    drop = paired_drop(rows, rows, EM.finish, True)
    assert drop.changed == 1.0 and drop.high > 0  # a bootstrap's would have no width


ODD = {
    "accuracy's": (np.zeros(2, np.int64), r"need whole numbers \(2, 2 \+ answers, 2\)"),
    "floats": (np.zeros((2, 3, 2)), "need whole numbers"),
    "without an answer": (np.zeros((2, 2, 2), np.int64), "need whole numbers"),
    "of another length": (np.full((2, 3, 2), 12), "token 12 of a label is outside the sample's, 0 to 11"),
    "without a context": (np.full((2, 3, 2), -1), "no context"),
    "backwards": (np.tile([[5, 3]], (2, 3, 1)), "ends before it begins"),
}


@pytest.mark.parametrize("metric", [EM, F1, SAME], ids=lambda one: one.name)
@pytest.mark.parametrize("name", ODD)
def test_labels_that_are_no_spans_are_refused(name, metric):
    labels, words = ODD[name]
    with pytest.raises(InputError, match=words):
        metric.update(of_spans([(1, 2)] * 2), labels)


def test_outputs_that_are_no_scores_of_tokens_are_refused():
    for outputs in ({"a": np.zeros((2, 5))}, {"a": np.zeros((2, 5)), "b": np.zeros((2, 6))}):
        with pytest.raises(InputError, match=r"spans need two of scores \(samples, length\)"):
            EM.update(outputs, np.zeros((2, 3, 2), np.int64))


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        st.sampled_from([np.int64, np.float32, np.bool_, np.uint8]),
        arrays.array_shapes(max_dims=4, max_side=4),
        elements=st.integers(0, 1),
    )
)
def test_labels_are_judged_or_refused_in_words(labels):
    try:
        assert EM.update(of_spans([(1, 2)] * 2), labels).shape == (2, 1)
    except InputError as error:
        assert str(error)


def test_without_labels_both_ends_count_and_padding_does_not():
    mask = (np.arange(12) < 8).astype(np.int64)[None]
    original, moved = of_spans([(3, 5)]), of_spans([(3, 6)])
    original["end_logits"][0, 9] = 99  # padding
    labels = SAME.own(original, {"attention_mask": mask})
    np.testing.assert_array_equal(labels, [[(0, 7), (-1, -1), (3, 5)]])
    assert SAME.update(original, labels) == 1 and SAME.update(moved, labels) == 0
    np.testing.assert_array_equal(SAME.own(original, {})[0, 0], (0, 11))


# --- data


CONTEXT = "one two one three"
CELLS = {
    "squad": ({"text": ["two", "two"], "answer_start": [4, 4]}, [(4, 7)]),
    "several": ({"text": ["one", "one two"], "answer_start": [8, 0]}, [(0, 7), (8, 11)]),
    "a list of dicts": ([{"text": "two", "answer_start": 4}], [(4, 7)]),
    "texts": (["one"], [(0, 3), (8, 11)]),
    "a text": ("three", [(12, 17)]),
}


def column(*cells):
    found = np.empty(len(cells), object)
    found[:] = cells
    return found


@pytest.mark.parametrize("name", CELLS)
def test_answers_are_read_in_every_form(name):
    cell, wanted = CELLS[name]
    (found,) = spans(column(cell), column(CONTEXT), "here")
    np.testing.assert_array_equal(found, wanted)


def test_a_question_without_an_answer_makes_none_an_answer():
    with_one, without = spans(column("two", {"text": [], "answer_start": []}), column(CONTEXT, CONTEXT), "here")
    np.testing.assert_array_equal(with_one, [(-1, -1), (4, 7)])
    np.testing.assert_array_equal(without, [(-1, -1)])


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ({"text": ["two"], "answer_start": [3]}, "here, row 2: the answer 'two' does not stand in the context"),
        ({"text": ["two"], "answer_start": [-13]}, "does not stand in the context"),
        (["four"], "the answer 'four' does not stand"),
        ({"text": ["two"], "answer_start": []}, r"1 answers have the places \[\]"),
        ({"text": ["two"], "answer_start": ["4"]}, "1 answers have the places"),
        ({"answer_start": [4]}, r"answers are .*text.*; got \{'answer_start': \[4\]\}"),
        ([1, 2], r"got \[1, 2\]"),
        ([""], "or a list of texts"),
        (3.5, "got 3.5"),
    ],
)
def test_answers_that_cannot_be_are_refused(cell, words):
    with pytest.raises(InputError, match=words):
        spans(column("two", cell), column(CONTEXT, CONTEXT), "here")


# --- the whole way


T = pytest.importorskip("transformers", reason="pip install 'edge-optimize[transformers]'")
tokenizers = pytest.importorskip("tokenizers", reason="pip install 'edge-optimize[text]'")
torch = pytest.importorskip("torch")

REST = ["the", "old", "house", "by", "river", "was", "painted", "once"]
SHADES, COLOURS = ["dark", "light"], ["red", "blue", "green"]


def questions(count, seed=0):
    """Rows as SQuAD has them, context before question, each of one colour, of one or two words."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        answer = random.choice(COLOURS) if number % 2 else f"{random.choice(SHADES)} {random.choice(COLOURS)}"
        before, after = (list(random.choice(REST, random.integers(1, 9))) for _ in range(2))
        start = len(" ".join(before)) + 1
        rows.append(
            {
                "id": str(number), "context": " ".join([*before, answer, *after]),
                "question": ["what was painted", "was the house old"][number % 2],
                "answers": {"text": [answer], "answer_start": [start]},
            }
        )  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def tokenizer():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", *REST, *SHADES, *COLOURS]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return T.PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=64, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def answerer(tokenizer, tmp_path_factory):
    """A model that finds the colour, trained for a moment."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = T.BertForQuestionAnswering(
        T.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes)
    ).train()
    given, (first, last) = tokens(tokenizer, questions(256))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(40):
        rows = torch.arange(step * 64, step * 64 + 64) % 256
        loss = model(**{k: v[rows] for k, v in given.items()}, start_positions=first[rows], end_positions=last[rows])
        optimizer.zero_grad()
        loss.loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("answerer")
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tokens(tokenizer, rows):
    """The inputs, and the answers' first and last tokens, by transformers' own."""
    given = tokenizer(
        [one["question"] for one in rows], [one["context"] for one in rows], padding=True, return_tensors="pt"
    )
    places = []
    for number, one in enumerate(rows):
        start, text = one["answers"]["answer_start"][0], one["answers"]["text"][0]
        places.append([given.char_to_token(number, at, 1) for at in (start, start + len(text) - 1)])
    return given, torch.tensor(places).T


def table(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(place, folder):
    from optimize import sources
    from optimize.progress import Progress
    from optimize.sources import ModelSpec
    from optimize.subject import read_data

    found = sources.load(ModelSpec("transformers", str(folder)))
    return found, read_data(
        place, None, None, None, found.inputs, Progress(1, silent=True), found.pre, meaning=found.meaning
    )[1]


def coloured(path, tokenizer):
    """A model as an ONNX file whose answers are colours alone, never their shades."""
    score = np.array([word in COLOURS for word in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))], np.float32)
    text = ", ".join(f"int64[batch, length] {name}" for name in ("input_ids", "attention_mask", "token_type_ids"))
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]>
        coloured ({text}) => (float[batch, length] start_logits, float[batch, length] end_logits) {{
            start_logits = Gather(score, input_ids)
            end_logits = Gather(score, input_ids)
        }}"""
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(score, "score"))
    onnx.save(model, path)
    return str(path)


def test_a_folder_that_answers_questions_is_judged_by_exact_match(answerer, tokenizer, tmp_path):
    from optimize.foreign import evaluate_all

    rows = questions(60, 1)
    rows[0]["answers"] = {"text": [rows[0]["context"].split()[0], *rows[0]["answers"]["text"]],
                          "answer_start": [0, *rows[0]["answers"]["answer_start"]]}  # fmt: skip
    place = table(tmp_path / "questions.jsonl", rows)
    given, (first, last) = tokens(tokenizer, questions(60, 1))
    original, material = read(place, answerer)
    assert material.metric.name == "exact_match" and material.own_labels
    assert original.pre[0].settings["max_length"] == 64
    assert any(
        "the labels are the column 'answers', for question and context; not used: id" in n for n in material.notes
    )
    labels = np.concatenate([batch[1][:, [0, 1, -1]] for batch in material.splits.whole().batches(1)])
    assert {(int(a), int(b)) for a, b in labels[:, 2]} == {*zip(first.tolist(), last.tolist(), strict=True)}
    with torch.no_grad():
        found = T.BertForQuestionAnswering.from_pretrained(answerer)(**given)
    context = [np.flatnonzero(np.array(given.sequence_ids(i)) == 1)[[0, -1]] for i in range(60)]
    ends = (value.double().numpy() for value in (found.start_logits, found.end_logits))
    chosen = [searched(*one, (-1, -1)) for one in zip(*ends, context, strict=True)]
    wanted = np.mean([one == (a, b) for one, a, b in zip(chosen, first.tolist(), last.tolist(), strict=True)])
    seen = evaluate_all(
        [str(answerer), coloured(tmp_path / "worse.onnx", tokenizer)], place, None, None, None, "5pp", None, False
    )
    assert seen["metric"] == "exact_match" and seen["samples"] == 60
    before, after = seen["models"].values()
    assert before["exact_match"] == pytest.approx(wanted) and wanted > 0.9
    assert after["exact_match"] == pytest.approx(0.5, abs=0.03)
    assert after["verdict"] == "exceeds" and after["changed_p"] < 0.01 and "agreement" not in after


def test_answers_behind_the_cut_are_left_out_and_none_may_be_an_answer(answerer, tmp_path):
    rows = questions(60, 2)
    rows[5]["context"] = " ".join(["house"] * 80 + ["red"])
    rows[5]["answers"] = {"text": ["red"], "answer_start": [480]}
    rows[7]["answers"] = {"text": [], "answer_start": []}
    _, material = read(table(tmp_path / "questions.jsonl", rows), answerer)
    assert any("1 of 60 samples cannot be read: an answer lies behind the 64 tokens" in n for n in material.notes)
    labels = [batch[1][0] for batch in material.splits.whole().batches(1)]
    assert len(labels) == 59 and all((one[1] == 0).all() for one in labels)
    assert sum((one[2] == 0).all() for one in labels) == 1


def test_questions_without_answers_are_judged_by_the_originals_span(answerer, tmp_path):
    rows = [{key: row[key] for key in ("context", "question")} for row in questions(30)]
    _, material = read(table(tmp_path / "questions.jsonl", rows), answerer)
    assert material.metric.name == "span_agreement" and not material.own_labels
    assert "'span_agreement' was taken, without labels: the share of questions" in material.notes[-1]
    assert material.splits.test.take(2)[0]["token_type_ids"][0, 1] == 0  # the question came first
    assert material.pre[0].columns == ("question", "context")


def test_tokens_padded_on_the_left_have_no_spans(answerer, tmp_path):
    original, _ = read(table(tmp_path / "q.jsonl", questions(9)), answerer)
    spec = original.pre[0]
    reader = replace(spec, settings={**spec.settings, "left": True}).open(original.inputs)
    with pytest.raises(InputError, match="padded on the right"):
        reader.spans(np.array([(0, 3)]), "what", "the red")
    np.testing.assert_array_equal(
        spec.open(original.inputs).spans(np.array([(4, 7)]), "what", "the red"), [(3, 4), (-1, -1), (4, 4)]
    )


def test_answers_without_a_context_are_refused_by_the_table(tmp_path):
    rows = [{"question": "a", "answers": {"text": ["b"], "answer_start": [0]}}] * 9
    with pytest.raises(
        InputError, match="'answers' are of a question and its context, and there is no column 'context'"
    ):
        data.load("table", table(tmp_path / "q.jsonl", rows))
