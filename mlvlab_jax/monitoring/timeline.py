"""The windows in a row as inline SVG: what each said, and below how far each feature was from training."""

from collections import Counter
from collections.abc import Sequence
from html import escape

from mlvlab_jax.monitoring.findings import compute_excess, format_time
from mlvlab_jax.monitoring.history import WindowRecord
from mlvlab_jax.report.axis import format_number
from mlvlab_jax.report.confusion import shorten

#: Windows drawn at most, the latest; more would be too thin to point at.
MAX_WINDOWS = 100
_STATE_PX, _ROW_PX, _GAP_PX, _TOP, _LABEL_PX = 34, 15, 2, 16, 150
#: Width from which the times of two windows have room.
_TWO_TIMES_PX = 330
#: Excess over the floor at which a cell is darkest, and its opacity there; the palest that is still seen.
_FULL_EXCESS, _MAX_OPACITY, _MIN_OPACITY = 4.0, 0.9, 0.07
#: State -> ink, and height as a share of the strip: told by more than colour.
_STATES = {"same": ("blue", 0.3), "different": ("orange", 0.65), "alarm": ("alarm", 1.0)}


def draw_timeline(windows: Sequence[WindowRecord], *, shown: int | None) -> str:
    """The latest windows as a <figure>.

    Args:
        windows: In order; at least one.
        shown: Number of the window that the rest of the page is about, marked; None for no mark.
    """
    windows = windows[-MAX_WINDOWS:]
    cell = 24 if len(windows) <= 24 else 15 if len(windows) <= 50 else 9
    features = _order_features(windows)
    width, height = len(windows) * cell, _TOP + _STATE_PX + 6 + len(features) * _ROW_PX
    columns = "".join(_draw_window(window, features, x=k * cell, cell=cell) for k, window in enumerate(windows))
    total = width + _LABEL_PX
    frame = (
        f'<svg viewBox="-2 0 {total} {height + 22}" style="width:{total}px" role="img" '
        f'aria-label="{len(windows)} windows, of these {sum(window.alarm for window in windows)} in alarm">'
    )
    names = _draw_names(features, x=width + 8)
    marks = _draw_versions(windows, cell=cell) + _draw_shown(windows, shown, cell, height)
    times = _draw_times(windows, right=width, y=height + 16)
    return (
        f'<figure class="timeline"><div class="wide late">{frame}{columns}{marks}{names}{times}</svg></div>'
        f"<figcaption>{_LEGEND}</figcaption></figure>"
    )


def _order_features(windows: Sequence[WindowRecord]) -> list[str]:
    """Those that differed in most windows first."""
    told = Counter({result.feature: 0 for window in reversed(windows) for result in window.tests})
    told.update(result.feature for window in windows for result in window.tests if result.rejected)
    return [feature for feature, _ in told.most_common()]


_LEGEND = (
    '<b class="blue">Low blue</b>: like training. <b class="orange">Higher orange</b>: different. '
    '<b class="alarm">Full red</b>: alarm. Below, how far each feature is from training, in multiples of the effect '
    'that matters: <b class="orange">orange</b> where a test says so, grey where none does.'
)


def name_state(window: WindowRecord) -> str:
    """Same, different or alarm."""
    return "alarm" if window.alarm else "different" if window.rejected else "same"


def _draw_window(window: WindowRecord, features: Sequence[str], *, x: int, cell: int) -> str:
    state = name_state(window)
    ink, share = _STATES[state]
    tall = _STATE_PX * share
    told = [f"window {window.window}: {state}", f"until {format_time(window.end)}, {window.num:,} requests"]
    bar = (
        f'<rect class="{ink}" x="{x}" y="{_TOP + _STATE_PX - tall:.1f}" width="{cell - _GAP_PX}" height="{tall:.1f}"/>'
    )
    cells = []
    for row, feature in enumerate(features):
        results = [result for result in window.tests if result.feature == feature]
        if not results:
            continue
        rejected = any(result.rejected for result in results)
        excess = max(compute_excess(result) for result in results if result.rejected or not rejected)
        opacity = max(_MIN_OPACITY, _MAX_OPACITY * min(1.0, max(0.0, excess) / _FULL_EXCESS))
        y = _TOP + _STATE_PX + 6 + row * _ROW_PX
        cells.append(
            f'<rect class="{"orange" if rejected else "count"}" x="{x}" y="{y}" width="{cell - _GAP_PX}" '
            f'height="{_ROW_PX - _GAP_PX}" fill-opacity="{opacity:.2f}"/>'
        )
        if rejected:
            told.append(f"{feature}: {format_number(excess)} times the effect that matters")
    reach = f'x="{x}" y="{_TOP}" width="{cell}" height="{_STATE_PX + 6 + len(features) * _ROW_PX}"'
    title = escape("\n".join(told))
    return f'{bar}{"".join(cells)}<rect class="place" {reach}><title>{title}</title></rect>'


def _draw_names(features: Sequence[str], *, x: int) -> str:
    rows = "".join(
        f'<text x="{x}" y="{_TOP + _STATE_PX + 6 + row * _ROW_PX + 10}">{escape(shorten(feature, 20))}</text>'
        for row, feature in enumerate(features)
    )
    return f'<text x="{x}" y="{_TOP + _STATE_PX - 4}">verdict</text>{rows}'


def _draw_versions(windows: Sequence[WindowRecord], *, cell: int) -> str:
    """A stroke where another version took over."""
    parts = []
    for k in range(1, len(windows)):
        before, after = windows[k - 1], windows[k]
        if (before.model, before.version) != (after.model, after.version):
            x = k * cell - _GAP_PX / 2
            anchor = "start" if k < len(windows) / 2 else "end"
            name = escape(shorten(after.version, 20))
            parts.append(f'<line class="mark" x1="{x}" x2="{x}" y1="4" y2="{_TOP + _STATE_PX}"/>')
            parts.append(f'<text x="{x + (3 if anchor == "start" else -3)}" y="9" text-anchor="{anchor}">{name}</text>')
    return "".join(parts)


def _draw_shown(windows: Sequence[WindowRecord], shown: int | None, cell: int, height: int) -> str:
    at = next((k for k, window in enumerate(windows) if window.window == shown), None)
    if at is None:
        return ""
    place = f'x="{at * cell - 1.5}" y="{_TOP - 3}" width="{cell + 1}" height="{height - _TOP + 3}"'
    return f'<rect class="shown" {place}/>'


def _draw_times(windows: Sequence[WindowRecord], *, right: int, y: int) -> str:
    """When the first and the last drawn window ended; of few windows the last alone, which is set out to the right."""
    first, last = (f"{window.window}: {format_time(window.end)}" for window in (windows[0], windows[-1]))
    if right < _TWO_TIMES_PX:
        return f'<text x="0" y="{y}">{last}</text>'
    return f'<text x="0" y="{y}">{first}</text><text x="{right}" y="{y}" text-anchor="end">{last}</text>'
