"""drift.html: one page that says whether a served model still sees what it was trained on, and what to do if not."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from mlvlab_jax.monitoring.accuracy import render_accuracy, tell_accuracy
from mlvlab_jax.monitoring.advice import render_advice
from mlvlab_jax.monitoring.comparison import draw_classes, draw_features
from mlvlab_jax.monitoring.findings import (
    Findings,
    compute_excess,
    find_changes,
    format_time,
    rank_features,
    tell_state,
)
from mlvlab_jax.monitoring.history import History, ResultRecord, WindowRecord, read_history
from mlvlab_jax.monitoring.pictures import render_pictures
from mlvlab_jax.monitoring.style import STYLE
from mlvlab_jax.monitoring.timeline import MAX_WINDOWS, draw_timeline
from mlvlab_jax.pages import render_document, write_page
from mlvlab_jax.report.axis import format_number
from mlvlab_jax.report.tables import Column, render_table

_MAX_CHANGES = 3
_MAX_OPEN = 16
_INKS = {"waiting": "quiet", "same": "good", "different": "warning", "alarm": "error"}


def write_drift_page(folder: Path, *, out: Path | None = None, number: int | None = None) -> Path:
    """Writes the page of a monitoring folder, and gives its path.

    Args:
        folder: What `monitoring.folder` names.
        out: Where to; drift.html in the folder if None.
        number: Window to look at; if None the last one, or, while an alarm stands, the last one that differed.

    Raises:
        ConfigError: Nothing was watched there, or there is no such window.
        DataError: A file of the folder is damaged.
    """
    path = out or folder / "drift.html"
    history = read_history(folder)
    write_page(path, render_drift(history, find_changes(history, number=number)))
    return path


def render_drift(history: History, findings: Findings) -> str:
    """The page as HTML; everything that comes from the folder is escaped."""
    sections = list(_list_sections(history, findings))
    links = " ".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in sections)
    title = f"{history.reference.model}: drift"
    heading = f"<h1>{escape(history.reference.model)} <small>version {escape(history.reference.version)}</small></h1>"
    body = "\n".join(
        [
            f"<header>{heading}{_render_verdict(history, findings)}<nav>{links}</nav></header><main>",
            *[f'<section id="{name}"><h2>{heading}</h2>{text}</section>' for name, heading, text in sections],
            "</main>",
        ]
    )
    return render_document(body, title=title, style=STYLE)


def _render_verdict(history: History, findings: Findings) -> str:
    """Whether all is well in one sentence, then what changed."""
    told = f'<b class="{_INKS[findings.state]}">{escape(tell_state(findings, history))}</b>'
    if findings.changes and findings.shown is not None:
        listed = [escape(change) for change in findings.changes[:_MAX_CHANGES]]
        more = len(findings.changes) - len(listed)
        if more:
            listed.append(f"{more} more")
        told += f'<br><span class="quiet">Window {findings.shown.window}:</span> {", ".join(listed)}.'
    torn = "".join(
        f'<p class="warning">{name} ends in a half-written line, which is left out.</p>' for name in history.torn
    )
    live = f"<p>{tell_accuracy(history.live)}.</p>" if history.live and history.live.num else ""
    return f'<p class="verdict">{told}</p>{live}{torn}'


def _list_sections(history: History, findings: Findings) -> Iterator[tuple[str, str, str]]:
    """(id, heading, HTML) in the order of the page."""
    shown = findings.shown
    if history.windows:
        timeline = draw_timeline(history.windows, shown=shown.window if shown else None)
        yield "windows", "Windows", _tell_windows(history) + timeline
    yield "next", "What to do next", render_advice(findings, history)
    if shown is not None:
        yield from _list_shown(shown, history)
    yield "accuracy", "Live accuracy", render_accuracy(history)
    if shown is not None:
        yield "images", "Images least like training", render_pictures(shown, history)
    yield "facts", "Key facts", _render_facts(history)


def _list_shown(window: WindowRecord, history: History) -> Iterator[tuple[str, str, str]]:
    yield "features", f"Window {window.window} against training", _tell_span(window) + draw_features(window, history)
    yield "tests", "Test by test", render_tests(window)
    yield "classes", "Predicted classes", draw_classes(window, history)


def _tell_windows(history: History) -> str:
    windows = history.windows
    shown = f", the last {MAX_WINDOWS} drawn" if len(windows) > MAX_WINDOWS else ""
    different, alarm = sum(window.rejected for window in windows), sum(window.alarm for window in windows)
    return f'<p class="quiet">Windows: {len(windows):,}{shown}; {different:,} differ, {alarm:,} in alarm.</p>'


def _tell_span(window: WindowRecord) -> str:
    span = f"{format_time(window.start)} to {format_time(window.end)}"
    return f'<p class="quiet">{window.num:,} requests, {span}.</p>'


def render_tests(window: WindowRecord) -> str:
    """One row a test and feature: the features that differ first."""
    order = {feature: rank for rank, feature in enumerate(rank_features(window))}
    results = sorted(window.tests, key=lambda result: (not result.rejected, order[result.feature], result.test))
    columns = [
        *(Column("feature"), Column("test"), Column("verdict")),
        *(Column("p", True), Column("effect", True), Column("floor", True)),
    ]
    rows = [_list_cells(result) for result in results]
    number_open = max(_MAX_OPEN, sum(result.rejected for result in results))
    shown = f'<p class="quiet">{_EXPLAINED}</p>{render_table(columns, rows[:number_open])}'
    if len(rows) <= number_open:
        return shown
    summary = f"<summary>the other {len(rows) - number_open:,} tests</summary>"
    return f"{shown}<details>{summary}{render_table(columns, rows[number_open:])}</details>"


_EXPLAINED = (
    "p: how often chance alone makes a difference so large in any of the tests. Effect: how large it is; below its "
    "floor no difference is called one, however small p is."
)


def _list_cells(result: ResultRecord) -> tuple[str, ...]:
    times = f" ({compute_excess(result):.2g} x floor)" if result.rejected and result.floor > 0 else ""
    verdict = f'<span class="warning">differs</span>{times}' if result.rejected else "like training"
    return (
        *(escape(result.feature), escape(result.test.replace("_", " ")), verdict),
        *(_tell_p(result.p_value), f"{result.effect:.3g}", format_number(result.floor)),
    )


def _tell_p(p_value: float) -> str:
    """No test is sure beyond all doubt: 0 is what rounding left."""
    return "&lt; 1e-99" if p_value < 1e-99 else f"{p_value:.2g}"


def _render_facts(history: History) -> str:
    reference, windows = history.reference, history.windows
    facts = {
        "Model": f"{escape(reference.model)} {escape(reference.version)}",
        "Package": f'<code title="{escape(reference.package_sha256)}">{escape(reference.package_sha256[:12])}</code>',
        "Reference": f"{reference.num:,} held-out examples of training",
        "Classes": f"{len(reference.class_names):,}",
        "Last window": format_time(windows[-1].end) if windows else "none yet",
        "Watched since": format_time(windows[0].start) if windows else "no window yet",
    }
    listed = "".join(f"<div><dt>{term}<dd>{text}</div>" for term, text in facts.items())
    return f'<dl class="facts">{listed}</dl>'
