"""Speech by CTC: frames become words by the model's own vocabulary, and a folder of transformers is judged by them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize import data, metrics, sources
from optimize.sources import ModelSpec
from optimize.sources._ctc import Decoder, decoder, said
from runtime.errors import InputError

T = pytest.importorskip("transformers", reason="pip install 'edge-optimize[transformers]'")
torch = pytest.importorskip("torch")
soundfile = pytest.importorskip("soundfile", reason="pip install 'edge-optimize[audio]'")

TOKENS = ["<pad>", "<unk>", "|", "A", "B", "C"]
TONES = {"A": 600, "B": 1500, "C": 3000}
RATE, LETTER, HOP = 8000, 400, 100


def collapsed(tokens, blank):
    """By the definition: a frame says its token where the frame before said another, and it is no blank."""
    before = [None, *tokens]
    return [one for last, one in zip(before, tokens, strict=False) if one not in (last, blank)]


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(0, 3))
def test_repeats_are_one_and_blanks_are_nothing(tokens, blank):
    assert said(tokens, blank) == collapsed(tokens, blank)


def test_a_blank_between_makes_two_of_one():
    assert said([3, 3, 0, 3, 0, 0, 4], 0) == [3, 3, 4]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.json"
    path.write_text(json.dumps({token: number for number, token in enumerate(TOKENS)}))
    return T.Wav2Vec2CTCTokenizer(
        str(path), bos_token=None, eos_token=None, unk_token="<unk>", pad_token="<pad>", word_delimiter_token="|"
    )


def hot(*rows):
    return 9 * np.eye(len(TOKENS), dtype=np.float32)[list(rows)]


def test_texts_are_those_of_transformers(tokenizer):
    random = np.random.default_rng(0)
    frames = random.choice([0, 2, 3, 4, 5], (50, 40))
    found = Decoder(tokenizer, 0).texts(hot(*frames))
    assert found.tolist() == tokenizer.batch_decode(frames.tolist())  # which collapses by itself
    assert Decoder(tokenizer, 0).texts(hot([3, 0, 3, 2, 1, 4])).tolist() == ["AA B"]  # the unknown token is left out


def test_which_token_is_the_blank(tokenizer):
    assert decoder(tokenizer, T.Wav2Vec2Config(pad_token_id=4)).blank == 4
    assert decoder(tokenizer, T.Wav2Vec2Config(pad_token_id=None)).blank == 0
    assert decoder(None, T.Wav2Vec2Config()) is None


def test_scores_become_texts_where_the_labels_are_some(tokenizer):
    metric = metrics.of_texts(metrics.get("word_error_rate"), Decoder(tokenizer, 0))
    scores = hot([3, 3, 2, 4], [5, 0, 5, 0])  # "A B", "CC"
    rows = metric.update({"logits": scores}, np.array(["A B", "A CC"]))
    np.testing.assert_array_equal(rows, [[0, 2], [1, 2]])
    np.testing.assert_array_equal(metric.update({"logits": scores}, np.array(["a b", "a cc"])), rows)  # their case
    numbers = np.array([[1, 2], [3, -1]])
    assert metric.update({"words": numbers}, numbers)[:, 0].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.array(["xyz", "q"]), "the labels, 'XYZ' say, have no letter of the model's vocabulary: ABC"),
        (np.array([1, 2]), "labels of dtype int64"),
        (np.array(["A"]), "2 answers for 1 labels"),
    ],
)
def test_labels_that_the_model_cannot_say_are_refused(labels, words, tokenizer):
    metric = metrics.of_texts(metrics.get("word_error_rate"), Decoder(tokenizer, 0))
    with pytest.raises(InputError, match=words):
        metric.update({"logits": hot([3, 2], [4, 4])}, labels)


def test_scores_of_another_shape_are_refused(tokenizer):
    with pytest.raises(InputError, match=r"what is said needs \(samples, frames, tokens\)"):
        Decoder(tokenizer, 0).texts(np.zeros((2, 6)))


# --- the whole way


def recording(text, random):
    """A tone for each letter, a shorter silence after it and in place of a space; and each frame's token."""
    parts, frames = [], []
    for one in text:
        length = LETTER if one in TONES else LETTER // 2
        wave = np.sin(2 * np.pi * TONES.get(one, 0) * np.arange(length) / RATE)
        parts += [wave if one in TONES else random.uniform(-0.9, 0.9, length), np.zeros(LETTER // 4)]
        frames += [TOKENS.index(one.replace(" ", "|"))] * (length // HOP) + [0] * (LETTER // 4 // HOP)
    wave = np.concatenate(parts) * 0.5 + 0.01 * random.standard_normal(sum(map(len, parts)))
    return wave.astype(np.float32), frames


def sentences(count, seed):
    random = np.random.default_rng(seed)
    texts = [
        " ".join("".join(random.choice(list(TONES), random.integers(1, 4))) for _ in range(random.integers(1, 4)))
        for _ in range(count)
    ]
    return texts, [recording(text, random) for text in texts]


@pytest.fixture(scope="module")
def listener(tokenizer, tmp_path_factory):
    """A model that hears which tone it is, trained for a moment on the token of each frame."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = T.Wav2Vec2Config(
        vocab_size=len(TOKENS), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        conv_dim=(32, 32), conv_stride=(10, 10), conv_kernel=(40, 20), num_feat_extract_layers=2, mask_time_prob=0.0,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        layerdrop=0.0, hidden_dropout=0.0, attention_dropout=0.0, feat_proj_dropout=0.0,
    )  # fmt: skip
    model = T.Wav2Vec2ForCTC(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    _, made = sentences(300, 0)
    for step in range(80):
        batch = [made[i % 300] for i in range(step * 10, step * 10 + 10)]
        length = max(len(wave) for wave, _ in batch)
        waves = np.stack([np.pad((w - w.mean()) / w.std(), (0, length - len(w))) for w, _ in batch])
        logits = model(torch.from_numpy(waves)).logits
        wanted = torch.zeros(logits.shape[:2], dtype=torch.long)
        for row, (_, frames) in enumerate(batch):
            here = min(len(frames), logits.shape[1])
            wanted[row, :here] = torch.tensor(frames[:here])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("listener")
    model.eval().save_pretrained(folder)
    extractor = T.Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=False)
    T.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)  # one file for both
    return folder


def recorded(folder, texts, made, **more):
    rows = []
    for number, ((wave, _), text) in enumerate(zip(made, texts, strict=True)):
        soundfile.write(folder / f"{number}.wav", wave, RATE)
        rows.append({"audio": f"{number}.wav", **({"text": text} if text else {}), **more})
    path = folder / "said.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_folder_that_hears_is_judged_by_words(listener, tokenizer, tmp_path):
    from optimize.foreign import evaluate_all

    texts, made = sentences(24, 1)
    texts[::4] = [f"{text} A" for text in texts[::4]]  # which nobody said
    place = recorded(tmp_path, [text.lower() for text in texts], made, speaker="one")
    seen = evaluate_all([str(listener)], place, None, None, None, "1pp", None, False)
    found = seen["models"][str(listener)]["word_error_rate"]
    assert any("the labels are the column 'text', for audio; not used: speaker" in note for note in seen["notes"])
    assert any("'word_error_rate' was taken, for texts" in note for note in seen["notes"])
    model = T.Wav2Vec2ForCTC.from_pretrained(listener)
    errors = words = 0
    for text, (wave, _) in zip(texts, made, strict=True):
        given = torch.from_numpy((wave - wave.mean()) / np.sqrt(wave.var() + 1e-7))[None]
        with torch.no_grad():
            heard = tokenizer.batch_decode(model(given).logits.argmax(2))[0].split()
        errors += edits(text.split(), heard)
        words += len(text.split())
    assert 6 <= errors <= 8
    assert found == pytest.approx(errors / words, abs=1.5 / words)  # this without padding to the longest of a batch


def edits(said, heard):
    """Levenshtein's distance, by its definition."""
    row = list(range(len(heard) + 1))
    for i, one in enumerate(said, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (one != other))
    return row[-1]


def test_what_is_said_is_a_label_only_beside_a_sound_without_another(listener, tmp_path):
    texts, made = sentences(9, 2)
    (tmp_path / "a").mkdir()
    splits = data.load("table", recorded(tmp_path / "a", texts, made))
    batch, labels = splits.calibrate.take(1)
    assert set(batch) == {"audio"} and labels.dtype.kind == "U"
    (tmp_path / "b").mkdir()
    splits = data.load("table", recorded(tmp_path / "b", texts, made, label="word"))
    batch, labels = splits.calibrate.take(1)
    assert set(batch) == {"audio", "text"} and labels.tolist() == [0]
    found = sources.load(ModelSpec("transformers", str(listener)))
    assert found.meaning.agreement == "token_agreement" and found.meaning.decoder.blank == 0
