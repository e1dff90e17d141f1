"""Curves over steps as inline SVG: round ticks, names at the ends of the lines, values where the pointer is."""

import itertools
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from mlvlab_jax.report.axis import format_number, round_ticks
from mlvlab_jax.report.records import Series, thin_series

_WIDTH, _HEIGHT = 368, 214
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 296, 18, 178
_LABEL_PX = 25
#: Points of a line, and places of a chart that answer the pointer: more would not be seen.
_MAX_POINTS, _MAX_PLACES = 400, 72
#: Of a curve by its label; of the only curve of a chart.
_INKS = {"train": "orange", "validation": "blue", "": "orange"}


class Panel(NamedTuple):
    """What one chart shows. curves: label -> name in metrics.jsonl. percent: shares of one, drawn in per cent."""

    title: str
    unit: str
    curves: Mapping[str, str]
    percent: bool = False
    from_zero: bool = True


PANELS = (
    Panel("Loss", "nats", {"train": "train/loss", "validation": "validation/loss"}),
    Panel(
        "Accuracy", "%", {"train": "train/accuracy", "validation": "validation/accuracy"}, percent=True, from_zero=False
    ),
    Panel("Gradient norm", "", {"train": "train/grad_norm"}),
    Panel("Learning rate", "", {"train": "train/learning_rate"}),
    Panel("Throughput", "images/s", {"train": "images_per_second"}),
    Panel("Step time", "ms, median of a window", {"train": "step_ms_p50"}),
    Panel("MFU", "% of the devices' peak", {"train": "mfu"}, percent=True),
    Panel("Input wait", "% of training time", {"train": "input_wait"}, percent=True),
)


def draw_curves(panel: Panel, curves: Mapping[str, Series], *, best_step: int | None) -> str:
    """A chart of up to two curves as a <figure>; nothing where none was recorded.

    Args:
        panel: What to draw.
        curves: All curves of the run by name.
        best_step: Step whose state is the run's result, marked where validation is shown; None for no mark.
    """
    factor = 100.0 if panel.percent else 1.0
    drawn = {
        label: Series(curves[name].steps, curves[name].values * factor)
        for label, name in panel.curves.items()
        if name in curves and np.isfinite(curves[name].values).any()
    }
    if not drawn:
        return ""
    frame = _Frame.around(list(drawn.values()), panel=panel)
    marked = best_step if "validation" in panel.curves else None
    lost = sum(int(np.isnan(series.values).sum()) for series in drawn.values())
    count = sum(len(series.values) for series in drawn.values())
    parts = [
        frame.draw_axes(),
        "" if marked is None else frame.draw_mark(marked),
        *[
            frame.draw_line(thin_series(series, max_points=_MAX_POINTS), _INKS[label])
            for label, series in drawn.items()
        ],
        frame.draw_labels({label if len(drawn) > 1 else "": series for label, series in drawn.items()}),
        frame.draw_places(drawn),
    ]
    unit = f' <span class="unit">{escape(panel.unit)}</span>' if panel.unit else ""
    note = f'<p class="warning">not finite: {lost:,} of {count:,} values</p>' if lost else ""
    return (
        f'<figure class="curve"><figcaption><b>{escape(panel.title)}</b>{unit}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(_describe(panel, drawn))}">'
        f"{''.join(parts)}</svg>{note}</figure>"
    )


def _describe(panel: Panel, drawn: Mapping[str, Series]) -> str:
    ends = "; ".join(f"{label} ends at {format_number(_last(series))}" for label, series in drawn.items())
    return f"{panel.title} {panel.unit} over steps: {ends}"


def _last(series: Series) -> float:
    return float(series.values[np.isfinite(series.values)][-1])


