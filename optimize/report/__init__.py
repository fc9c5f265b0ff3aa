"""The report: what was asked, seen and chosen. report.json is this, the other forms are drawn from it.

One file a form, each with `write(report, folder) -> Path` or, for the terminal, `show(report)`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from optimize.report.packed import Rounds, Samples

SCHEMA = 1
MOST = 100_000  # numbers of single samples that a report keeps of a candidate

Status = Literal["measured", "wrong", "failed", "dropped", "built, not measured", "cannot build here"]


# an end of an interval may be infinite, for which JSON has no number
End = Annotated[float, WithJsonSchema({"anyOf": [{"type": "number"}, {"enum": ["Infinity", "-Infinity", "NaN"]}]})]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class Accuracy(_Part):
    """Of one contender on one split.

    `drop` is original minus candidate, positive is worse, in the metric's unit; `low` and `high` are one-sided 95 %
    bounds, paired on the same samples. `each` has the metric's rows of each sample (in JSON compressed, see `packed`),
    by which another report on the same data is compared in pairs; empty where they were more than `MOST` numbers.
    """

    metric: str
    value: End
    drop: End = 0.0
    low: End = 0.0
    high: End = 0.0
    verdict: Literal["within", "exceeds", "cannot tell"] | None = None
    samples: int
    samples_that_tell: int | None = None
    changed_p: float | None = None
    each: Samples = Field(default_factory=list)


class Flip(_Part):
    """A sample that the candidate calls otherwise than the original: class numbers and, of scores, their probability.

    `shown` is the sample itself: a small PNG as a data URL, or its first values; empty where it was not kept.
    """

    sample: int
    label: int | None
    before: int
    after: int
    confidence_before: float | None
    confidence_after: float | None
    shown: str = ""


class Moved(_Part):
    """A sample whose answer, which is no class scores, moved far from the original's.

    `label`, `before` and `after` are there where each is one number. `share` is the length of the move over that of the
    original's answer, or the move itself where that is one number. `shown` as in `Flip`.
    """

    sample: int
    label: float | None = None
    before: float | None = None
    after: float | None = None
    share: float
    shown: str = ""


class ClassAccuracy(_Part):
    """The accuracy of the original and of the candidate on the samples of one class."""

    number: int
    samples: int
    before: float
    after: float


class Detail(_Part):
    """How a candidate's answers on test differ from the original's, beyond the metric.

    `sqnr_db` and `cosine` are of the raw outputs (null where they are equal); the rest is for class scores: `agreement`
    is the share called alike, `lost` and `won` count what became wrong and right, `classes` has those with 20 samples
    or more, the worst first. Of other answers, `moved` has the samples whose answer moved most.
    """

    sqnr_db: float | None = None
    cosine: float | None = None
    agreement: float | None = None
    flipped: int | None = None
    lost: int | None = None
    won: int | None = None
    calibration_error: float | None = None
    classes: list[ClassAccuracy] = Field(default_factory=list)
    flips: list[Flip] = Field(default_factory=list)
    moved: list[Moved] = Field(default_factory=list)


class LayerTime(_Part):
    """One layer of an engine as it ran; see `optimize.profiles.Layer`. `fused`: nodes of its file that went into it."""

    name: str
    op: str
    ms: float
    precision: str
    kind: Literal["compute", "convert", "move"]
    fused: int
    kernel: str


class Explained(_Part):
    """Why an engine is fast or slow, from its own profile.

    `ms` is by what is done, `layers` has the costliest. `operations` of a call (a multiplication and its addition are
    two) and the `bytes` that it moves at least; `peaks`, measured on this machine with this engine, in billions a
    second: operations by number format, and `copy`, bytes; `reached`, the shares of them, else `unreached`, why not.
    """

    sentence: str
    total_ms: float | None = None
    ms: dict[str, float] = Field(default_factory=dict)
    layers: list[LayerTime] = Field(default_factory=list)
    operations: int | None = None
    bytes: int | None = None
    peaks: dict[str, float] = Field(default_factory=dict)
    reached: dict[str, float] = Field(default_factory=dict)
    unreached: str = ""
    int8_instructions: str = ""


class LayerNoise(_Part):
    """How near a layer's output is to what it was before rounding, in decibels: signal to noise on calibration data.

    `before_db` is that of the worst of its inputs.
    """

    name: str
    op: str
    before_db: float
    sqnr_db: float

    @property
    def added(self) -> float:
        """How much larger the share of noise in the power is after it: where all is noise, none can be added."""
        after, before = (1 / (1 + 10 ** (ratio / 10)) for ratio in (self.sqnr_db, self.before_db))
        return float(after - before)


class LayerSensitivity(_Part):
    """How much a model minds one layer alone in int8.

    `sqnr_db` is of the worst output, on calibration data; `drop`, of the metric on some of validate, is for the layers
    minded most, null for the others and without labels.
    """

    name: str
    op: str
    sqnr_db: End
    drop: float | None = None


class LayerRepair(_Part):
    """A layer of a rounded candidate in float again: what it regains and costs by itself.

    `regained` is the share of the noise in the outputs that goes away, `ms` what a call takes longer on the engine
    (null where that was not measured), `returned` whether the repaired candidate has it in float.
    """

    name: str
    op: str
    regained: float
    ms: float | None = None
    returned: bool = False


class RatioPart(_Part):
    """Time of the base over time of this: above 1 is faster; two-sided 95 % interval over rounds."""

    ratio: float
    low: End
    high: End
    verdict: Literal["faster", "slower", "no difference", "cannot tell"]


class Latency(_Part):
    """Milliseconds a call, host to host, at the batch named in the report; ratio to the original, which has none.

    `engine_only_ms` is the median of the library's own part, without checks and copies; null where it has no such part.
    `raw` has the nanoseconds of each call, a list a round (in JSON compressed, see `packed`).
    """

    p50_ms: float
    p50_interval_ms: tuple[float, float]
    p90_ms: float
    p90_interval_ms: tuple[float, float]
    p99_ms: float
    p99_interval_ms: tuple[float, float]
    ratio: float | None = None
    low: End | None = None
    high: End | None = None
    verdict: Literal["faster", "slower", "no difference", "cannot tell"] | None = None
    engine_only_ms: float | None = None
    rounds: int
    samples: int
    raw: Rounds


class Made(_Part):
    """What one step of a candidate did: its result's size, and what is known of it; null where it is not.

    `cached`: it was made by an earlier run; `seconds` is what it took then. The original has one, `as given`, without.
    """

    use: str
    seconds: float | None = None
    size_bytes: int | None = None
    parameters: int | None = None
    macs: int | None = None
    signal_to_noise_db: float | None = None
    cached: bool = False
    notes: list[str] = Field(default_factory=list)


class Row(_Part):
    """A candidate, or the original. A figure that was not measured is null.

    `accuracy` is on test, `validate` is what the choice looked at.
    """

    name: str
    target: str | None = None
    engine: str
    steps: list[dict[str, Any]] = Field(default_factory=list)
    options: dict[str, Any] = Field(default_factory=dict)
    status: Status
    reason: str = ""
    precision: str = ""
    threads: int | None = None
    validate_: Accuracy | None = Field(default=None, alias="validate")
    accuracy: Accuracy | None = None
    detail: Detail | None = None
    latency: Latency | None = None
    ratio_to_plain: RatioPart | None = None
    ratio_to_default: RatioPart | None = None
    cold_start_ms: float | None = None
    size_bytes: int | None = None
    peak_memory_bytes: int | None = None
    made: list[Made] = Field(default_factory=list)
    explained: Explained | None = None
    noise: list[LayerNoise] = Field(default_factory=list)
    sensitivity: list[LayerSensitivity] = Field(default_factory=list)
    repair: list[LayerRepair] = Field(default_factory=list)

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, ser_json_inf_nan="strings")


class Timing(_Part):
    """How one interleaved measurement went. `floor` is the half-width of the original against itself (a share).

    `others` names who else used the processor meanwhile, with their share of a core.
    """

    rounds: int
    stopped: Literal["precision", "budget", "rounds"]
    floor: float | None
    margin: float
    quiet: str
    restless: int
    others: list[str] = Field(default_factory=list)


class Final(_Part):
    """One target's chosen engine, measured once more after the choice."""

    name: str
    latency: Latency
    ratio_to_plain: RatioPart | None
    ratio_to_default: RatioPart | None


