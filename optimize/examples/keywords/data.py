"""Eight spoken words, synthesized: 1,600 recordings of half a second, each of another voice, in noise."""

from functools import cache

import numpy as np

RATE, SAMPLES, WINDOW, HOP, BANDS = 8_000, 4_000, 256, 80, 32
EACH = 200  # recordings of a word
# of what has a voice the first three formants in Hz (after Peterson and Barney 1952), of the rest its noise's middle
VOICED = {
    "i": (270, 2290, 3010), "e": (530, 1840, 2480), "a": (730, 1090, 2440), "o": (570, 840, 2410),
    "u": (300, 870, 2240), "n": (250, 1200, 2300),
}  # fmt: skip
NOISES = {"s": 3500, "t": 2800, "f": 2200, "p": 900}
# in these sounds; where there is none for a letter, the nearest
WORDS = {
    "yes": "ies", "no": "nou", "up": "ap", "down": "naun", "left": "ueft", "right": "uait", "stop": "stop", "go": "uou",
}  # fmt: skip
WEIGHTS, WIDTH = (1, 0.5, 0.25), 90  # of the three formants, Hz


def say(word: str, random: np.random.Generator) -> np.ndarray:
    """One recording, (4000,): a voice of its own says the word at its own pace and place, in noise."""
    sounds, size = WORDS[word], random.uniform(0.85, 1.2)
    lengths = random.uniform(0.6, 1.4, len(sounds)) * random.uniform(0.22, 0.35) * RATE / len(sounds)
    ends = np.cumsum(lengths).astype(int)
    begins = np.append(0, ends[:-1])
    wave = _voice(sounds, (begins + ends) / 2, size, ends[-1], random)
    for sound, begin, end in zip(sounds, begins, ends, strict=True):
        if sound in NOISES:
            shift = np.cos(2 * np.pi * NOISES[sound] * size / RATE * np.arange(end - begin))
            wave[begin:end] += 0.5 * np.convolve(random.normal(size=end - begin) * shift, np.hanning(9), "same")
    found = np.convolve(random.normal(size=SAMPLES), [0.6, 0.3, 0.1], "same")  # more of it low, as in a room
    found *= 10 ** (random.uniform(-9, 9) / 20) * wave.std()
    start = int(random.integers(0, SAMPLES - len(wave)))
    found[start : start + len(wave)] += wave
    return found * random.uniform(0.3, 1)


def _voice(sounds: str, middles: np.ndarray, size: float, samples: int, random: np.random.Generator) -> np.ndarray:
    """The harmonics of a pitch that wavers, loud where they are near a formant; formants glide from sound to sound."""
    time = np.arange(samples)
    formants = np.array([VOICED.get(sound, VOICED["e"]) for sound in sounds]) * size * random.normal(1, 0.05, (1, 3))
    tracks = [np.interp(time, middles, formants[:, k]) for k in range(3)]
    pitch = random.uniform(90, 230)
    phase = 2 * np.pi / RATE * np.cumsum(pitch * (1 + 0.1 * np.sin(np.linspace(0, random.uniform(1, 4), samples))))
    wave = np.zeros(samples)
    for number in range(1, int(0.45 * RATE / pitch)):
        near = [w / (1 + ((number * pitch - track) / WIDTH) ** 2) for w, track in zip(WEIGHTS, tracks, strict=True)]
        wave += sum(near) * np.sin(number * phase)
    loud = np.interp(time, middles, [float(sound in VOICED) for sound in sounds])
    return wave * loud * np.interp(time, [0, 200, samples - 300, samples], [0, 1, 1, 0])


def log_mel(waves: np.ndarray) -> np.ndarray:
    """(N, 4000) to (N, 1, 32, 47) float32: logarithms of the power in bands that are even in mel."""
    frames = np.lib.stride_tricks.sliding_window_view(waves, WINDOW, 1)[:, ::HOP] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames)) ** 2
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), BANDS + 2) / 2595) - 1)
    hertz = np.fft.rfftfreq(WINDOW, 1 / RATE)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bank = np.clip(np.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)), 0, None)
    return np.log(power @ bank.T + 1e-3).transpose(0, 2, 1)[:, None].astype(np.float32)


@cache
def splits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """800 to learn from and calibrate on, 300 to choose by, 500 to report on."""
    random = np.random.default_rng(0)
    y = random.permutation(np.repeat(np.arange(len(WORDS)), EACH))
    x = log_mel(np.stack([say(list(WORDS)[word], random) for word in y]))
    parts = {"calibrate": slice(0, 800), "validate": slice(800, 1100), "test": slice(1100, None)}
    return {name: (x[part], y[part]) for name, part in parts.items()}
