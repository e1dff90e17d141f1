"""How often the model is right when it says how sure it is."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mlvlab_jax.report.axis import format_number, format_percent

_WIDTH, _HEIGHT = 360, 376
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 348, 10, 264
_COUNTS_TOP, _COUNTS_BOTTOM = 278, 328
#: A bin of fewer images says little, and is drawn pale.
_FEW = 10
_LEGEND = (
    'Strokes: accuracy of the images of one range of confidence. <b class="orange">Orange</b>: its gap to their mean '
    f"confidence. Pale: fewer than {_FEW} images."
)


def draw_reliabilities(calibration: Mapping[str, Any]) -> str:
    """The diagram before temperature scaling, and after it where a temperature was fitted, side by side."""
    diagrams = [draw_reliability(calibration["before"], title="as trained")]
    if calibration["after"] is not None:
        title = f"at temperature {calibration['temperature']:.3f}, fitted on {calibration['fitted_on']}"
        diagrams.append(draw_reliability(calibration["after"], title=title))
    return f'<p class="quiet">{_LEGEND}</p><div class="reliabilities">{"".join(diagrams)}</div>'


def draw_reliability(measured: Mapping[str, Any], *, title: str) -> str:
    """A reliability diagram with the gap in each bin, and below it where the confidences lie.

    Args:
        measured: ece, nll and brier, and bins of low, high, count, confidence and accuracy, all in [0, 1].
        title: Plain text.

    References:
        DeGroot and Fienberg, The Comparison and Evaluation of Forecasters, 1983.
        Guo et al., On Calibration of Modern Neural Networks, 2017.
    """
    bins = [each for each in measured["bins"] if each["count"]]
    numbers = (
        f"ECE {format_percent(measured['ece'], digits=2)}, NLL {measured['nll']:.3f}, Brier {measured['brier']:.3f}"
    )
    label = f"Reliability diagram, {title}: {numbers}"
    ideal = f'<line class="ideal" x1="{_LEFT}" y1="{_BOTTOM}" x2="{_RIGHT}" y2="{_TOP}"/>'
    return (
        f'<figure class="reliability"><figcaption><b>{escape(title)}</b><br>{numbers}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{_draw_frame()}{''.join(map(_draw_bin, bins))}{ideal}{_draw_counts(bins)}</svg></figure>"
    )


def _left(share: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * share


def _top(share: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * share


def _draw_frame() -> str:
    parts = []
    for k in range(0, 101, 20):
        y, x = _top(k / 100), _left(k / 100)
        parts.append(f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{k}</text>')
        parts.append(f'<text x="{x:.1f}" y="{_COUNTS_BOTTOM + 16}" text-anchor="middle">{k}</text>')
    middle = (_top(0) + _top(1)) / 2
    parts.append(f'<text transform="translate(11 {middle:.0f}) rotate(-90)" text-anchor="middle">accuracy, %</text>')
    parts.append(f'<text x="{_left(0.5):.0f}" y="{_COUNTS_BOTTOM + 34}" text-anchor="middle">confidence, %</text>')
    return "".join(parts)


def _draw_bin(each: Mapping[str, float]) -> str:
    """A bar that ends in a stroke at the accuracy; in the other ink the gap between it and the mean confidence."""
    reached, said, place = _top(each["accuracy"]), _top(each["confidence"]), _place(each)
    lower = max(reached, said)
    pale = ' class="pale"' if each["count"] < _FEW else ""
    bar = f'<rect class="blue bar" {place} y="{lower:.1f}" height="{_BOTTOM - lower:.1f}"/>'
    gap = f'<rect class="orange gap" {place} y="{min(reached, said):.1f}" height="{abs(reached - said):.1f}"/>'
    stroke = f'<rect class="blue" {place} y="{reached - 1:.1f}" height="2"/>'
    return f"<g{pale}><title>{_tell(each)}</title>{bar}{gap}{stroke}</g>"


def _place(each: Mapping[str, float]) -> str:
    return f'x="{_left(each["low"]) + 1:.1f}" width="{_left(each["high"]) - _left(each["low"]) - 2:.1f}"'


def _draw_counts(bins: Sequence[Mapping[str, float]]) -> str:
    highest = max((each["count"] for each in bins), default=1)
    parts = [
        f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{_COUNTS_BOTTOM}" y2="{_COUNTS_BOTTOM}"/>'
        f'<text x="{_LEFT - 6}" y="{_COUNTS_TOP + 8}" text-anchor="end">{format_number(highest)}</text>'
        f'<text x="{_LEFT - 6}" y="{_COUNTS_BOTTOM}" text-anchor="end">images</text>'
    ]
    for each in bins:
        height = max(1.0, (_COUNTS_BOTTOM - _COUNTS_TOP) * each["count"] / highest)
        size = f'y="{_COUNTS_BOTTOM - height:.1f}" height="{height:.1f}"'
        parts.append(f'<rect class="count" {_place(each)} {size}><title>{_tell(each)}</title></rect>')
    return "".join(parts)


def _tell(each: Mapping[str, float]) -> str:
    return (
        f"confidence {each['low']:.2f} to {each['high']:.2f}: {each['count']:,} images\n"
        f"accuracy {format_percent(each['accuracy'])}, mean confidence {format_percent(each['confidence'])}"
    )
