"""report.html: one page that says what a run was, how good it is and how to get it again."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np

from mlvlab_jax.pages import render_document, write_page
from mlvlab_jax.report.commands import render_commands
from mlvlab_jax.report.confusion import draw_confusion
from mlvlab_jax.report.curves import PANELS, draw_curves
from mlvlab_jax.report.facts import render_facts, render_versions
from mlvlab_jax.report.measured import render_classes, render_metrics, render_mistakes, render_slices
from mlvlab_jax.report.reliability import draw_reliabilities
from mlvlab_jax.report.run import Evaluation, Run, read_run
from mlvlab_jax.report.style import STYLE
from mlvlab_jax.report.verdict import render_verdict


def write_report(workdir: Path, *, out: Path | None = None) -> Path:
    """Writes the page of the run in `workdir`, finished or not, and gives its path.

    Args:
        workdir: Run folder.
        out: Where to; report.html in the run folder if None.

    Raises:
        ConfigError: There is no run.
        DataError: A file of the run is not what this version writes.
    """
    path = out or workdir / "report.html"
    write_page(path, render_report(read_run(workdir)))
    return path


def render_report(run: Run) -> str:
    """The page as HTML; everything that comes from the run is escaped."""
    sections = list(_list_sections(run))
    links = " ".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in sections)
    body = "\n".join(
        [
            f"<header><h1>{escape(run.name)}</h1>{render_verdict(run)}<nav>{links}</nav></header><main>",
            *[f'<section id="{name}"><h2>{heading}</h2>{text}</section>' for name, heading, text in sections],
            "</main>",
        ]
    )
    return render_document(body, title=run.name, style=STYLE)


def _list_sections(run: Run) -> Iterator[tuple[str, str, str]]:
    """(id, heading, HTML) in the order of the page."""
    yield "facts", "Key facts", render_facts(run)
    charts = "".join(draw_curves(panel, run.curves, best_step=run.best_step) for panel in PANELS)
    yield "curves", "Curves", f'<div class="curves">{charts}</div>' if charts else "<p>No curves were recorded.</p>"
    if run.evaluation is not None:
        yield from _list_measured(run.evaluation)
    config = f"<summary>resolved, as it was run</summary><pre><code>{escape(run.config_text)}</code></pre>"
    yield "configuration", "Configuration", f"<details>{config}</details>"
    yield "versions", "Versions", render_versions(run)
    yield "reproduce", "To reproduce", render_commands(run)


def _list_measured(evaluation: Evaluation) -> Iterator[tuple[str, str, str]]:
    content = evaluation.content
    split = escape(content["split"].capitalize())
    of = f"{content['num_examples']:,} images, state of step {content['step']:,}, before temperature scaling"
    yield "metrics", f"{split} metrics", f'<p class="quiet">{of}</p>{render_metrics(content["metrics"])}'
    yield (
        "confusion",
        "Confusion matrix",
        draw_confusion(np.array(content["confusion"]), class_names=content["class_names"]),
    )
    yield "classes", "Classes, the hardest first", render_classes(content["per_class"])
    yield "calibration", "Reliability", draw_reliabilities(content["calibration"])
    if content["slices"]:
        yield "slices", "Slices", render_slices(content["slices"])
    if content["mistakes"]:
        yield "mistakes", "Worst mistakes", render_mistakes(evaluation)
