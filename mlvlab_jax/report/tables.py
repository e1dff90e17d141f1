"""Tables: the first column heads its rows, numbers stand to the right, intervals are drawn."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from mlvlab_jax.report.axis import format_percent

_MARK_PX, _MARK_EDGE_PX = 120, 4


class Column(NamedTuple):
    """Heading of a column, in plain text, and whether its cells are numbers."""

    heading: str
    numeric: bool = False


def render_table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, caption: str = "") -> str:
    """A table that scrolls by itself where it does not fit.

    Args:
        columns: One a cell of a row.
        rows: Cells as HTML, what came from data escaped in them already.
        caption: Plain text.
    """
    kinds = [' class="n"' if column.numeric else "" for column in columns]
    heads = "".join(
        f'<th scope="col"{kind}>{escape(column.heading)}' for column, kind in zip(columns, kinds, strict=True)
    )
    body = "".join(
        f'<tr><th scope="row">{first}'
        + "".join(f"<td{kind}>{cell}" for kind, cell in zip(kinds[1:], rest, strict=True))
        for first, *rest in rows
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="wide"><table>{title}<thead><tr>{heads}<tbody>{body}</table></div>'


class Interval(NamedTuple):
    """A share and its 95 % confidence interval."""

    value: float
    low: float
    high: float


def choose_floor(intervals: Iterable[Interval]) -> float:
    """The multiple of 10 % below all of them, where their axis begins."""
    return int(min((interval.low for interval in intervals), default=0.0) * 10) / 10


def interval_column(floor: float) -> Column:
    """Of intervals drawn from `floor` to 1."""
    return Column(f"95 % interval, {format_percent(floor, digits=0)} to 100 %")


def draw_interval(interval: Interval, *, floor: float) -> str:
    """A dot at the value on a line from low to high, on an axis from `floor` to 1."""
    width = _MARK_PX - 2 * _MARK_EDGE_PX
    x, left, right = (_MARK_EDGE_PX + width * (share - floor) / (1 - floor) for share in interval)
    told = f"{format_percent(interval.low)} to {format_percent(interval.high)}"
    return (
        f'<svg class="interval" viewBox="0 0 {_MARK_PX} 14" role="img" aria-label="{told}"><title>{told}</title>'
        f'<line x1="{_MARK_EDGE_PX}" x2="{_MARK_PX - _MARK_EDGE_PX}" y1="7" y2="7"/>'
        f'<line class="blue" x1="{left:.1f}" x2="{right:.1f}" y1="7" y2="7"/>'
        f'<circle class="blue" cx="{x:.1f}" cy="7" r="3.5"/></svg>'
    )
