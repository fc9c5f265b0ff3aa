import io
import math
from dataclasses import asdict, fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import pre
from runtime.errors import InputError
from runtime.pre import PreSpec, _sound
from runtime.pre import audio as kind
from runtime.tensors import TensorSpec

soundfile = pytest.importorskip("soundfile", reason="pip install 'edge-optimize[audio]'")

WHISPER = {"features": "log_mel", "samples": 32000, "drop_last": True, "range": 8.0, "mean": [-4.0], "std": [4.0]}
RANDOM = np.random.default_rng(0)


def wave(samples, hertz=440.0, noise=0.1):
    """A tone in noise, float32."""
    tone = 0.3 * np.sin(2 * np.pi * hertz * np.arange(samples) / 16000)
    return (tone + noise * RANDOM.standard_normal(samples)).astype(np.float32).clip(-0.99, 0.99)


def reader(inputs=(), /, **table):
    return PreSpec("audio", ("audio",), table, {}).open(inputs)


def made(samples, inputs=(), /, **table):
    """The one input that is made of these recordings."""
    opened = reader(inputs, **table)
    (found,) = opened.batch([opened.sample(one) for one in samples]).values()
    return found


def spec(*shape, name="x", dtype="float32"):
    return TensorSpec(name, dtype, shape)


# --- what is read


def test_a_file_its_bytes_and_its_array_are_the_same(tmp_path):
    numbers = (wave(4000) * 32767).astype(np.int16)
    for end in ("wav", "flac"):
        path = tmp_path / f"a.{end}"
        soundfile.write(path, numbers, 16000, subtype="PCM_16")
        wanted = made([numbers])
        np.testing.assert_array_equal(wanted[0], numbers.astype(np.float32) / 32768)
        for same in (path, str(path), path.read_bytes(), np.array([str(path)], object), wanted[0]):
            np.testing.assert_array_equal(made([same]), wanted)


def test_channels_are_averaged():
    stereo = np.stack([wave(500), wave(500)], 1)
    np.testing.assert_allclose(made([stereo])[0], (stereo[:, 0] + stereo[:, 1]) / 2, atol=1e-7)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ("missing.wav", r"missing\.wav cannot be read as sound"),
        (b"no sound at all", r"a recording of 15 bytes \(sha256 [0-9a-f]{8}\) cannot be read as sound"),
        (np.zeros(5, np.int32), r"int16 or floats, \(samples,\) or \(samples, channels\); got int32 \(5,\)"),
        (np.zeros((2, 16000), np.float32), r"got float32 \(2, 16000\)"),
        (np.zeros((2, 2, 2), np.float32), r"got float32 \(2, 2, 2\)"),
        (np.zeros(0, np.float32), r"is empty: it has no samples"),
        (np.array([0, math.nan], np.float32), r"has NaN or infinity in it"),
        (7, r"a recording is a path, bytes or an array; got a int"),
    ],
)
def test_what_is_no_recording_is_refused(raw, says):
    with pytest.raises(InputError, match=says):
        reader().sample(raw)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, wave(16000), 16000)
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(InputError, match=r"a\.flac cannot be read as sound"):
        reader().sample(path)


def test_another_rate_is_refused_or_resampled(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, wave(4410), 44100, subtype="FLOAT")
    with pytest.raises(InputError, match=r"a\.wav has 44100 samples a second, and the model takes 16000: convert it"):
        reader().sample(path)
    assert made([path], resample=True).shape == (1, 1600)


