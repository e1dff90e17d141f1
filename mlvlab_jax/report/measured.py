"""What was measured on a split: metrics, classes, slices, and the worst mistakes."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mlvlab_jax.pages import render_thumbnail
from mlvlab_jax.report.axis import format_percent
from mlvlab_jax.report.run import Evaluation
from mlvlab_jax.report.tables import Column, Interval, choose_floor, draw_interval, interval_column, render_table

#: Classes shown before the rest is folded away.
_MAX_OPEN = 30


def render_metrics(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Name, value and 95 % interval of each metric."""
    rows = [
        (escape(name), f"{each['value']:.4f}", f"{each['low']:.4f} to {each['high']:.4f}", escape(each["method"]))
        for name, each in metrics.items()
    ]
    return render_table(
        [Column("metric"), Column("value", True), Column("95 % interval", True), Column("method")], rows
    )


def render_classes(classes: Sequence[Mapping[str, Any]]) -> str:
    """One row a class, the one with the lowest recall first; classes without examples last."""
    order = sorted(classes, key=lambda each: (each["support"] == 0, each["recall"], each["name"]))
    intervals = [Interval(each["recall"], each["recall_low"], each["recall_high"]) for each in order]
    floor = choose_floor(interval for interval, each in zip(intervals, order, strict=True) if each["support"])
    columns = [
        *(Column("class"), Column("recall", True), interval_column(floor), Column("precision", True)),
        *(Column("F1", True), Column("images", True), Column("predicted", True)),
    ]
    rows = [
        (
            escape(each["name"]),
            *((format_percent(each["recall"]), draw_interval(interval, floor=floor)) if each["support"] else ("", "")),
            format_percent(each["precision"]) if each["predicted"] else "",
            format_percent(each["f1"]) if each["support"] else "",
            f"{each['support']:,}",
            f"{each['predicted']:,}",
        )
        for each, interval in zip(order, intervals, strict=True)
    ]
    shown = render_table(columns, rows[:_MAX_OPEN])
    if len(rows) <= _MAX_OPEN:
        return shown
    summary = f"<summary>the other {len(rows) - _MAX_OPEN:,} classes</summary>"
    return f"{shown}<details>{summary}{render_table(columns, rows[_MAX_OPEN:])}</details>"


def render_slices(slices: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Accuracy by the values of each column, in the order given."""
    return f'<div class="slices">{"".join(_render_slice(column, parts) for column, parts in slices.items())}</div>'


def _render_slice(column: str, parts: Sequence[Mapping[str, Any]]) -> str:
    intervals = [Interval(part["accuracy"], part["low"], part["high"]) for part in parts]
    floor = choose_floor(intervals)
    rows = [
        (
            escape(str(part["value"])),
            format_percent(interval.value),
            draw_interval(interval, floor=floor),
            f"{part['count']:,}",
        )
        for part, interval in zip(parts, intervals, strict=True)
    ]
    columns = [Column(column), Column("accuracy", True), interval_column(floor), Column("images", True)]
    return render_table(columns, rows)


def render_mistakes(evaluation: Evaluation) -> str:
    """The most confident mistakes, with their images where the evaluation kept them."""
    mistakes = evaluation.content["mistakes"]
    return f'<div class="mistakes">{"".join(_render_mistake(each, evaluation) for each in mistakes)}</div>'


def _render_mistake(mistake: Mapping[str, Any], evaluation: Evaluation) -> str:
    names, name = evaluation.content["class_names"], escape(str(mistake["id"]))
    label, prediction = escape(names[mistake["label"]]), escape(names[mistake["prediction"]])
    picture, png = '<div class="none">no image kept</div>', evaluation.thumbnails.get(mistake["index"])
    if png is not None:
        picture = render_thumbnail(png, alt=f"an image of class {names[mistake['label']]}")
    return (
        f'<figure title="{name}">{picture}<figcaption><b>{label}</b> taken for <b class="orange">{prediction}</b><br>'
        f'{format_percent(mistake["confidence"])} sure<br><span class="id">{name}</span></figcaption></figure>'
    )
