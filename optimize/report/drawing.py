"""The plots, drawn by matplotlib in a process of its own: plain data as JSON on standard input, SVG out.

A process of its own, because matplotlib reads the user's settings, writes a font list, and is one state for all.
Run by optimize.report.plots. Colours are written as the page's CSS variables, so that light and dark are one drawing.
"""

import io
import json
import math
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTHS = {"wide": 760, "narrow": 340}  # in CSS pixels; the page shows the one that fits

# matplotlib wants colours and CSS wants names: these stand in for the names until the SVG is written.
COLOURS = {
    "ink": "#010101", "muted": "#020202", "line": "#030303", "accent": "#040404", "surface": "#050505",
    "bad": "#060606",
}  # fmt: skip
INK, MUTED, LINE, ACCENT, SURFACE, BAD = COLOURS.values()
_LOG_FROM = 4.0  # a span of times this many times its least is drawn on a logarithmic axis
_BINS = 160


def main() -> None:
    """Draw what standard input asks for, at each width."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams.update(
        {
            "svg.fonttype": "none", "svg.hashsalt": "report", "font.family": "sans-serif", "font.size": 12,
            "font.sans-serif": ["DejaVu Sans"], "text.parse_math": False, "axes.unicode_minus": True,
            "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.edgecolor": MUTED,
            "axes.labelcolor": MUTED, "text.color": INK, "xtick.color": MUTED, "ytick.color": MUTED,
            "axes.grid": True, "axes.axisbelow": True, "grid.color": LINE, "grid.linewidth": 1,
            "xtick.minor.size": 0, "ytick.major.size": 0,
        }
    )  # fmt: skip
    asked = json.load(sys.stdin)
    found = {}
    for name, draw in (("scatter", _scatter), ("distributions", _distributions), ("throughput", _throughput)):
        for size, width in WIDTHS.items():
            if asked.get(name):
                found[f"{name}_{size}"] = draw(asked[name], width, f"{name}-{size}")
    json.dump(found, sys.stdout)


def _scatter(data: dict[str, Any], width: int, prefix: str) -> str:
    """Accuracy over latency, with the intervals of both, the limit, and the front that no candidate beats."""
    figure, axes = _figure(width, 400 if width > 500 else 360)
    points = data["points"]
    x, y = np.array([p["x"] for p in points]), np.array([p["y"] for p in points])
    scale = 100.0 if data["percent"] else 1.0
    _time_axis(axes, [value for p in points for value in (p["x"], *p["x_interval"])])
    for p in points:
        colour = ACCENT if p["kind"] == "chosen" else INK if p["kind"] == "original" else MUTED
        axes.plot(p["x_interval"], [p["y"] * scale] * 2, color=colour, linewidth=1.2, alpha=0.75)
        axes.plot([p["x"]] * 2, [v * scale for v in p["y_interval"]], color=colour, linewidth=1.2, alpha=0.75)
        axes.plot(
            [p["x"]], [p["y"] * scale], marker="D" if p["kind"] == "original" else "o", markersize=8, color=colour,
            markeredgecolor=colour, markerfacecolor=SURFACE if p["kind"] == "candidate" else colour,
            markeredgewidth=1.6, zorder=4,
        )  # fmt: skip
    axes.axhline(data["limit"] * scale, color=BAD, linewidth=1.2, dashes=(5, 4))
    values = [*(v * scale for p in points for v in p["y_interval"]), *(y * scale), data["limit"] * scale]
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or abs(high) * 0.05 or 1.0
    axes.set_ylim(low - room, high + room)
    if not data["higher_is_better"]:
        axes.invert_yaxis()  # better is up in every report
    axes.set_xlabel("p50 latency, ms (left is better)")
    axes.set_title(data["y_label"], loc="left", fontsize=12, color=MUTED, pad=10)
    axes.annotate(
        data["limit_label"], (1, data["limit"] * scale), xycoords=("axes fraction", "data"), xytext=(0, 4),
        textcoords="offset points", ha="right", color=BAD, fontsize=11,
    )  # fmt: skip
    front = pareto(x, y if data["higher_is_better"] else -y)
    # to the edges: right of and below this line all are beaten
    end, start = axes.get_xlim()[1], axes.get_ylim()[0]
    axes.step(
        [x[front[0]], *x[front], end], [start, *(y[front] * scale), y[front[-1]] * scale], where="post",
        color=ACCENT, linewidth=1.4, alpha=0.55, zorder=3,
    )  # fmt: skip
    figure.tight_layout(pad=0.4)
    _label(figure, axes, points, scale)
    return _svg(figure, prefix)


def pareto(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[int]:
    """Those that no other one is at once left of (or level with) and above (or level with); from left to right."""
    order = sorted(range(len(x)), key=lambda i: (x[i], -y[i]))
    front: list[int] = []
    for i in order:
        if not front or y[i] > y[front[-1]]:
            front.append(i)
    return front


def _distributions(data: dict[str, Any], width: int, prefix: str) -> str:
    """One ridge a contender: the density of its calls' times, its p50, p90 and p99."""
    rows = data["rows"]
    figure, axes = _figure(width, 64 + 58 * len(rows))
    samples = [np.array(row["ms"]) for row in rows]
    left = min(float(np.quantile(ms, 0.001)) for ms in samples) * 0.97
    right = max(row["p99"] for row in rows) * 1.12
    log = _time_axis(axes, [left, right], exact=True)
    edges = np.geomspace(left, right, _BINS + 1) if log else np.linspace(left, right, _BINS + 1)
    middle = np.sqrt(edges[1:] * edges[:-1]) if log else (edges[1:] + edges[:-1]) / 2
    for i, (row, ms) in enumerate(zip(rows, samples, strict=True)):
        base = float(len(rows) - 1 - i)
        colour = ACCENT if row["kind"] == "chosen" else INK if row["kind"] == "original" else MUTED
        height = _density(ms, edges) * 0.58
        axes.fill_between(middle, base, base + height, facecolor=colour, alpha=0.22, linewidth=0)
        axes.plot(middle, base + height, color=colour, linewidth=1.2)
        for share, tall in ((row["p50"], 0.5), (row["p90"], 0.22), (row["p99"], 0.22)):
            axes.plot([share, share], [base, base + tall], color=colour, linewidth=2 if tall > 0.3 else 1.2)
        beyond = int(np.sum(ms > right))
        axes.annotate(
            row["label"], (0, base + 0.72), xycoords=("axes fraction", "data"), fontsize=12,
            color=colour if colour != MUTED else INK, fontweight="bold" if row["kind"] == "chosen" else "normal",
        )  # fmt: skip
        text = [f"p50 {row['p50']:.3g}", f"p99 {row['p99']:.3g} ms"] if width > 500 else []
        text += [f"{beyond} slower ›"] if beyond else []
        axes.annotate(
            "    ".join(text),
            (1, base + 0.72),
            xycoords=("axes fraction", "data"),
            ha="right",
            fontsize=11,
            color=MUTED,
        )
    axes.set_ylim(-0.08, len(rows))
    axes.set_yticks([])
    axes.grid(False, axis="y")
    axes.set_xlabel("latency of a call, ms (left is better)")
    figure.tight_layout(pad=0.4)
    return _svg(figure, prefix)


