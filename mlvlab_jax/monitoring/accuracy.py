"""Live accuracy: labels that came later, all together, over time, and what was taken for what."""

import itertools
from collections import Counter
from collections.abc import Sequence
from html import escape

from mlvlab_jax.monitoring.findings import format_time
from mlvlab_jax.monitoring.history import History, LabelRecord, LiveRecord
from mlvlab_jax.report.axis import format_percent
from mlvlab_jax.report.tables import Column, Interval, choose_floor, draw_interval, interval_column, render_table

#: Parts that the labels are cut into, in the order they came, and the fewest in one.
_MAX_PARTS, _MIN_PART = 10, 20
_MAX_PAIRS = 8


def render_accuracy(history: History) -> str:
    """A sentence, a table over time, and the most frequent mistakes."""
    if history.live is None or not history.live.num:
        return "<p>No labels were posted yet, so nobody knows.</p>"
    tables = _render_parts(history.labels) + _render_pairs(history)
    return f'<p>{tell_accuracy(history.live)}.</p><div class="slices">{tables}</div>'


def tell_accuracy(live: LiveRecord) -> str:
    """As in: 91.7 % of 120 labelled answers are right (95 % interval 85.3 % to 95.4 %); plain text."""
    limits = f"{format_percent(live.low)} to {format_percent(live.high)}"
    return f"{format_percent(live.accuracy)} of {live.num:,} labelled answers are right (95\u00a0% interval {limits})"


def _render_parts(labels: Sequence[LabelRecord]) -> str:
    number = min(_MAX_PARTS, len(labels) // _MIN_PART)
    if number < 2:
        return ""
    cuts = [len(labels) * k // number for k in range(number + 1)]
    parts = [labels[low:high] for low, high in itertools.pairwise(cuts)]
    intervals = list(map(_estimate, parts))
    floor = choose_floor(intervals)
    rows = [
        (
            format_time(part[0].time),
            format_percent(interval.value),
            draw_interval(interval, floor=floor),
            f"{len(part):,}",
        )
        for part, interval in zip(parts, intervals, strict=True)
    ]
    columns = [Column("labelled from"), Column("right", True), interval_column(floor), Column("labels", True)]
    return render_table(columns, rows)


def _estimate(part: Sequence[LabelRecord]) -> Interval:
    from mlvlab_jax.evaluation.intervals import compute_wilson  # SciPy takes a second, which an error need not wait for

    right = sum(each.label == each.prediction for each in part)
    low, high = compute_wilson(right, len(part))
    return Interval(right / len(part), float(low), float(high))


def _render_pairs(history: History) -> str:
    wrong = Counter((each.label, each.prediction) for each in history.labels if each.label != each.prediction)
    if not wrong:
        return ""
    names = history.reference.class_names
    rows = [(escape(names[true]), escape(names[taken]), f"{n:,}") for (true, taken), n in wrong.most_common(_MAX_PAIRS)]
    return render_table([Column("true"), Column("predicted"), Column("answers", True)], rows)
