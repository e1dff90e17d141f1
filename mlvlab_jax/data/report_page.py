"""validation_report.html: one static page without outside resources."""

from collections.abc import Sequence
from html import escape

import numpy as np

from mlvlab_jax.data.findings import Finding, SplitSummary, short_name
from mlvlab_jax.data.inspection import Inspection
from mlvlab_jax.data.records import decode_record
from mlvlab_jax.data.scan import Scan
from mlvlab_jax.data.source import Mixed, Source
from mlvlab_jax.pages import render_document, render_image

#: Bars drawn at most: beyond, neighbours are added up.
_MAX_BARS = 100
_STYLE = """
table { width: 100% }
.finding { background: var(--soft); border-radius: 8px; padding: .9rem 1.1rem; margin: .8rem 0 }
.shown { display: flex; flex-wrap: wrap; gap: .8rem; margin-top: .7rem } .shown figure { width: 128px }
figure img, .none { width: 96px; height: 96px; object-fit: contain; background: var(--paper);
  border: 1px solid var(--line); border-radius: 4px }
.none { display: grid; place-items: center; color: var(--quiet) }
figcaption { overflow-wrap: anywhere; line-height: 1.3; font-size: .78rem; margin-top: .2rem }
.charts { display: flex; flex-wrap: wrap; gap: 1rem 2rem; margin-top: .6rem } .charts figure { width: 330px }
svg rect { fill: var(--blue) } svg text { font-size: 10px }
"""


def render_page(inspection: Inspection, *, title: str) -> str:
    """The page as HTML; everything that comes from the data is escaped."""
    report = inspection.report
    errors, warnings = report.num_errors, len(report.findings) - report.num_errors
    verdict = f'<span class="error">{errors} errors</span>' if errors else '<span class="good">no errors</span>'
    height, width, channels = report.image
    lines = [
        f"<p>{verdict}, {warnings} warnings; {len(inspection.bad)} examples to leave out (quarantine.jsonl)</p>",
        f'<p class="quiet">source {escape(report.source)}; {len(report.class_names)} classes; {report.seconds:.1f} s; '
        f"read as {height} x {width} x {channels}. Identical means the same {escape(report.duplicates_by)}.</p>",
        "<h2>Splits</h2>",
        _render_splits(report.splits),
        "<h2>Findings</h2>",
        *[_render_finding(finding, inspection.scans[finding.split]) for finding in report.findings],
        "" if report.findings else "<p>Nothing wrong was found.</p>",
        "<h2>Distributions</h2>",
        *[_render_charts(split, report.class_names) for split in report.splits],
    ]
    body = "\n".join([f"<h1>Data of {escape(title)}</h1>", *lines])
    return render_document(body, title=f"{title}: data", style=_STYLE)


def _render_splits(splits: Sequence[SplitSummary]) -> str:
    heads = ("split", "examples", "unreadable", "largest and smallest class", "mean", "std")
    rows = [f"<tr>{''.join(f'<th>{head}' for head in heads)}</tr>"]
    for split in splits:
        mean, std = (" ".join(f"{value:.3f}" for value in values) for values in (split.mean, split.std))
        classes = f"{max(split.class_counts):,} and {min(split.class_counts):,}"
        numbers = f"<td>{split.num_examples:,}<td>{split.num_unreadable:,}"
        rows.append(f"<tr><td>{escape(split.name)}{numbers}<td>{classes}<td>{mean}<td>{std}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _render_finding(finding: Finding, scan: Scan) -> str:
    shown = []
    for example in finding.examples:
        picture = _make_thumbnail(scan, example.example_id)
        caption = f"{escape(short_name(example.name))}<br>{escape(example.detail)}"
        shown.append(f'<figure title="{escape(example.name)}">{picture}<figcaption>{caption}</figcaption></figure>')
    return (
        f'<div class="finding"><h3><span class="{finding.severity}">{finding.severity}</span> {escape(finding.kind)}: '
        f"{finding.count:,} in {escape(finding.split)}</h3><p>{escape(finding.message)}</p>"
        f'<div class="shown">{"".join(shown)}</div></div>'
    )


def _make_thumbnail(scan: Scan, index: int) -> str:
    """The image as training sees it, as a data: URI; a box where there is none."""
    if index in scan.bad:
        return '<div class="none">no image</div>'
    stored = scan.stored
    while isinstance(stored, Mixed):
        part, index = stored.locate(index)
        stored = stored.parts[part]
    ids = np.array([index])
    if isinstance(stored, Source):
        pixels = stored.fetch(ids).image[0]
    else:
        pixels = decode_record(stored.read(ids)[0], scan.preprocess)[1]
    return render_image(pixels)


def _render_charts(split: SplitSummary, class_names: Sequence[str]) -> str:
    step = -(-len(split.class_counts) // _MAX_BARS)
    counts = [sum(split.class_counts[k : k + step]) for k in range(0, len(split.class_counts), step)]
    sides = [f"{pixels} px" for pixels, _ in split.sides] or [""]
    ends = (class_names[0], class_names[-1])
    charts = (
        _draw_bars(counts, ends, "class" if step == 1 else f"class, {step} a bar"),
        _draw_bars([number for _, number in split.sides], (sides[0], sides[-1]), "stored size (root of the area)"),
        _draw_bars(split.brightness, ("black", "white"), "brightness"),
    )
    return f'<h3>{escape(split.name)}</h3><div class="charts">{"".join(charts)}</div>'


def _draw_bars(values: Sequence[int], ends: tuple[str, str], title: str) -> str:
    """A histogram as inline SVG: bars of one series, the largest value, and what the two ends mean."""
    highest, pitch = max([1, *values]), 320 / max(1, len(values))
    width = min(pitch * 0.9, 48)
    bars = "".join(
        f'<rect x="{k * pitch + (pitch - width) / 2:.1f}" y="{104 - 88 * value / highest:.1f}" width="{width:.1f}" '
        f'height="{88 * value / highest:.1f}"><title>{value:,}</title></rect>'
        for k, value in enumerate(values)
    )
    left, right = (escape(end if len(end) <= 24 else end[:23] + "…") for end in ends)
    right = "" if len(values) == 1 else f'<text x="320" y="118" text-anchor="end">{right}</text>'
    axis = '<line x1="0" y1="104" x2="320" y2="104"/>'
    labels = f'<text x="0" y="10">{highest:,}</text><text x="0" y="118">{left}</text>{right}'
    caption = f"<figcaption>images by {escape(title)}</figcaption>"
    return f'<figure><svg viewBox="0 0 320 122" role="img">{axis}{bars}{labels}</svg>{caption}</figure>'
