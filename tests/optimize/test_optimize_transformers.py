"""Folders of transformers: they load, run, export and travel with what makes their inputs, without a network."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from optimize import sources
from optimize.models import TorchModel
from optimize.sources import ModelSpec
from runtime.errors import InputError
from runtime.pre import Preprocessing
from runtime.tensors import TensorSpec

T = pytest.importorskip("transformers", reason="pip install 'edge-optimize[transformers]'")
tokenizers = pytest.importorskip("tokenizers", reason="pip install 'edge-optimize[text]'")
torch = pytest.importorskip("torch")

GOOD, BAD = ["good", "great", "lovely", "superb"], ["bad", "poor", "awful", "dreadful"]
REST = ["the", "film", "was", "rather", "and", "story", "its", "music"]
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def sentences(count, seed=0):
    """Texts of 2 to 20 words with one word that decides, and whether it is a good one."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, count)
    texts = []
    for label in labels:
        words = list(random.choice(REST, random.integers(1, 20)))
        words.insert(random.integers(0, len(words) + 1), random.choice(GOOD if label else BAD))
        texts.append(" ".join(words))
    return texts, labels


@pytest.fixture(scope="module")
def tokenizer():
    made = tokenizers.BertWordPieceTokenizer()
    made.train_from_iterator(sentences(400)[0], vocab_size=200, show_progress=False)
    return T.PreTrainedTokenizerFast(
        tokenizer_object=made._tokenizer, model_max_length=512, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        unk_token="[UNK]", mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No network, whatever happens."""
    import socket

    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: pytest.fail("a network was asked"))


@pytest.fixture(scope="module")
def judge(tokenizer, tmp_path_factory):
    """A classifier of good and bad that was trained for a moment."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = T.BertConfig(vocab_size=len(tokenizer), num_labels=2, id2label={0: "bad", 1: "good"}, **TINY)
    model = T.BertForSequenceClassification(config).train()
    texts, labels = sentences(512)
    given = tokenizer(texts, padding=True, return_tensors="pt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(60):
        rows = torch.arange(step * 64, step * 64 + 64) % 512
        loss = model(**{k: v[rows] for k, v in given.items()}, labels=torch.from_numpy(labels)[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("judge")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def saved(folder, model, tokenizer=None):
    model.eval().save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return ModelSpec("transformers", str(folder))


def made(original, **columns):
    """The inputs of raw samples."""
    specs = [replace(spec, columns=tuple(columns)) for spec in original.pre]
    return Preprocessing(specs, original.inputs)({name: list(values) for name, values in columns.items()})


def exported(original, feeds, make_context, lengths=()):
    """Of a module as ONNX: its answers, after the step has held them against torch."""
    from optimize.steps.export import Step
    from optimize.verify import judge

    axes = {"batch": {"min": 1, "best": 1, "max": 4}}
    context = make_context(feeds, axes)
    model = Step(exporter="dynamo")(TorchModel(original.model, original.inputs), context)
    assert "dynamo" in context.notes[-1]
    session, own = judge(model), original.open()
    for length in lengths:
        cut = {name: np.resize(value, (3, length)) for name, value in feeds.items()}
        for name, value in own.run(cut).items():
            np.testing.assert_allclose(session.run(cut)[name], value, atol=1e-4)
    return model


def test_a_classifier_of_text_answers_as_transformers_does(judge, tokenizer):
    assert sources.detect(str(judge)) == "transformers"
    original = sources.load(ModelSpec("transformers", str(judge)))
    assert [str(one) for one in original.inputs] == [
        f"{name}: int64[batch, length]" for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    texts, labels = sentences(200, 1)
    got = original.open().run(made(original, text=texts))["logits"]
    model = T.BertForSequenceClassification.from_pretrained(judge)
    with torch.no_grad():
        wanted = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert (got.argmax(1) == labels).mean() > 0.9
    assert "classes are bad, good" in original.notes[0]
    assert "cut at 128 tokens, of 512" in original.notes[1]


def test_it_is_the_same_in_onnx_at_other_batches_and_lengths(judge, make_context):
    original = sources.load(ModelSpec("transformers", str(judge)))
    exported(original, made(original, text=sentences(16)[0]), make_context, lengths=(3, 40, 100))


def recipe_of(folder, judge, **more):
    texts, labels = sentences(240, 2)
    rows = [{"text": text, "label": ["bad", "good"][label]} for text, label in zip(texts, labels, strict=True)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    from optimize import recipe

    table = {"model": {"path": str(judge)}, "data": {"path": "data.jsonl"}, "targets": {"onnxruntime": {}}, **more}
    return recipe.from_table(table, folder)


def prepared(asked):
    from optimize.progress import Progress
    from optimize.subject import prepare

    return prepare(asked, Progress(1, silent=True), None)


def test_a_recipe_knows_the_lengths_and_rounds_the_model(judge, tmp_path):
    from optimize.build import Builder, Built
    from optimize.evaluate import evaluate
    from optimize.plan import expand
    from optimize.progress import Progress
    from runtime import host
    from runtime.cache import Cache

    asked = recipe_of(tmp_path, judge, steps=[{"use": "quantize_static"}])
    subject = prepared(asked)
    (text,) = subject.pre
    assert text.columns == ("text",) and text.settings["lengths"] == [16, 24, 128]
    assert subject.axes["length"] == {"min": 16, "best": 16, "max": 128}
    assert subject.feeds["input_ids"].shape == (1, 16)
    assert any("padded to 16, 24, 128" in note for note in subject.notes)
    assert not any("when it is padded" in note for note in subject.notes)  # BERT leaves the padding out
    progress = Progress(1, silent=True)
    builder = Builder(subject, Cache(tmp_path / "cache"), {}, tmp_path / "failed", tmp_path / "log.txt", progress)
    built = [builder.build(one) for one in expand(asked, host.facts()) if one.role != "vendor"]
    assert all(isinstance(one, Built) for one in built), built
    contenders = [subject.contender, *(one.contender for one in built)]
    scores = evaluate(contenders, subject.splits.test, subject.metric, 8)
    assert not scores.failed and not scores.wrong
    values = {name: subject.metric.finish(rows.values) for name, rows in scores.statistics.items()}
    assert values["original"] > 0.9
    assert all(abs(value - values["original"]) < 0.05 for value in values.values())
    assert "int8" in built[-1].precision or "u8" in built[-1].precision


def read_of(asked, original):
    from optimize import data, preprocessing

    specs = preprocessing.merged(asked.preprocessing(), original.pre)
    return preprocessing.read(data.load("table", asked.data_place()), specs, original.inputs)


def test_a_recipe_may_change_what_the_model_comes_with(judge, tmp_path):
    asked = recipe_of(tmp_path, judge, pre=[{"kind": "text", "max_length": 64, "lengths": [32, 64]}])
    read = read_of(asked, sources.load(asked.model_spec()))
    assert read.specs[0].settings["lengths"] == [32, 64] and read.specs[0].files["tokenizer"]
    assert read.axes["length"] == {"min": 32, "best": 32, "max": 64}


def test_a_model_that_minds_padding_is_told(judge, tokenizer, tmp_path):
    from optimize import padding

    asked = recipe_of(tmp_path, judge)
    minding = T.PreTrainedTokenizerFast(  # makes no mask, so that the model cannot know
        tokenizer_object=tokenizer.backend_tokenizer, pad_token="[PAD]", model_input_names=["input_ids"]
    )
    torch.manual_seed(0)
    model = T.BertForSequenceClassification(T.BertConfig(vocab_size=len(tokenizer), **TINY))
    spec = saved(tmp_path / "model", model, minding)
    blind = replace(spec, inputs=(TensorSpec("input_ids", "int64", ("batch", "length")),))
    for one, told in ((asked.model_spec(), 0), (blind, 1)):
        original = sources.load(one)
        read = read_of(asked, original)
        notes = padding.check(original.open(), read.specs, read.splits.validate, original.inputs)
        assert len(notes) == told
    assert "when it is padded to the length of others" in notes[0]


def test_the_bundles_preprocessing_needs_no_transformers(judge):
    original = sources.load(ModelSpec("transformers", str(judge)))
    code = """
import json, sys
sys.modules["transformers"] = sys.modules["torch"] = None
from runtime.pre import PreSpec, Preprocessing
from runtime.tensors import TensorSpec
spec, inputs = json.loads(sys.argv[1])
spec = PreSpec(spec["kind"], ("text",), spec["settings"], spec["files"])
made = Preprocessing([spec], [TensorSpec.from_json(one) for one in inputs])({"text": ["the film was good", "bad"]})
print(json.dumps({name: value.tolist() for name, value in made.items()}))
"""
    given = json.dumps([original.pre[0].to_json(), [one.to_json() for one in original.inputs]])
    done = subprocess.run([sys.executable, "-c", code, given], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = made(original, text=["the film was good", "bad"])
    assert json.loads(done.stdout) == {name: value.tolist() for name, value in wanted.items()}


def test_a_classifier_of_pictures_takes_what_its_processor_gives(tmp_path, make_context):
    torch.manual_seed(0)
    spec = saved(tmp_path, T.ViTForImageClassification(T.ViTConfig(image_size=32, patch_size=8, **TINY)))
    processor = T.ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.4, 0.5, 0.6])
    processor.save_pretrained(tmp_path)
    original = sources.load(spec)
    assert str(original.inputs[0]) == "pixel_values: float32[batch, 3, 32, 32]"
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (20 + 7 * i, 50 - i, 3)).astype(np.uint8) for i in range(6)]
    feeds = made(original, image=pictures)
    wanted = np.concatenate([processor(images=one, return_tensors="np")["pixel_values"] for one in pictures])
    np.testing.assert_allclose(feeds["pixel_values"], wanted, atol=1e-5)
    exported(original, feeds, make_context)


CUT = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
PROCESSORS = {
    "stretched": (lambda: T.ViTImageProcessorPil(size={"height": 32, "width": 32}, resample=3), None),
    "cut": (lambda: T.CLIPImageProcessorPil(**CUT), None),
    "a share": (lambda: T.ConvNextImageProcessorPil(size={"shortest_edge": 32}), None),
    "as it is": (lambda: T.ViTImageProcessorPil(size={"height": 32, "width": 32}, do_normalize=False), None),
    "stretched, then cut": (lambda: T.DeiTImageProcessorPil(), "stretched, and then crop_size"),
    "not cut": (lambda: T.CLIPImageProcessorPil(**{**CUT, "do_center_crop": False}), "without a crop_size within it"),
    "padded": (lambda: T.ViTImageProcessorPil(do_pad=True), "does not do: do_pad"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSORS)
def test_an_image_processor_is_followed_or_refused_by_name(name, tmp_path):
    from optimize.sources import _processor

    build, refused = PROCESSORS[name]
    build().save_pretrained(tmp_path)
    inputs = [TensorSpec("pixel_values", "float32", ("batch", 3, "height", "width"))]
    given = (T, str(tmp_path), {"local_files_only": True}, _processor.read(str(tmp_path)), inputs)
    if refused:
        with pytest.raises(InputError, match=refused):
            _processor.spec(*given)
    else:
        specs, notes = _processor.spec(*given)  # holds it against the processor itself
        assert specs[0].kind == "image" and notes == []


def tiny(kind):
    torch.manual_seed(0)
    words = {"vocab_size": 200, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
              "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "d_model": 32, "decoder_start_token_id": 1}  # fmt: skip
    wave = {**TINY, "vocab_size": 32, "conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 8),
            "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}  # fmt: skip
    return {
        "tokens": lambda: T.RobertaForTokenClassification(T.RobertaConfig(**words, **TINY, max_position_embeddings=66)),
        "answers": lambda: T.DistilBertForQuestionAnswering(
            T.DistilBertConfig(vocab_size=200, dim=32, n_layers=1, n_heads=2, hidden_dim=64)
        ),
        "words": lambda: T.GPT2LMHeadModel(T.GPT2Config(**words, n_embd=32, n_layer=1, n_head=2, n_positions=64)),
        "translation": lambda: T.BartForConditionalGeneration(
            T.BartConfig(**words, **layers, max_position_embeddings=64, forced_eos_token_id=None)
        ),
        "sound": lambda: T.Wav2Vec2ForCTC(T.Wav2Vec2Config(**wave, num_feat_extract_layers=2)),
        "speech": lambda: T.WhisperForConditionalGeneration(
            T.WhisperConfig(**words, **layers, num_mel_bins=8, max_source_positions=20, max_target_positions=32)
        ),
        "features": lambda: T.BertModel(T.BertConfig(vocab_size=200, **TINY)),
    }[kind]()


@pytest.mark.parametrize(
    ("kind", "takes", "gives"),
    [
        ("tokens", ["input_ids", "attention_mask"], {"logits": (2, 9, 2)}),
        ("answers", ["input_ids", "attention_mask"], {"start_logits": (2, 9), "end_logits": (2, 9)}),
        ("words", ["input_ids", "attention_mask"], {"logits": (2, 9, 200)}),
        ("translation", ["input_ids", "attention_mask", "decoder_input_ids"], {"logits": (2, 9, 200)}),
        ("sound", ["input_values"], {"logits": (2, 43, 32)}),
        ("speech", ["input_features", "decoder_input_ids"], {"logits": (2, 9, 200)}),
        ("features", ["input_ids", "attention_mask"], {"last_hidden_state": (2, 9, 32)}),
    ],
)
def test_every_task_runs(kind, takes, gives, tmp_path):
    original = sources.load(saved(tmp_path, tiny(kind)))
    assert [one.name for one in original.inputs] == takes
    random, sizes = np.random.default_rng(0), {"batch": 2, "length": 9, "target": 9, "samples": 900}
    feeds = {}
    for spec in original.inputs:
        shape = tuple(size if isinstance(size, int) else sizes[size] for size in spec.shape)
        whole = random.integers(3, 100, shape) if spec.name != "attention_mask" else np.ones(shape)
        feeds[spec.name] = (whole if spec.dtype == "int64" else random.standard_normal(shape)).astype(spec.dtype)
    found = original.open().run(feeds)
    assert {name: value.shape for name, value in found.items()} == gives
    assert "the model takes arrays" in original.notes[-1]
    assert ("token by token is the caller's" in original.notes[0]) == (kind in ("words", "translation", "speech"))


def test_text_to_text_is_the_same_in_onnx(tmp_path, make_context):
    original = sources.load(saved(tmp_path, tiny("translation")))
    random = np.random.default_rng(0)
    ids, target = random.integers(3, 100, (8, 12)), random.integers(3, 100, (8, 5))
    mask = (np.arange(12) < random.integers(3, 13, 8)[:, None]).astype(np.int64)
    feeds = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": target}
    exported(original, feeds, make_context, lengths=(7,))


@pytest.mark.parametrize("mode", ["mean", "cls", "max"])
def test_sentences_are_pooled_as_the_folder_says(mode, tokenizer, tmp_path):
    torch.manual_seed(0)
    model = T.BertModel(T.BertConfig(vocab_size=len(tokenizer), **TINY)).eval()
    spec = saved(tmp_path, model, tokenizer)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    names = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}
    asked = {f"pooling_mode_{name}": key == mode for key, name in names.items()}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(asked))
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    original = sources.load(spec)
    assert original.pre[0].settings["max_length"] == 12
    texts = ["the film was good", "bad", "its story and its music"]
    found = original.open().run(made(original, text=texts))["sentence_embedding"]
    for text, one in zip(texts, found, strict=True):
        with torch.no_grad():
            tokens = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        wanted = {"mean": tokens.mean(0), "cls": tokens[0], "max": tokens.amax(0)}[mode].numpy()
        np.testing.assert_allclose(one, wanted / np.linalg.norm(wanted), atol=1e-5)
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode": "lasttoken"}')
    with pytest.raises(InputError, match=r"pools by lasttoken; what is done here is one of mean, cls, max"):
        sources.load(spec)


def test_what_was_pooled_otherwise_is_another_model_in_the_cache(judge):
    first = sources.load(ModelSpec("transformers", str(judge))).model
    assert first.extra_repr() == sources.load(ModelSpec("transformers", str(judge))).model.extra_repr()
    other = T.BertConfig.from_pretrained(judge)
    other.num_attention_heads = 4
    first.model.config = other
    from optimize.sources.transformers import _named

    assert _named(first.model, ["input_ids"], ["logits"], None).extra_repr() != first.extra_repr()


@pytest.mark.parametrize(
    ("build", "takes"),
    [
        (lambda: T.Wav2Vec2FeatureExtractor(), TensorSpec("input_values", "float32", ("batch", "samples"))),
        (
            lambda: T.WhisperFeatureExtractor(feature_size=8, chunk_length=2),
            TensorSpec("input_features", "float32", ("batch", 8, 200)),
        ),
    ],
    ids=["wave", "spectrum"],
)
def test_a_feature_extractor_is_followed(build, takes, tmp_path):
    from optimize.sources import _extractor
    from runtime import pre

    build().save_pretrained(tmp_path)
    specs, notes = _extractor.spec(T, str(tmp_path), {"local_files_only": True}, [takes])  # compares
    assert [one.kind for one in specs] == (["audio"] if "audio" in pre.names() else [])
    assert bool(notes) != bool(specs)


def changed(folder, judge, **values):
    shutil.copytree(judge, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"architectures": ["BertForPreTraining"]}, r"not known here \(BertForPreTraining, model_type bert\): what"),
        ({"architectures": ["BertForQuestionAnswering"]}, "lacks 2 weights of BertForQuestionAnswering"),
        ({"architectures": None}, r"not known here \(none that it names"),
        ({"model_type": "no_such"}, "the config of .* cannot be read by transformers"),
        ({"auto_map": {"AutoConfig": "mine.Config"}, "model_type": "mine"}, "cannot be read by transformers"),
        ({"vocab_size": 300}, "lacks 1 weights"),
    ],
)  # fmt: skip
def test_a_folder_that_is_not_whole_is_refused(values, words, judge, tmp_path):
    changed(tmp_path, judge, **values)
    with pytest.raises(InputError, match=words):
        sources.load(ModelSpec("transformers", str(tmp_path)))


def test_a_tokenizer_of_another_model_is_refused(judge, tokenizer, tmp_path):
    shutil.copytree(judge, tmp_path, dirs_exist_ok=True)
    more = T.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, pad_token="[PAD]")
    more.add_tokens(["one", "token", "more"])
    more.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"does not fit the model: it has the token number \d+, and the model knows"):
        sources.load(ModelSpec("transformers", str(tmp_path)))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"the tokenizer of .* cannot be read"):
        sources.load(ModelSpec("transformers", str(tmp_path)))


def test_damaged_or_missing_weights_are_refused(judge, tmp_path):
    shutil.copytree(judge, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"the weights of .* cannot be read"):
        sources.load(ModelSpec("transformers", str(tmp_path)))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"the weights of .* cannot be read"):
        sources.load(ModelSpec("transformers", str(tmp_path)))
    with pytest.raises(InputError, match="no such folder"):
        sources.load(ModelSpec("transformers", str(tmp_path / "none")))


def test_a_name_of_the_hub_stays_a_name(tmp_path):
    from optimize import recipe

    table = {"data": {"path": "x.jsonl"}, "targets": {"onnxruntime": {}}}
    asked = recipe.from_table({"model": {"path": "owner/name", "source": "transformers"}, **table}, tmp_path)
    assert asked.model_spec().place == "owner/name"
    asked = recipe.from_table({"model": {"path": "m.onnx"}, **table}, tmp_path)
    assert asked.model_spec().place == str(tmp_path / "m.onnx")
