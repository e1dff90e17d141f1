"""validation_report.html: one static page without outside resources."""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from mlvlab_jax.data.findings import Finding, SplitSummary, short_name
from mlvlab_jax.data.inspection import Inspection
from mlvlab_jax.data.records import decode_record
from mlvlab_jax.data.scan import Scan
from mlvlab_jax.data.source import Mixed, Source

#: Longest side of a thumbnail in pixels, and bars drawn at most: beyond, neighbours are added up.
_THUMB_PX, _MAX_BARS = 96, 100
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --paper: #fff; --soft: #f1f4f8; --line: #d5dce5; --quiet: #5b6878;
  --bar: #3b6fb5; --error: #b3261e; --warning: #8a5a00; --good: #1b7a43 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9f0; --paper: #14181e; --soft: #1e242d; --line: #38424f;
  --quiet: #9aa7b8; --bar: #7aa7e0; --error: #ff8a80; --warning: #f0b95a; --good: #6fd39a } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 72rem;
  margin: 2rem auto; padding: 0 1.5rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem } h3 { font-size: 1rem; margin: 0 }
* + h3 { margin-top: 1.2rem }
p { margin: .3rem 0 } .quiet, figcaption { color: var(--quiet); font-size: .85rem }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .35rem .8rem .35rem 0;
  border-bottom: 1px solid var(--line); vertical-align: top; font-variant-numeric: tabular-nums }
.error { color: var(--error); font-weight: 600 } .warning { color: var(--warning); font-weight: 600 }
.good { color: var(--good); font-weight: 600 }
.finding { background: var(--soft); border-radius: 8px; padding: .9rem 1.1rem; margin: .8rem 0 }
.shown { display: flex; flex-wrap: wrap; gap: .8rem; margin-top: .7rem } figure { margin: 0; width: 128px }
figure img, .none { width: 96px; height: 96px; object-fit: contain; background: var(--paper);
  border: 1px solid var(--line); border-radius: 4px; image-rendering: pixelated }
.none { display: grid; place-items: center; color: var(--quiet) }
figcaption { overflow-wrap: anywhere; line-height: 1.3; font-size: .78rem; margin-top: .2rem }
.charts { display: flex; flex-wrap: wrap; gap: 1rem 2rem; margin-top: .6rem } .charts figure { width: 330px }
svg { width: 100%; height: auto; display: block } svg rect { fill: var(--bar) } svg line { stroke: var(--line) }
svg text { fill: var(--quiet); font: 10px system-ui, sans-serif }
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
    head = f'<meta charset="utf-8"><title>{escape(title)}: data</title><style>{_STYLE}</style>'
    body = "\n".join([f"<h1>Data of {escape(title)}</h1>", *lines])
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


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
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., :3])
    image.thumbnail((_THUMB_PX, _THUMB_PX))
    file = io.BytesIO()
    image.save(file, "PNG")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'


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