@pytest.mark.parametrize(("rate", "wanted"), [(44100, 16000), (8000, 16000), (48000, 16000), (22050, 24000), (7, 5)])
@pytest.mark.parametrize("samples", [1, 2, 999, 5000])
def test_resampling_is_scipys(rate, wanted, samples):
    from scipy import signal

    common = math.gcd(rate, wanted)
    given = RANDOM.standard_normal(samples)
    right = signal.resample_poly(given, wanted // common, rate // common)
    np.testing.assert_allclose(_sound.resampled(given, rate, wanted), right, atol=1e-12)


@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_recordings_are_cut_and_padded(place):
    long, short = np.arange(1, 11, dtype=np.float32) / 16, np.arange(1, 4, dtype=np.float32) / 16
    found = made([long, short], samples=6, place=place) * 16
    begin = {"start": 0, "middle": 2, "end": 4}[place]
    np.testing.assert_array_equal(found[0], np.arange(1, 11)[begin : begin + 6])
    before = {"start": 0, "middle": 1, "end": 3}[place]
    np.testing.assert_array_equal(found[1], [0] * before + [1, 2, 3] + [0] * (3 - before))


def test_without_a_length_a_batch_is_as_long_as_its_longest_and_the_mask_says_what_is_padding():
    inputs = (spec("n", "t"), spec("n", "t", name="attention_mask", dtype="int64"))
    opened = reader(inputs)
    found = opened.batch([opened.sample(wave(700)), opened.sample(wave(300))])
    assert opened.fills == tuple(found) == ("x", "attention_mask")
    assert found["x"].shape == (2, 700)
    assert (found["attention_mask"].dtype, found["attention_mask"].sum(1).tolist()) == (np.int64, [700, 300])
    assert not found["x"][1, 300:].any()


def test_the_mask_of_a_spectrum_has_a_number_a_frame():
    inputs = (spec("n", 80, "t"), spec("n", "t", name="attention_mask", dtype="float32"))
    for drop in (False, True):
        opened = reader(inputs, features="log_mel", drop_last=drop)
        found = opened.batch([opened.sample(wave(1600)), opened.sample(wave(801))])
        assert found["x"].shape[2] == found["attention_mask"].shape[1] == 11 - drop
        assert found["attention_mask"].sum(1).tolist() == [11 - drop, 6]


# --- what is computed


def test_waves_are_levelled_as_wav2vec2_does():
    extractors = pytest.importorskip("transformers")
    batch = [wave(3000), wave(1000, noise=0.3) + 0.2]
    right = extractors.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)(
        batch, sampling_rate=16000, padding=True, return_tensors="np"
    )
    inputs = (spec("n", "t"), spec("n", "t", name="attention_mask", dtype="int32"))
    opened = reader(inputs, normalize=True)
    found = opened.batch([opened.sample(one) for one in batch])
    np.testing.assert_allclose(found["x"], right["input_values"], atol=1e-6)
    np.testing.assert_array_equal(found["attention_mask"], right["attention_mask"])


def test_a_spectrum_is_whispers():
    extractors = pytest.importorskip("transformers")
    batch = [wave(20000), wave(40000, 1000.0)]
    extractor = extractors.WhisperFeatureExtractor(chunk_length=2)
    padded = np.stack([np.pad(one, (0, max(0, 32000 - len(one))))[:32000] for one in batch])
    right = extractor._np_extract_fbank_features(padded, "cpu")
    found = made(batch, (spec("n", 80, 200),), **WHISPER)
    assert (found.dtype, found.shape) == (np.float32, (2, 80, 200))
    np.testing.assert_allclose(found, right, atol=2e-6)
    called = extractor(batch, sampling_rate=16000, return_tensors="np")["input_features"]  # by torch, where it is there
    np.testing.assert_allclose(found, called, atol=1e-4)