class DeviceTiming(_Part):
    """One engine of the bundle on a device; `ratio` is [value, low, high], against the first that is timed there."""

    p50_ms: float
    p50_interval_ms: tuple[float, float]
    engine_only_ms: float | None = None
    ratio: tuple[End, End, End]
    verdict: str
    threads: int
    cold_start_ms: float
    peak_memory_bytes: int


class Device(_Part):
    """What `python -m runtime bench BUNDLE --out FILE` wrote on a device; `bundle` is the sha256 of its manifest."""

    schema_: int = Field(alias="schema")
    bundle: str
    device: str
    input: str
    rounds: int
    stopped_by: str
    margin: float
    machine: dict[str, Any]
    engines: dict[str, DeviceTiming]
    failed: dict[str, str]

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, ser_json_inf_nan="strings")


class Headline(_Part):
    """The last run: the chosen ones with the original, the plain and the default engines, all in the same rounds."""

    timing: Timing
    original: Latency
    targets: dict[str, Final]


class SplitFacts(_Part):
    """One split of the data."""

    samples: int
    sha256: str


class Data(_Part):
    """The data as it was read."""

    place: str
    labels: bool
    metric: str
    unit: str
    higher_is_better: bool
    splits: dict[str, SplitFacts]

    @property
    def judged_by(self) -> str:
        """A user's own metric without the folder that its file lies in."""
        return self.metric.replace("\\", "/").rpartition("/")[2]


class Report(_Part):
    """report.json, format 1.

    Attributes:
        unlike: of a locked run, the ONNX files that are not the lock's.
        pareto: target to the candidates that none beats at once in time, drop on validate and size, the fastest first.
        early: why the search ended before all was tried; empty where it did not.
    """

    schema_: int = Field(default=SCHEMA, alias="schema")
    made_with: dict[str, str]
    made_at: str
    machine: dict[str, Any]
    recipe: dict[str, Any]
    data: Data
    inputs: list[str]
    outputs: list[str]
    batch: int
    states: dict[str, str] = Field(default_factory=dict)
    max_drop: float
    objective: Literal["latency", "size", "memory", "throughput"]
    original: Row
    candidates: list[Row]
    screening: Timing | None
    headline: Headline | None
    chosen: dict[str, str]
    why: dict[str, str]
    closest: dict[str, str]
    notes: list[str]
    seconds: float
    exit_code: int
    bundle: str | None
    unlike: list[str] = Field(default_factory=list)
    devices: list[Device] = Field(default_factory=list)
    pareto: dict[str, list[str]] = Field(default_factory=dict)
    early: str = ""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, ser_json_inf_nan="strings")

    def row(self, name: str) -> Row:
        """A candidate by name; raises KeyError."""
        return {row.name: row for row in self.candidates}[name]
