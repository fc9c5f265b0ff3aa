"""Sound, read by soundfile: the wave itself, its log-mel spectrum, or its mel cepstrum (MFCC), computed by numpy.

A raw sample is a path or a file's bytes (wav, flac, ogg, mp3), or an array (samples,) or (samples, channels) of floats
between -1 and 1, or of int16. Channels are averaged. An array has the model's rate; a file of another is refused, or
resampled where that is asked for.
"""

import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from runtime.engines import library
from runtime.errors import EngineMissing, InputError
from runtime.pre import _sound, cell
from runtime.tensors import Array, TensorSpec

EXTRA = "audio"
FILES = ()
LONGEST = 1 << 26  # samples: more than an hour at 16 kHz
FASTEST = 768000  # samples a second
LARGEST_FFT, MOST_BANDS = 1 << 15, 512
CHANNELS = 64
FLAT = 1e-7  # what is added to a wave's variance
CHOICES = {
    "place": ("start", "middle", "end"),
    "features": ("wave", "log_mel", "mfcc"),
    "window": ("hann", "hamming", "povey", "none"),
    "mel": ("slaney", "htk", "kaldi"),
    "triangles": ("hertz", "mel"),
    "log": ("log10", "ln", "db", "none"),
    "cosines": ("ortho", "htk"),
}


@dataclass(frozen=True)
class Settings:
    """What becomes of a recording; the defaults from `n_fft` on are Whisper's, but for `drop_last` and `range`.

    Attributes:
        rate: samples a second.
        resample: a file of another rate, by a polyphase filter; else it is refused.
        samples: what is longer is cut, what is shorter padded with zeros; 0: as long as the longest of a batch.
        place: which part of a longer one stays, and where in the padding a shorter one lies: start, middle or end.
        scale: of the wave; 32768 where the model was trained on whole numbers.
        normalize: the wave, without its padding, to mean 0 and variance 1.
        features: `wave`, `log_mel` or `mfcc`.
        n_fft: samples of a Fourier transform.
        length: of a frame in samples, up to `n_fft`, which is what 0 means.
        hop: from a frame to the next.
        window: hann, hamming, povey or none.
        periodic: the window; else symmetric.
        centre: frames lie around every `hop`-th sample, the wave mirrored at its ends; else they begin there.
        drop_last: of the frames.
        remove_mean: of each frame.
        preemphasis: of each frame; 0.97 say.
        power: of the magnitudes: 1, or 2.
        mels: bands.
        low: where they begin, in hertz.
        high: where they end; 0 for half the rate.
        mel: slaney, htk or kaldi.
        triangles: straight in hertz or in mel.
        area: divide each band by its width.
        floor: below which no band is.
        offset: added to it then.
        log: log10, ln, db or none.
        range: below its largest value no value of a recording is, in units of the log; 0: any may be.
        coefficients: that mfcc keeps.
        cosines: ortho, or htk: the first coefficient is larger by the root of 2.
        mean: taken off in the end, of each band or coefficient, or one for all.
        std: by which it is divided then, likewise.
        mels_first: (bands, frames); else (frames, bands).
        input: its name, where the model has several that could be sound.
        mask: the input that is 1 where there is sound and 0 in padding, a sample or frame each; a model may have none.
    """

    rate: int = 16000
    resample: bool = False
    samples: int = 0
    place: str = "start"
    scale: float = 1.0
    normalize: bool = False
    features: str = "wave"
    n_fft: int = 400
    length: int = 0
    hop: int = 160
    window: str = "hann"
    periodic: bool = True
    centre: bool = True
    drop_last: bool = False
    remove_mean: bool = False
    preemphasis: float = 0.0
    power: float = 2.0
    mels: int = 80
    low: float = 0.0
    high: float = 0.0
    mel: str = "slaney"
    triangles: str = "hertz"
    area: bool = True
    floor: float = 1e-10
    offset: float = 0.0
    log: str = "log10"
    range: float = 0.0
    coefficients: int = 13
    cosines: str = "ortho"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    mels_first: bool = True
    input: str = ""
    mask: str = "attention_mask"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for field in fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if not (_number(value) if kind is float else type(value) is kind):
                raise ValueError(f"{field.name} = {value!r}; it is a {kind.__name__}")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} = {getattr(self, name)!r}; it is one of {', '.join(allowed)}")
        if not 0 < self.rate <= FASTEST or not 0 <= self.samples <= LONGEST:
            raise ValueError(f"rate = {self.rate}, samples = {self.samples}: 1 to {FASTEST}, and 0 to {LONGEST}")
        if not 1 < (self.length or self.n_fft) <= self.n_fft <= LARGEST_FFT or not 0 < self.hop <= LONGEST:
            raise ValueError(f"n_fft = {self.n_fft}, length = {self.length}, hop = {self.hop}: no frames are so")
        if not 0 < self.mels <= MOST_BANDS:
            raise ValueError(f"mels = {self.mels}; 1 to {MOST_BANDS}")
        if self.features == "mfcc" and not 0 < self.coefficients <= self.mels:
            raise ValueError(f"coefficients = {self.coefficients}; up to mels = {self.mels}")
        if self.features != "wave" and self.samples and not _sound.frames(self.samples, self):
            raise ValueError(f"samples = {self.samples} is less than a frame")
        if not 0 <= self.low < (self.high or self.rate / 2) <= self.rate / 2:
            raise ValueError(f"low = {self.low}, high = {self.high}: 0 <= low < high <= rate / 2")
        if min(self.floor, self.offset, self.range) < 0 or not (self.floor + self.offset or self.log == "none"):
            raise ValueError("floor, offset and range are 0 or more, and a log needs a floor or an offset above 0")
        if not (self.scale > 0 and self.power > 0 and 0 <= self.preemphasis < 1):
            raise ValueError("scale and power are above 0, preemphasis is from 0 to below 1")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not all(map(_number, values)) or len(values) not in (1, self.bands):
                raise ValueError(f"{name} = {values!r}; it takes a number for each of {self.bands}, or one for all")
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std = {list(self.std)}; it is above 0")

    @property
    def bands(self) -> int:
        """Numbers of a frame, or of a sample of the wave."""
        return {"wave": 1, "log_mel": self.mels, "mfcc": self.coefficients}[self.features]