def _throughput(data: dict[str, Any], width: int, prefix: str) -> str:
    """Samples a second over what varies most; a line for each combination of the rest, bars from least to most."""
    from matplotlib.ticker import FixedLocator, NullLocator

    figure, axes = _figure(width, 400)
    x_name, series = data["over"], data["series"]
    for i, one in enumerate(series):
        x, y = [p[0] for p in one["points"]], [p[1] for p in one["points"]]
        colour, dashes = (ACCENT, INK, MUTED, BAD)[i % 4], ((1, 0), (5, 3), (1, 2))[i // 4 % 3]
        axes.plot(x, y, color=colour, dashes=dashes, linewidth=1.6, marker="o", markersize=5, label=one["label"])
        for at, _, least, most in one["points"]:
            axes.plot([at, at], [least, most], color=colour, linewidth=1.2, alpha=0.75)
    places = sorted({p[0] for one in series for p in one["points"]})
    if len(places) > 1 and places[-1] / places[0] > _LOG_FROM:
        axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(places, [f"{value:g}" for value in places])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(x_name)
    axes.set_title("samples a second (up is better)", loc="left", fontsize=12, color=MUTED, pad=10)
    axes.legend(frameon=False, fontsize=11, loc="best")
    figure.tight_layout(pad=0.4)
    return _svg(figure, prefix)


def _density(ms: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """A smoothed histogram, 1 at its highest; what lies outside is not drawn, but counted by the caller."""
    counts = np.histogram(ms, edges)[0].astype(float)
    spread = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
    smooth = np.convolve(counts, spread / spread.sum(), mode="same")
    return np.asarray(smooth / (smooth.max() or 1.0))


def _figure(width: int, height: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72)  # 72 a unit: one unit of the SVG is one CSS pixel
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _time_axis(axes: Any, values: Sequence[float], exact: bool = False) -> bool:
    """Milliseconds, on a logarithmic axis where they span much; ticks at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    least, most = min(v for v in values if v > 0), max(values)
    log = most / least > _LOG_FROM
    if log:
        axes.set_xscale("log")
        decades = math.log10(most / least)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if exact:
        axes.set_xlim(least, most)
    elif log:
        axes.set_xlim(least / (most / least) ** 0.08, most * (most / least) ** 0.08)
    else:
        room = (most - least) * 0.08 or most * 0.1
        axes.set_xlim(least - room, most + room)
    return log


def _label(figure: Any, axes: Any, points: Sequence[dict[str, Any]], scale: float) -> None:
    """Write each name beside its point, where it covers no other name and no point; the chosen ones first."""
    renderer = figure._get_renderer()
    box = axes.get_window_extent(renderer)
    places = [axes.transData.transform((p["x"], p["y"] * scale)) for p in points]
    # a name may cross a line but not a mark
    taken = [(px - 6, py - 6, px + 6, py + 6) for px, py in places]
    steps = [0, *(sign * by for by in range(14, 150, 14) for sign in (1, -1))]
    order = sorted(range(len(points)), key=lambda i: (points[i]["kind"] != "chosen", places[i][0]))
    for i in order:
        p, (px, py) = points[i], places[i]
        text = axes.annotate(
            p["label"], (p["x"], p["y"] * scale), textcoords="offset points", xytext=(0, 0), fontsize=11, zorder=5,
            color=ACCENT if p["kind"] == "chosen" else INK, fontweight="bold" if p["kind"] == "chosen" else "normal",
        )  # fmt: skip
        size = text.get_window_extent(renderer)
        tries = [
            (left, py + up - size.height / 2) for up in steps for left in (px + 10, px - 10 - size.width)
        ] + [(px - size.width / 2, py + up - size.height / 2) for up in steps[1:]]  # fmt: skip
        tries.sort(key=lambda at: math.hypot(at[0] + size.width / 2 - px, 3 * (at[1] + size.height / 2 - py)))
        free = [
            at for at in tries
            if box.x0 <= at[0] and at[0] + size.width <= box.x1 and box.y0 <= at[1] and at[1] + size.height <= box.y1
            and not any(_meets((*at, at[0] + size.width, at[1] + size.height), other) for other in taken)
        ]  # fmt: skip
        if not free:
            text.remove()  # the table names it; a heap of names would be read by no one
            continue
        left, bottom = free[0]
        text.xyann = (left - px, bottom - py)
        middle = bottom + size.height / 2
        taken.append((left, bottom, left + size.width, bottom + size.height))
        if abs(middle - py) > 12:  # far from its mark: a thin line leads there
            end = left if left > px else left + size.width if left + size.width < px else px
            axes.annotate(
                "", (p["x"], p["y"] * scale), xytext=(end - px, middle - py), textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.8, "shrinkB": 6, "shrinkA": 2},
            )  # fmt: skip


def _meets(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _svg(figure: Any, prefix: str) -> str:
    """The figure to stand inside a page: no ids that meet others there, colours and font those of the page."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.S)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: f' id="{prefix}-{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r"<style.*?</style>", "", text, flags=re.S)  # it would reach the whole page
    text = re.sub(r"; font-family: [^;\"]*", "", text)
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)[0]
    text = re.sub(
        r"<svg[^>]*>", f'<svg viewBox="0 0 {width} {height}" aria-hidden="true" focusable="false">', text, count=1
    )
    return re.sub(r"\n\s*", "\n", text)


if __name__ == "__main__":
    main()
