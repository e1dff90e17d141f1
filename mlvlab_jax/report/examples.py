"""The examples of one training step, the most suspicious first: as data, and as a page with their images."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from mlvlab_jax.data.findings import short_name
from mlvlab_jax.data.open import Data
from mlvlab_jax.data.page import describe_label
from mlvlab_jax.engine.per_example import PerExample
from mlvlab_jax.pages import render_document, render_image, write_page
from mlvlab_jax.report.axis import format_number, format_percent
from mlvlab_jax.types import HostBatch

#: Examples on the page; the data have all of them.
_MAX_SHOWN = 96
_STYLE = """
body { max-width: 80rem } header { border-bottom: 1px solid var(--line); padding-bottom: 1rem }
header p { max-width: 60rem } .lead { font-size: 1.1rem; margin: .5rem 0 .8rem }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(16.5rem, 1fr)); gap: 1rem;
  margin-top: 1.5rem }
figure { padding: .8rem .9rem; border: 1px solid var(--line); border-radius: 8px; min-width: 0 }
.images { display: flex; gap: 12px; font-size: .78rem; color: var(--quiet) }
.images span { display: flex; flex-direction: column-reverse; gap: 2px }
img { width: 96px; height: 96px; object-fit: contain; background: var(--soft); border: 1px solid var(--line);
  border-radius: 4px }
h2 { display: flex; gap: .6em; justify-content: space-between; font-size: 1rem; margin: 0 0 .5rem; overflow: hidden }
h2 span { color: var(--quiet) }
h2 b { overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
dl { display: grid; grid-template-columns: auto 4.2rem 1fr; gap: .1rem .7rem; margin: .6rem 0 .3rem;
  align-items: center; font-variant-numeric: tabular-nums }
dt { color: var(--quiet); font-size: .85rem } dd { margin: 0; text-align: right }
.bar { height: 8px; border-radius: 4px; background: var(--soft); overflow: hidden }
.bar i { display: block; height: 100%; background: var(--blue) } .bar i.orange { background: var(--orange) }
figcaption { overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
@media (max-width: 600px) { body { padding: 0 1rem } }
@media print { figure { break-inside: avoid } }
"""


def describe_examples(
    data: Data, batch: HostBatch, measured: PerExample, target: np.ndarray, *, order: np.ndarray
) -> list[dict[str, Any]]:
    """A tree for each example of a batch: id, name, label, target (weight of each class), loss and grad_norm.

    Args:
        data: Of the run.
        batch: As read.
        measured: Of its examples.
        target: float32 (b k), as of `Seen`.
        order: Positions in the batch, int64 (b), as they are to come.
    """
    return [
        {
            "id": int(batch["example_id"][at]),
            "name": data.train.source.name(int(batch["example_id"][at])),
            "label": describe_label(batch["label"][at], data.class_names),
            "target": {data.class_names[k]: round(float(target[at, k]), 6) for k in target[at].nonzero()[0].tolist()},
            "loss": float(measured.loss[at]),
            "grad_norm": float(measured.grad_norm[at]),
        }
        for at in order.tolist()
    ]


def write_page_of_examples(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    seen: np.ndarray,
    stored: np.ndarray,
    title: str,
    scalars: Mapping[str, float],
) -> None:
    """Writes one self-contained HTML file.

    Args:
        path: Of the file.
        rows: Of `describe_examples`, b of them.
        seen: uint8 (b h w c), in the order of the rows: what the network was given.
        stored: uint8 (b h w c): the same as read.
        title: Heading, in plain text.
        scalars: Of the step, by `SCALARS`.
    """
    largest = {name: _pick(rows, name, of=max) for name in ("grad_norm", "loss")}
    figures = "\n".join(
        _render_example(row, rank, images=images, largest=largest)
        for rank, (row, *images) in enumerate(zip(rows[:_MAX_SHOWN], seen, stored, strict=False), start=1)
    )
    lead = (
        f"Loss <b>{format_number(scalars['loss_sum'] / scalars['num_examples'])}</b>, gradient norm "
        f"<b>{format_number(scalars['grad_norm'])}</b>, learning rate {format_number(scalars['learning_rate'])}"
    )
    body = (
        f'<header><h1>{escape(title)}</h1><p class="lead">{lead}</p>{_render_hint(rows)}</header>'
        f'<main class="examples">\n{figures}\n</main>'
    )
    write_page(path, render_document(body, title=title, style=_STYLE))


def _render_hint(rows: Sequence[Mapping[str, Any]]) -> str:
    count, shown = len(rows), min(len(rows), _MAX_SHOWN)
    which = f"All {count:,} examples" if shown == count else f"The first {shown:,} of {count:,} examples"
    bad = sum(not math.isfinite(row["loss"]) for row in rows)
    found = f'<p class="error">Examples whose loss is not finite: {bad:,}; they come first.</p>' if bad else ""
    middle = format_number(_pick(rows, "grad_norm", of=lambda values: float(np.median(values))))
    return (
        f"{found}<p>{which} of the step's batch at the state before its update, by the norm of each one's gradient, "
        f"then by its loss. The median norm is {middle}: an example far above it, or one whose images do not look like "
        'its label, is worth a look.</p><p class="quiet">Left, what the network was given: augmented, erased, mixed. '
        "Right, what is stored. All numbers are in examples.json.</p>"
    )


def _render_example(
    row: Mapping[str, Any], rank: int, *, images: Sequence[np.ndarray], largest: Mapping[str, float]
) -> str:
    label, name = escape(row["label"]), escape(row["name"])
    pictures = "".join(
        f"<span>{word}{render_image(pixels, alt=word)}</span>"
        for word, pixels in zip(("as given", "as stored"), images, strict=True)
    )
    numbers = "".join(
        f"<dt>{word}<dd>{format_number(row[name])}<dd>{_draw_bar(row[name], largest[name], colour)}"
        for word, name, colour in (("gradient", "grad_norm", "blue"), ("loss", "loss", "orange"))
    )
    return (
        f'<figure><h2><b title="{label}">{label}</b><span>#{rank}</span></h2><div class="images">{pictures}</div>'
        f"<dl>{numbers}</dl>{_render_target(row)}"
        f'<figcaption title="{name}">{row["id"]} · {escape(short_name(row["name"]))}</figcaption></figure>'
    )


def _render_target(row: Mapping[str, Any]) -> str:
    """What the loss asked for, where that is not the label alone."""
    target = sorted(row["target"].items(), key=lambda pair: -pair[1])
    if all(weight == 1 for _, weight in target):
        return ""
    told = " + ".join(f"{format_percent(weight, digits=0)} {escape(name)}" for name, weight in target)
    return f'<p class="quiet">target {told}</p>'


def _draw_bar(value: float, largest: float, colour: str) -> str:
    share = value / largest if math.isfinite(value) and largest > 0 else 1.0
    return f'<div class="bar"><i class="{colour}" style="width: {100 * share:.1f}%"></i></div>'


def _pick(rows: Sequence[Mapping[str, Any]], name: str, *, of: Any) -> float:
    """Of the finite values of a column."""
    finite = [row[name] for row in rows if math.isfinite(row[name])]
    return float(of(finite)) if finite else math.nan
