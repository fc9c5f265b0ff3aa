"""A report in which nothing is as it should be: for the forms that must hold all the same."""

from optimize.report import (
    Accuracy,
    ClassAccuracy,
    Data,
    Detail,
    Device,
    DeviceTiming,
    Explained,
    Final,
    Flip,
    Headline,
    Latency,
    LayerNoise,
    LayerSensitivity,
    LayerTime,
    Made,
    Moved,
    RatioPart,
    Report,
    Row,
    SplitFacts,
    Timing,
)

DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNgAAAAAgAB4iG8MwAAAABJRU5ErkJggg=="
)
SCRIPT = "<script>alert('x')</script>"
LONG = "a_name_without_any_place_to_break_it_" * 5
MACHINE = {"cpu": "A CPU & <b>more</b>", "cores": 1, "memory_bytes": 2**33, "gpus": [], "governor": None}


def accuracy(value, drop=0.0, low=0.0, high=0.0, verdict="within"):
    return Accuracy(metric="mse", value=value, drop=drop, low=low, high=high, verdict=verdict, samples=1000)


def latency(ms, ratio=None, verdict="faster", spread=0.02):
    both = (ms * (1 - spread), ms * (1 + spread))
    part = {"ratio": ratio, "low": ratio * 0.9, "high": ratio * 1.1, "verdict": verdict} if ratio else {}
    raw = [[int(ms * 1e6 * (1 + 0.01 * ((7 * i + j) % 13))) for i in range(30)] for j in range(3)]
    raw[0][0] *= 50
    return Latency(
        p50_ms=ms, p50_interval_ms=both, p90_ms=ms * 1.1, p90_interval_ms=both, p99_ms=ms * 1.2,
        p99_interval_ms=both, rounds=3, samples=90, raw=raw, **part,
    )  # fmt: skip