SLANEY = {"mel_scale": "slaney", "norm": "slaney"}
FORMS = {
    "kaldi": (
        {"n_fft": 512, "length": 400, "window": "povey", "periodic": False, "centre": False, "remove_mean": True,
         "preemphasis": 0.97, "mel": "kaldi", "triangles": "mel", "area": False, "low": 20.0, "floor": 1.192e-7,
         "log": "ln", "scale": 32768},
        {"center": False, "preemphasis": 0.97, "remove_dc_offset": True, "mel_floor": 1.192e-7, "log_mel": "log"},
        {"min_frequency": 20.0, "mel_scale": "kaldi", "triangularize_in_mel_space": True},
    ),
    "decibels of amplitudes": (
        {"power": 1.0, "log": "db", "floor": 1e-5, "mel": "htk", "window": "hamming", "high": 7000.0, "length": 320},
        {"power": 1.0, "log_mel": "dB", "mel_floor": 1e-5}, {"max_frequency": 7000.0, "norm": "slaney"},
    ),
    "decibels of powers": ({"log": "db", "window": "none"}, {"log_mel": "dB"}, SLANEY),
    "no logarithm": ({"log": "none"}, {"log_mel": None}, SLANEY),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_spectrum_is_as_transformers_computes_it(form):
    audio = pytest.importorskip("transformers.audio_utils")
    ours, theirs, filters = FORMS[form]
    s = kind.Settings(features="log_mel", mels=40, **ours)
    length = s.length or s.n_fft
    bank = audio.mel_filter_bank(
        **{"num_frequency_bins": s.n_fft // 2 + 1, "num_mel_filters": 40, "min_frequency": 0.0,
           "max_frequency": 8000.0, "sampling_rate": 16000, **filters}
    )  # fmt: skip
    np.testing.assert_allclose(_sound.mel_filters(s), bank, atol=1e-12)
    one = wave(5000)
    window = audio.window_function(length, s.window if s.window != "none" else "boxcar", periodic=s.periodic)
    right = audio.spectrogram(
        one * s.scale, window, frame_length=length, fft_length=s.n_fft, hop_length=160, mel_filters=bank,
        **{"power": 2.0, **theirs},
    )  # fmt: skip
    found = made([one], features="log_mel", mels=40, **ours)[0]
    np.testing.assert_allclose(found, right, rtol=2e-5, atol=2e-6)


def test_a_cepstrum_is_the_cosines_of_the_spectrum():
    from scipy.fft import dct

    given = {"mels": 40, "n_fft": 480, "hop": 320, "centre": False, "samples": 16000, "power": 1.0, "log": "ln",
             "floor": 0.0, "offset": 1e-6, "mel": "htk", "triangles": "mel", "area": False, "low": 20.0,
             "high": 4000.0}  # fmt: skip
    batch = [wave(16000), wave(9000)]
    bands = made(batch, features="log_mel", mels_first=False, **given).astype(np.float64)
    assert bands.shape == (2, 49, 40)
    found = made(batch, (spec("n", 49, 10, 1),), features="mfcc", mels_first=False, coefficients=10, **given)
    assert found.shape == (2, 49, 10, 1)
    np.testing.assert_allclose(found[..., 0], dct(bands, norm="ortho")[..., :10], atol=1e-4)
    htk = made(batch, features="mfcc", coefficients=10, cosines="htk", **given)
    plain = [[(bands[n, t] * np.cos(np.pi / 40 * (np.arange(40) + 0.5) * k)).sum() * math.sqrt(2 / 40)
              for t in range(49)] for n in range(2) for k in range(10)]  # fmt: skip
    np.testing.assert_allclose(htk.reshape(20, 49), plain, atol=1e-4)


def test_a_tone_is_in_its_band():
    s = kind.Settings(features="log_mel", mels=40)
    edges = _sound.mel_filters(s)
    found = made([wave(16000, 2000.0, 0.001)], features="log_mel", mels=40)[0].mean(1)
    assert found.argmax() == edges[round(2000 / (16000 / 400))].argmax()


def test_what_is_taken_off_and_divided_by_is_a_bands_own():
    mean, std = np.linspace(-1, 1, 8), np.linspace(1, 2, 8)
    one = wave(4000)
    plain, found = (
        made([one], features="log_mel", mels=8, **more) for more in ({}, {"mean": mean.tolist(), "std": std.tolist()})
    )
    np.testing.assert_allclose(found, (plain - mean[:, None]) / std[:, None], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("samples", [2, 3, 400, 401, 559, 560, 1600, 1601])
@pytest.mark.parametrize("table", [{}, {"centre": False}, {"drop_last": True}, {"length": 321, "hop": 7}])
def test_the_frames_are_as_many_as_is_said(samples, table):
    s = kind.Settings(features="log_mel", **table)
    wanted = _sound.frames(samples, s)
    if wanted:
        assert made([wave(samples)], features="log_mel", **table).shape == (1, 80, wanted)
    else:
        with pytest.raises(InputError, match=rf"has {samples} samples, fewer than a frame"):
            made([wave(samples)], features="log_mel", **table)


# --- settings and inputs


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"rate": 0}, r"rate = 0, samples = 0: 1 to 768000"),
        ({"rate": 16000.0}, r"rate = 16000\.0; it is a int"),
        ({"features": "mel"}, r"features = 'mel'; it is one of wave, log_mel, mfcc"),
        ({"hop": 0}, r"no frames are so"),
        ({"n_fft": 1 << 30}, r"no frames are so"),
        ({"length": 401}, r"no frames are so"),
        ({"mels": 513}, r"mels = 513; 1 to 512"),
        ({"features": "mfcc", "mels": 5, "coefficients": 6}, r"coefficients = 6; up to mels = 5"),
        ({"scale": 10**400}, r"the preprocessing 'audio': .*too large"),
        ({"high": 9000.0}, r"0 <= low < high <= rate / 2"),
        ({"floor": 0.0}, r"a log needs a floor or an offset"),
        ({"power": 0.0}, r"scale and power are above 0"),
        ({"features": "log_mel", "mean": [1.0, 2.0]}, r"it takes a number for each of 80, or one for all"),
        ({"std": [0.0]}, r"std = \[0\.0\]; it is above 0"),
        ({"features": "log_mel", "samples": 100, "centre": False}, r"samples = 100 is less than a frame"),
        ({"frames": 3}, r"unknown key of the preprocessing 'audio' 'frames'"),
    ],
)
def test_settings_that_cannot_be_are_refused(table, says):
    with pytest.raises(InputError, match=says):
        pre.settings("audio", table)


JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.floats(), max_size=2)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from([field.name for field in fields(kind.Settings)]), JSON, max_size=4))
def test_any_table_gives_a_reader_or_is_refused(table):
    try:
        found = pre.settings("audio", table)
    except InputError:
        return
    assert pre.settings("audio", asdict(found)) == found


def test_what_inputs_tell():
    assert pre.suited("audio", [spec("n", "t")]).settings == {"samples": 0, "input": "x"}
    assert pre.suited("audio", [spec("n", 1, 16000)]).settings == {"samples": 16000, "input": "x"}
    assert pre.suited("audio", [spec("n", 16000, 1)]).settings == {"samples": 16000, "input": "x"}
    for inputs in ([], [spec("n", 80, 3000)], [spec("n", 5), spec("n", 6, name="z")]):
        with pytest.raises(InputError, match=r"do not tell what becomes of sound: say it in the recipe"):
            pre.suited("audio", inputs)


def test_an_input_of_another_rank_or_kind_is_refused():
    for inputs in ([spec("n", 80, 200)], [spec("n", 16000, dtype="int64")], [spec("n", 5), spec("n", 6, name="z")]):
        with pytest.raises(InputError, match=r"takes wave: name input"):
            reader(inputs)
    assert reader([spec("n", 5), spec("n", 6, name="z")], input="z").fills == ("z",)


def test_an_axis_of_one_is_put_where_the_input_has_it():
    shapes = {(1, 80, 26): True, (80, 26, 1): True, (26, 80): False, (1, 26, 80): False, (80, 26): True}
    for shape, first in shapes.items():
        found = made([wave(4000)], [spec("n", *shape, dtype="float16")], features="log_mel", mels_first=first)
        assert (found.shape, found.dtype) == ((1, *shape), np.float16)
    assert made([wave(40)], [spec("n", 1, "t")]).shape == (1, 1, 40)


def test_a_header_that_promises_too_much_takes_no_memory():
    stream = io.BytesIO()
    soundfile.write(stream, wave(100), 800000, format="WAV")
    with pytest.raises(InputError, match=r"100 samples, 800000 a second, are too many to resample"):
        reader(resample=True).sample(stream.getvalue())