def suited(inputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """The length of the one input that can be a wave at 16 kHz; raises InputError where none can, or two."""
    found = [spec for spec in inputs if _layout(spec, wave=True) is not None]
    if len(found) != 1:
        raise InputError(
            f"the model's inputs ({', '.join(map(str, inputs)) or 'not known'}) do not tell what becomes of sound: say "
            'it in the recipe, [[pre]] kind = "audio", features = "log_mel", n_fft = 400, hop = 160, mels = 80.'
        )
    length = next((side for side in found[0].shape[:0:-1] if side != 1), 0)
    return {"samples": length if isinstance(length, int) else 0, "input": found[0].name}


def open(settings: Settings, files: Mapping[str, Path], inputs: Sequence[TensorSpec]) -> "Sounds":
    """The reader; raises InputError where no input can be sound of these settings, or more than one."""
    wave = settings.features == "wave"
    named = [
        spec for spec in inputs
        if settings.input in ("", spec.name) and spec.name != settings.mask and _layout(spec, wave) is not None
    ]  # fmt: skip
    if inputs and len(named) != 1:
        listed = ", ".join(map(str, inputs))
        raise InputError(
            f"the preprocessing 'audio': of {listed} none, or more than one, takes {settings.features}: name input."
        )
    mask = next((spec for spec in inputs if spec.name == settings.mask), None)
    return Sounds(settings, named[0] if named else None, mask)


class Sounds:
    """Reads recordings."""

    most = 1

    def __init__(self, settings: Settings, spec: TensorSpec | None, mask: TensorSpec | None) -> None:
        self.settings = settings
        self._spec, self._mask = spec, mask
        self.fills = (spec.name if spec else settings.input or "audio", *([mask.name] if mask else []))
        try:
            self._soundfile = library("soundfile", EXTRA)
        except OSError as error:  # the C library below it
            raise EngineMissing(f"soundfile does not load ({error}): install libsndfile.") from error

    def sample(self, *raw: Any) -> Array:
        """A recording at the model's rate, cut to its length: float32, (samples,)."""
        s = self.settings
        wave, rate = self._read(cell(raw[0]))
        if wave.ndim == 2:
            wave = wave.mean(1)
        if rate != s.rate:
            if not s.resample:
                raise InputError(
                    f"{shown(raw[0])} has {rate} samples a second, and the model takes {s.rate}: convert it, or set "
                    "resample = true."
                )
            if not rate <= FASTEST or len(wave) * s.rate > LONGEST * rate:
                raise InputError(f"{shown(raw[0])}: {len(wave)} samples, {rate} a second, are too many to resample.")
            wave = _sound.resampled(wave, rate, s.rate)
        if s.samples and len(wave) > s.samples:
            first = _offset(s.place, len(wave) - s.samples)
            wave = wave[first : first + s.samples]
        if not len(wave):
            raise InputError(f"{shown(raw[0])} is empty: it has no samples.")
        if not np.isfinite(wave).all():
            raise InputError(f"{shown(raw[0])} has NaN or infinity in it.")
        if s.features != "wave" and not _sound.frames(s.samples or len(wave), s):
            raise InputError(f"{shown(raw[0])} has {len(wave)} samples, fewer than a frame.")
        return wave.astype(np.float32)

    def batch(self, samples: Sequence[Array]) -> dict[str, Array]:
        """The model's input, (samples, ...), and its mask where it has one."""
        s = self.settings
        length = s.samples or max(map(len, samples))
        waves, there = np.zeros((len(samples), length), np.float32), np.zeros((len(samples), length), np.int64)
        for row, wave in enumerate(samples):
            first = _offset(s.place, length - len(wave))
            own = slice(first, first + len(wave))
            waves[row, own], there[row, own] = self._levelled(wave), 1
        if s.features == "wave":
            made = waves[:, :, None]
        else:
            made = _sound.features(waves, s)
            there = there[:, np.minimum(np.arange(made.shape[1]) * s.hop, length - 1)]
        made = ((made - np.asarray(s.mean)) / np.asarray(s.std)).astype(np.float32)
        found = {self.fills[0]: self._laid_out(made)}
        if self._mask:
            found[self._mask.name] = there.astype(self._mask.dtype)
        return found

    def _levelled(self, wave: Array) -> Array:
        s = self.settings
        if s.normalize:
            wave = (wave - wave.mean()) / np.sqrt(wave.var() + FLAT)
        return wave * np.float32(s.scale)

    def _laid_out(self, made: Array) -> Array:
        """(samples, length, bands), as the input has it: in which order, and with an axis of 1 where it has one."""
        s, spec = self.settings, self._spec
        axis = _layout(spec, s.features == "wave") if spec else 0
        if s.features == "wave":
            made = made[:, :, 0]
        elif s.mels_first:
            made = made.transpose(0, 2, 1)
        return np.ascontiguousarray(np.expand_dims(made, axis) if axis else made, spec.dtype if spec else None)

    def _read(self, raw: Any) -> tuple[Array, int]:
        """A recording, (samples,) or (samples, channels), and its rate."""
        if isinstance(raw, np.ndarray):
            known = raw.dtype == np.int16 or raw.dtype.kind == "f"
            if not known or raw.ndim not in (1, 2) or (raw.ndim == 2 and not 0 < raw.shape[1] <= CHANNELS):
                raise InputError(
                    f"a recording is int16 or floats, (samples,) or (samples, channels); got {raw.dtype} {raw.shape}."
                )
            return (raw / np.float32(32768) if raw.dtype == np.int16 else raw.astype(np.float32)), self.settings.rate
        if not isinstance(raw, (str, Path, bytes, bytearray)):
            raise InputError(f"a recording is a path, bytes or an array; got a {type(raw).__name__}.")
        try:
            with self._soundfile.SoundFile(io.BytesIO(raw) if isinstance(raw, (bytes, bytearray)) else raw) as file:
                if file.frames > LONGEST or file.channels > CHANNELS:
                    raise InputError(
                        f"{shown(raw)} has {file.frames} samples of {file.channels} channels; {LONGEST} of {CHANNELS} "
                        "are the most."
                    )
                return file.read(dtype="float32"), file.samplerate
        except (OSError, RuntimeError, TypeError, ValueError) as error:  # soundfile's own is a RuntimeError
            said = getattr(error, "error_string", error)  # without the file's name, or an address in memory
            raise InputError(f"{shown(raw)} cannot be read as sound: {said}") from error


def shown(raw: Any) -> str:
    """A raw recording in a message."""
    if isinstance(raw, (bytes, bytearray)):
        return f"a recording of {len(raw)} bytes (sha256 {hashlib.sha256(raw).hexdigest()[:8]})"
    raw = cell(raw)
    return str(raw) if isinstance(raw, (str, Path)) else f"a recording in an array {raw.shape}"


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _offset(place: str, room: int) -> int:
    return {"start": 0, "middle": room // 2, "end": room}[place]


def _layout(spec: TensorSpec, wave: bool) -> int | None:
    """Where an input has an axis of 1 that waves or spectra have not, 0 for nowhere; None where it is none of them."""
    plain = 2 if wave else 3
    if not spec.dtype.startswith("float") or len(spec.shape) not in (plain, plain + 1):
        return None
    if len(spec.shape) == plain:
        return 0
    return next((axis for axis in (1, plain) if spec.shape[axis] == 1), None)
