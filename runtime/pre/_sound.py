"""What is computed of a recording: another rate, and its log-mel spectrum or cepstrum. Plain formulas, in float64."""

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from runtime.tensors import Array

if TYPE_CHECKING:
    from runtime.pre.audio import Settings

BLOCK = 16  # frames
ZEROS = 10  # of the filter's sinc, on either side
BETA = 5.0  # of its Kaiser window
SLANEY_HERTZ, SLANEY_MEL, SLANEY_STEP = 1000.0, 15.0, math.log(6.4) / 27  # the scale is logarithmic from here on


def resampled(wave: Array, rate: int, wanted: int) -> Array:
    """A recording (samples,) at another rate, by a polyphase filter: a sinc in a Kaiser window, as scipy's is."""
    common = math.gcd(rate, wanted)
    up, down = wanted // common, rate // common
    half = ZEROS * max(up, down)
    taps = np.sinc(np.arange(-half, half + 1) / max(up, down)) * np.kaiser(2 * half + 1, BETA)
    taps *= up / taps.sum()
    found = np.empty(-(-len(wave) * up // down))
    padded = np.pad(wave.astype(np.float64), half // up + 2)
    for phase in range(min(up, len(found))):  # samples that the same taps make, `down` apart in what was recorded
        first = -((half - phase * down) // up)
        own = taps[half + phase * down - first * up :: -up]
        windows = np.lib.stride_tricks.sliding_window_view(padded[half // up + 2 + first :], len(own))
        found[phase::up] = windows[::down][: len(found[phase::up])] @ own
    return found


def features(waves: Array, s: "Settings") -> Array:
    """Of recordings (batch, samples): (batch, frames, bands or coefficients)."""
    return np.stack([_of_one(wave, s) for wave in waves])  # one by one: the frames of a long one fill much memory


def frames(samples: int, s: "Settings") -> int:
    """How many a recording has."""
    length = s.length or s.n_fft
    whole = samples + 2 * (length // 2) * s.centre
    return max(0, 1 + (whole - length) // s.hop - s.drop_last)


def _of_one(wave: Array, s: "Settings") -> Array:
    length = s.length or s.n_fft
    wave = wave.astype(np.float64)
    if s.centre:
        wave = np.pad(wave, length // 2, mode="reflect")
    cut = np.lib.stride_tricks.sliding_window_view(wave, length)[:: s.hop]
    if s.drop_last:
        cut = cut[:-1]
    if s.remove_mean:
        cut = cut - cut.mean(1, keepdims=True)
    if s.preemphasis:
        cut = cut - s.preemphasis * np.concatenate([cut[:, :1], cut[:, :-1]], 1)
    spectrum = np.abs(np.fft.rfft(cut * _window(s.window, length, s.periodic), s.n_fft)) ** s.power
    found = np.maximum(_product(spectrum, mel_filters(s)), s.floor) + s.offset
    if s.log != "none":
        found = np.log(found) if s.log == "ln" else np.log10(found) * (20 / s.power if s.log == "db" else 1)
    if s.range:
        found = np.maximum(found, found.max() - s.range)
    return _product(found, _cosines(s.mels, s.coefficients, s.cosines)) if s.features == "mfcc" else found


def _product(rows: Array, table: Array) -> Array:
    """`rows @ table`, in blocks that BLAS computes in this thread: to wake others, the engine's too, costs more."""
    blocks = np.zeros((-(-len(rows) // BLOCK), BLOCK, rows.shape[1]))
    blocks.reshape(-1, rows.shape[1])[: len(rows)] = rows
    return np.asarray((blocks @ table).reshape(-1, table.shape[1])[: len(rows)])


@lru_cache(8)
def mel_filters(s: "Settings") -> Array:
    """Triangles that overlap by half, (n_fft // 2 + 1, mels)."""
    high = s.high or s.rate / 2
    edges = np.linspace(_mel(np.array(s.low), s.mel), _mel(np.array(high), s.mel), s.mels + 2)
    hertz = _hertz(edges, s.mel)
    bins = np.linspace(0, s.rate / 2, s.n_fft // 2 + 1)
    places, corners = (_mel(bins, s.mel), edges) if s.triangles == "mel" else (bins, hertz)
    rising = (places[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - places[:, None]) / (corners[2:] - corners[1:-1])
    found = np.maximum(0, np.minimum(rising, falling))
    return found * 2 / (hertz[2:] - hertz[:-2]) if s.area else found


def _mel(hertz: Array, scale: str) -> Array:
    if scale == "htk":
        return np.asarray(2595 * np.log10(1 + hertz / 700))
    if scale == "kaldi":
        return np.asarray(1127 * np.log(1 + hertz / 700))
    above = SLANEY_MEL + np.log(np.maximum(hertz, SLANEY_HERTZ) / SLANEY_HERTZ) / SLANEY_STEP
    return np.where(hertz < SLANEY_HERTZ, hertz * SLANEY_MEL / SLANEY_HERTZ, above)


def _hertz(mel: Array, scale: str) -> Array:
    if scale == "htk":
        return np.asarray(700 * (10 ** (mel / 2595) - 1))
    if scale == "kaldi":
        return np.asarray(700 * (np.exp(mel / 1127) - 1))
    above = SLANEY_HERTZ * np.exp(np.maximum(mel - SLANEY_MEL, 0) * SLANEY_STEP)
    return np.where(mel < SLANEY_MEL, mel * SLANEY_HERTZ / SLANEY_MEL, above)


@lru_cache(8)
def _window(kind: str, length: int, periodic: bool) -> Array:
    if kind == "none":
        return np.ones(length)
    made = (np.hamming if kind == "hamming" else np.hanning)(length + periodic)[:length]
    return np.asarray(made**0.85 if kind == "povey" else made)


@lru_cache(8)
def _cosines(bands: int, kept: int, kind: str) -> Array:
    """DCT-II, (bands, kept): orthonormal, or with the first coefficient as large as the others, as HTK has it."""
    angles = np.pi / bands * (np.arange(bands)[:, None] + 0.5) * np.arange(kept)
    made = np.cos(angles) * math.sqrt(2 / bands)
    if kind == "ortho":
        made[:, 0] = math.sqrt(1 / bands)
    return np.asarray(made)
