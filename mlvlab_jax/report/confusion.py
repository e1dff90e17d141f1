"""Which classes are taken for which: a heat map of few classes, the largest mix-ups of many."""

from collections.abc import Sequence
from html import escape

import numpy as np

from mlvlab_jax.report.axis import format_percent
from mlvlab_jax.report.tables import Column, render_table

#: More classes than this do not fit on a page as a heat map.
_MAX_CLASSES, _MAX_PAIRS, _MAX_NAME = 30, 20, 16
#: The darkest cell, on which a number in the page's ink stays readable in both modes, and the palest.
_MAX_OPACITY, _MIN_OPACITY = 0.55, 0.06
_CHAR_PX, _GAP_PX = 6.2, 2
_LEGEND = (
    'Rows: true class. Columns: prediction. <b class="blue">Blue</b> is right, <b class="orange">orange</b> is wrong; '
    "the darkest orange is"
)


def draw_confusion(counts: np.ndarray, *, class_names: Sequence[str]) -> str:
    """The confusion matrix as a <figure>, or, above 30 classes, its largest mistakes as a table.

    Args:
        counts: int (k, k), row true, column predicted.
        class_names: k names.
    """
    if len(class_names) > _MAX_CLASSES:
        return _list_pairs(counts, class_names)
    return _draw_map(counts, class_names)


def _draw_map(counts: np.ndarray, class_names: Sequence[str]) -> str:
    """Each ink is darkest at its own largest share of a row, so that mistakes are seen beside what is right."""
    number = len(class_names)
    cell = 44 if number <= 10 else 34 if number <= 16 else 28
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    worst = float((shares * (1 - np.eye(number))).max())
    longest = min(_MAX_NAME, max(map(len, class_names))) * _CHAR_PX
    turned = longest > cell - 6
    left, top, size = round(30 + longest), round(30 + (longest if turned else 10)), number * cell
    cells = []
    for row, column in np.argwhere(counts > 0).tolist():
        share, right = float(shares[row, column]), row == column
        opacity = max(_MIN_OPACITY, _MAX_OPACITY * (share if right else (share / worst) ** 0.5))
        told = f"{class_names[row]} taken for {class_names[column]}: {counts[row, column]:,}, {format_percent(share)}"
        x, y = left + column * cell, top + row * cell
        cells.append(
            f'<g><title>{escape(told)} of its row</title><rect class="{"blue" if right else "orange"}" x="{x}" y="{y}" '
            f'width="{cell - _GAP_PX}" height="{cell - _GAP_PX}" fill-opacity="{opacity:.2f}"/>'
            f'<text class="number" x="{x + cell // 2 - 1}" y="{y + cell // 2 + 3}">{counts[row, column]:,}</text></g>'
        )
    legend = f"{_LEGEND} {format_percent(worst)} of a row." if worst else "Nothing was taken for another class."
    return (
        f'<figure class="confusion"><div class="wide"><svg viewBox="0 0 {left + size} {top + size}" '
        f'style="width:{left + size}px" role="img" aria-label="Confusion matrix of {number} classes">'
        f'<rect class="frame" x="{left - 1}" y="{top - 1}" width="{size}" height="{size}"/>{"".join(cells)}'
        f"{_draw_names(class_names, cell=cell, left=left, top=top, turned=turned)}</svg></div>"
        f"<figcaption>{legend}</figcaption></figure>"
    )


def _draw_names(class_names: Sequence[str], *, cell: int, left: int, top: int, turned: bool) -> str:
    half = len(class_names) * cell // 2
    parts = [
        f'<text x="{left + half}" y="11" text-anchor="middle">predicted</text>',
        f'<text transform="translate(11 {top + half}) rotate(-90)" text-anchor="middle">true</text>',
    ]
    turn, aside = (' rotate(-90)"', 4) if turned else ('" text-anchor="middle"', 0)
    for k, name in enumerate(class_names):
        shown = f"<title>{escape(name)}</title>{escape(shorten(name, _MAX_NAME))}"
        middle = k * cell + cell // 2 - 1
        parts.append(f'<text x="{left - 8}" y="{top + middle + 4}" text-anchor="end">{shown}</text>')
        parts.append(f'<text transform="translate({left + middle + aside} {top - 8}){turn}>{shown}</text>')
    return "".join(parts)


def _list_pairs(counts: np.ndarray, class_names: Sequence[str]) -> str:
    wrong = counts * (1 - np.eye(len(class_names), dtype=counts.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MAX_PAIRS]
    pairs = [divmod(flat, len(class_names)) for flat in order.tolist()]
    rows = [
        (
            escape(class_names[true]),
            escape(class_names[taken]),
            f"{wrong[true, taken]:,}",
            format_percent(wrong[true, taken] / counts[true].sum()),
        )
        for true, taken in pairs
        if wrong[true, taken]
    ]
    columns = [Column("true"), Column("predicted"), Column("images", True), Column("of the true class", True)]
    return render_table(columns, rows, caption=f"The most frequent mistakes among {len(class_names):,} classes")


def shorten(text: str, length: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"