def make(**changes) -> Report:
    """A regression with names out of hell; its chosen one cannot be told, others failed, are wrong or not built."""
    chosen = Row(
        name=f"openvino-{SCRIPT}", target="openvino", engine="openvino", status="measured", options={"x": SCRIPT},
        validate=accuracy(0.5, 0.1, -0.2, 0.4, "cannot tell"), accuracy=accuracy(0.5, 0.1, -0.2, 0.4, "cannot tell"),
        latency=latency(0.5, 8.0).model_copy(update={"high": float("inf")}), size_bytes=10, threads=1,
        detail=Detail(
            sqnr_db=-3.0, cosine=None, agreement=0.5, flipped=1000, calibration_error=0.25,
            classes=[ClassAccuracy(number=i, samples=20 + i, before=1.0, after=i / 12) for i in range(12)],
            flips=[
                Flip(sample=i, label=None if i % 2 else 3, before=3, after=i, confidence_before=1, confidence_after=0.5,
                     shown=(DOT, SCRIPT, "", "0.1, 0.2, …", f"data:image/png;base64,{SCRIPT}")[i % 5])
                for i in range(9)
            ],
            moved=[
                Moved(sample=i, label=1.5 if i % 2 else None, before=-1e-9 if i % 2 else None,
                      after=1e9 if i % 2 else None, share=float(10**i), shown=(DOT, SCRIPT, "")[i % 3])
                for i in range(5)
            ],
        ),
        sensitivity=[
            LayerSensitivity(name=f"{LONG} {SCRIPT}", op="Conv", sqnr_db=-5.0 + i, drop=None if i % 2 else 0.01)
            for i in range(4)
        ],
        explained=Explained(
            sentence=f"{LONG} (Conv) is to blame {SCRIPT}", total_ms=2.0, ms={"computing in int8": 1.5, "moving": 0.5},
            layers=[
                LayerTime(name=name, op=SCRIPT, ms=0.5, precision="int8", kind=kind, fused=2, kernel="")
                for name, kind in ((LONG, "compute"), (SCRIPT, "convert"), ("a", "move"))
            ],
            operations=10**9, bytes=10**6, peaks={"int8": 900.0, "copy": 12.0}, reached={"int8": 0.55, "copy": 0.04},
            int8_instructions="none of avx512_vnni here",
        ),
        noise=[LayerNoise(name=LONG, op=SCRIPT, before_db=120.0, sqnr_db=-120.0)] * 20,
        made=[
            Made(use="export", seconds=1.0, size_bytes=2**20, parameters=10, macs=10**9),
            Made(use=SCRIPT, seconds=0.1, size_bytes=2**18, parameters=10, macs=10**9, notes=[f"note {SCRIPT}"]),
        ],
    )  # fmt: skip
    rows = [
        chosen,
        Row(name=LONG, target="openvino", engine="openvino", status="failed", reason=f"step '{LONG}' {SCRIPT}"),
        Row(name="$x^{", target="openvino", engine="openvino", status="wrong", reason="its output has NaN"),
        Row(name="tensorrt-int8", target="tensorrt", engine="tensorrt", status="cannot build here", reason="no GPU",
            accuracy=accuracy(0.7, 0.3, 0.2, 0.4, "exceeds"), size_bytes=2**20),
        Row(name="a$b$", target="openvino", engine="openvino", status="measured", accuracy=accuracy(0.41, 0.01),
            latency=latency(6.0, 0.67, "slower")),
        Row(name="no accuracy", target="openvino", engine="openvino", status="measured",
            latency=latency(4.0, 1.0, "no difference")),
        Row(name="dropped", target="openvino", engine="openvino", status="dropped", reason="no time left"),
    ]  # fmt: skip
    content = {
        "made_with": {"edge-optimize": "0.1.0"}, "made_at": "2026-11-24T00:00:00+00:00", "seconds": 12.0,
        "machine": MACHINE, "inputs": [f"{SCRIPT}: float32[batch, 3]"], "outputs": ["y: float32[batch, 2]"],
        "recipe": {
            "model": {"entry": f"C:\\models\\m.py:{SCRIPT}", "inputs": {"an odd.name": {"shape": ["n", 3]}}},
            "steps": [{"use": "quantize_static", "vendor": {'"': None, "deep": {"x": [1.5, True, SCRIPT]}}}],
            "targets": {"openvino": {}},
        },
        "data": Data(
            place=f"</style>{SCRIPT}", labels=True, metric=f"mse {SCRIPT}", unit="kg²", higher_is_better=False,
            splits={"test": SplitFacts(samples=1000, sha256="0" * 64)},
        ),
        "batch": 1, "max_drop": 0.2, "objective": "latency", "candidates": rows,
        "original": Row(name="original", engine="torch", status="measured",
                        accuracy=accuracy(0.4, verdict=None), latency=latency(4.0)),
        "screening": Timing(rounds=3, stopped="rounds", floor=None, margin=0.02, quiet="fixed pause", restless=2),
        "headline": Headline(
            timing=Timing(rounds=8, stopped="budget", floor=0.3, margin=0.3, quiet="fixed pause", restless=2),
            original=latency(4.1), targets={},
        ),
        "chosen": {"openvino": chosen.name}, "why": {"openvino": f"why {SCRIPT}", "tensorrt": "cannot build here"},
        "closest": {"tensorrt": "tensorrt-int8"}, "notes": [f"a note {SCRIPT}"], "exit_code": 1, "bundle": "bundle",
        "devices": [
            Device(
                schema=1, bundle="0" * 64, device=f"{LONG}{SCRIPT}", input="random numbers", rounds=8, margin=0.02,
                stopped_by="budget", machine=MACHINE, failed={"a$b$": SCRIPT},
                engines={
                    name: DeviceTiming(
                        p50_ms=1.5, p50_interval_ms=(1.4, 1.6), ratio=(2.0, 1.9, 2.1), verdict=verdict, threads=1,
                        cold_start_ms=1.0, peak_memory_bytes=1,
                    )
                    for name, verdict in (("fallback on openvino", "the base"), (chosen.name, "faster"))
                },
            )
        ],
        **changes,
    }  # fmt: skip
    return Report(**content)


def with_finals(verdict: str = "faster") -> Report:
    """The same, its chosen one measured once more."""
    plain = make()
    (name,) = plain.chosen.values()
    part = RatioPart(ratio=0.9, low=0.8, high=float("inf"), verdict="cannot tell")
    final = Final(name=name, latency=latency(0.4, 9.0, verdict), ratio_to_plain=part, ratio_to_default=None)
    assert plain.headline
    return make(headline=plain.headline.model_copy(update={"targets": {"openvino": final}}))
