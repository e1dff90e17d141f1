"""Reference against window, feature by feature, as inline SVG."""

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from mlvlab_jax.monitoring.findings import compute_shares, name_feature, rank_features
from mlvlab_jax.monitoring.history import Histogram, History, WindowRecord
from mlvlab_jax.report.axis import format_number, format_percent
from mlvlab_jax.report.confusion import shorten

_WIDTH, _HEIGHT, _TOP, _BOTTOM, _LEFT, _RIGHT = 268, 132, 8, 108, 6, 262
_MAX_CLASSES, _BAR_PX, _NAME_CHARS, _CLASS_ROW_PX = 20, 7, 22, 24
_LEGEND = (
    '<b class="count">Grey</b>: examples at training. <b class="orange">Orange</b> outline: this window. Bins are '
    "drawn equally wide; the first and the last also hold what lies beyond."
)


def draw_features(window: WindowRecord, history: History) -> str:
    """A small histogram for each feature; where some differ, the others are folded away."""
    order = rank_features(window)
    rejected = {result.feature for result in window.tests if result.rejected}
    names = sorted(window.features, key=lambda name: order.index(name) if name in order else len(order))
    drawn = {
        name: draw_histogram(
            name, history.reference.features[name], counts=window.features[name], differs=name in rejected
        )
        for name in names
    }
    open_names = [name for name in names if name in rejected] or names
    folded = [name for name in names if name not in open_names]
    shown = f'<p class="quiet">{_LEGEND}</p>{_arrange(drawn[name] for name in open_names)}'
    if not folded:
        return shown
    summary = f"<summary>{len(folded)} more, like training: {escape(', '.join(folded))}</summary>"
    return f"{shown}<details>{summary}{_arrange(drawn[name] for name in folded)}</details>"


def _arrange(figures: Iterable[str]) -> str:
    return f'<div class="histograms">{"".join(figures)}</div>'


def draw_histogram(feature: str, reference: Histogram, *, counts: Sequence[int], differs: bool) -> str:
    """One histogram as a <figure>.

    Args:
        feature: Its name.
        reference: At training.
        counts: Of the window (m), on the edges of `reference`.
        differs: Whether a test tells them apart.
    """
    then, now = compute_shares(reference.counts), compute_shares(counts)
    highest = float(max(then.max(), now.max())) or 1.0
    pitch = (_RIGHT - _LEFT) / len(then)
    bars = "".join(
        f'<rect class="count" x="{_LEFT + k * pitch + 0.5:.1f}" y="{_top(share / highest):.1f}" '
        f'width="{pitch - 1:.1f}" height="{_BOTTOM - _top(share / highest):.1f}" fill-opacity=".45"/>'
        for k, share in enumerate(then.tolist())
        if share
    )
    outline = "".join(
        f"V{_top(share / highest):.1f}H{_LEFT + (k + 1) * pitch:.1f}" for k, share in enumerate(now.tolist())
    )
    line = f'<path class="orange line" d="M{_LEFT} {_BOTTOM}{outline}V{_BOTTOM}"/>'
    places = "".join(
        f'<rect class="place" x="{_LEFT + k * pitch:.1f}" y="{_TOP}" width="{pitch:.1f}" height="{_BOTTOM - _TOP}">'
        f"<title>{_tell(reference, k, float(then[k]), float(now[k]))}</title></rect>"
        for k in range(len(then))
    )
    mark = ' <span class="warning">differs</span>' if differs else ""
    label = f"{feature} of the window against training{', which differ' if differs else ''}"
    return (
        f'<figure class="histogram"><figcaption><b>{escape(feature)}</b>{mark}<br>{escape(_explain(feature))}'
        f'</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{_BOTTOM}" y2="{_BOTTOM}"/>'
        f"{bars}{line}{_draw_ticks(reference.edges)}{places}</svg></figure>"
    )


def _explain(feature: str) -> str:
    name = name_feature(feature)
    return "" if name == feature else name


def _top(share: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * share


def _tell(reference: Histogram, k: int, then: float, now: float) -> str:
    limits = f"{reference.edges[k]:.4g} to {reference.edges[k + 1]:.4g}"
    return f"{limits}\nat training {format_percent(then)}\nthis window {format_percent(now)}"


def _draw_ticks(edges: Sequence[float]) -> str:
    """The limits of some bins, always those of the first and the last."""
    anchors = ("start", "middle", "end")
    chosen = np.linspace(0, len(edges) - 1, 3).round().astype(int).tolist() if len(edges) > 2 else [0, None, 1]
    return "".join(
        f'<text x="{_LEFT + (_RIGHT - _LEFT) * k / (len(edges) - 1):.1f}" y="{_BOTTOM + 15}" text-anchor="{anchor}">'
        f"{format_number(float(f'{edges[k]:.3g}'))}</text>"
        for k, anchor in zip(chosen, anchors, strict=True)
        if k is not None
    )


def draw_classes(window: WindowRecord, history: History) -> str:
    """How often each class is predicted, at training and in the window; of many classes those that moved most."""
    names = history.reference.class_names
    then, now = compute_shares(history.reference.prediction), compute_shares(window.prediction)
    order = np.argsort(-np.abs(now - then), kind="stable")[:_MAX_CLASSES].tolist()
    highest = float(max(then.max(), now.max())) or 1.0
    left, width = 150, 250
    rows = []
    for row, k in enumerate(order):
        y, scale = row * _CLASS_ROW_PX + 4, width / highest
        told = f"{names[k]}: at training {format_percent(float(then[k]))}, this window {format_percent(float(now[k]))}"
        rows.append(
            f"<g><title>{escape(told)}</title>"
            f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{escape(shorten(names[k], _NAME_CHARS))}</text>'
            f'<rect class="count" x="{left}" y="{y}" width="{scale * then[k]:.1f}" height="{_BAR_PX}"/>'
            f'<rect class="orange" x="{left}" y="{y + _BAR_PX + 1}" width="{scale * now[k]:.1f}" height="{_BAR_PX}"/>'
            f'<text x="{left + scale * max(then[k], now[k]) + 6:.1f}" y="{y + 12}">{100 * then[k]:.1f} → '
            f"{format_percent(float(now[k]))}</text></g>"
        )
    rest = len(names) - len(order)
    note = f" The other {rest:,} classes moved less." if rest else ""
    height = len(order) * _CLASS_ROW_PX + 4
    return (
        f'<figure class="classes"><svg viewBox="0 0 {left + width + 110} {height}" role="img" '
        f'aria-label="Predicted classes of the window against training">{"".join(rows)}</svg>'
        f'<figcaption><b class="count">Grey</b>: at training. <b class="orange">Orange</b>: this window. Those that '
        f"moved most come first.{note}</figcaption></figure>"
    )