class _Frame(NamedTuple):
    """From data to pixels. x and y: ticks of the two axes, whose first and last are the ends of the plot."""

    x: Sequence[float]
    y: Sequence[float]

    @classmethod
    def around(cls, drawn: Sequence[Series], *, panel: Panel) -> "_Frame":
        values = np.concatenate([series.values[np.isfinite(series.values)] for series in drawn])
        low, high = float(values.min()), float(values.max())
        ticks = round_ticks(min(low, 0.0) if panel.from_zero else low, high)
        if panel.percent and high <= 100:  # room around a flat curve must not go beyond what can be
            ticks = [tick for tick in ticks if tick <= 100]
        end = max(1, *(int(series.steps[-1]) for series in drawn))
        whole = [tick for tick in round_ticks(0, end, count=4) if tick <= end and tick.is_integer()]
        return cls([*whole, float(end)], ticks)

    def left(self, step: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * step / self.x[-1]

    def top(self, value: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (value - self.y[0]) / (self.y[-1] - self.y[0])

    def draw_axes(self) -> str:
        rows = "".join(
            f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{self.top(tick):.1f}" y2="{self.top(tick):.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{self.top(tick) + 4:.1f}" text-anchor="end">{format_number(tick)}</text>'
            for tick in self.y
        )
        columns = "".join(
            f'<text x="{self.left(tick):.1f}" y="{_BOTTOM + 16}" text-anchor="middle">{format_number(tick)}</text>'
            for tick in self.x[:-1]
        )
        unit = f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_BOTTOM + 31}" text-anchor="middle">step</text>'
        return rows + columns + unit

    def draw_mark(self, step: int) -> str:
        x = self.left(step)
        anchor = "start" if x < (_LEFT + _RIGHT) / 2 else "end"
        line = f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 4}" y2="{_BOTTOM}"/>'
        return f'{line}<text x="{x:.1f}" y="{_TOP - 8}" text-anchor="{anchor}">best: step {step:,}</text>'

    def draw_line(self, series: Series, ink: str) -> str:
        """Where a value is not finite the line is broken; a point without neighbours is a dot."""
        pieces: list[list[str]] = [[]]
        for step, value in zip(series.steps.tolist(), series.values.tolist(), strict=True):
            if math.isfinite(value):
                pieces[-1].append(f"{self.left(step):.1f},{self.top(value):.1f}")
            elif pieces[-1]:
                pieces.append([])
        dots = [points[0].split(",") for points in pieces if len(points) == 1]
        path = "".join(f"M{'L'.join(points)}" for points in pieces if len(points) > 1)
        line = f'<path class="{ink} line" d="{path}"/>' if path else ""
        return line + "".join(f'<circle class="{ink}" cx="{x}" cy="{y}" r="3"/>' for x, y in dots)

    def draw_labels(self, drawn: Mapping[str, Series]) -> str:
        """The name, if there are two, and last value beside the end of each line, moved apart where they would meet."""
        ends = sorted((self.top(_last(series)), label) for label, series in drawn.items())
        places = [min(max(y, _TOP), _BOTTOM - _LABEL_PX * (len(ends) - 1 - k)) for k, (y, _) in enumerate(ends)]
        for k in range(1, len(places)):
            places[k] = max(places[k], places[k - 1] + _LABEL_PX)
        return "".join(
            f'<text class="{_INKS[label]}" x="{_RIGHT + 7}" y="{y:.1f}">{label}'
            f'<tspan x="{_RIGHT + 7}" dy="{12 if label else 4}">{format_number(_last(drawn[label]))}</tspan></text>'
            for y, (_, label) in zip(places, ends, strict=True)
        )

    def draw_places(self, drawn: Mapping[str, Series]) -> str:
        """Invisible columns that tell the values nearest to the pointer."""
        steps = sorted({step for series in drawn.values() for step in series.steps.tolist()})
        if len(steps) > _MAX_PLACES:
            steps = [steps[k] for k in np.linspace(0, len(steps) - 1, _MAX_PLACES).astype(int)]
        middles = [(a + b) / 2 for a, b in itertools.pairwise(steps)]
        edges = [_LEFT, *map(self.left, middles), _RIGHT]
        return "".join(
            f'<rect class="place" x="{low:.1f}" y="{_TOP}" width="{high - low:.1f}" height="{_BOTTOM - _TOP}">'
            f"<title>{_tell(step, drawn)}</title></rect>"
            for step, low, high in zip(steps, edges[:-1], edges[1:], strict=True)
        )


def _tell(step: int, drawn: Mapping[str, Series]) -> str:
    lines = [f"step {step:,}"]
    for label, series in drawn.items():
        nearest = int(np.abs(series.steps - step).argmin())
        value, there = float(series.values[nearest]), int(series.steps[nearest])
        told = format_number(value) if math.isfinite(value) else "not finite"
        lines.append(f"{label} {told}" + ("" if there == step else f" (step {there:,})"))
    return "\n".join(lines)
