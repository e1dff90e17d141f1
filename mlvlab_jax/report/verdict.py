"""One sentence about a run: how good, how sure, how long."""

from collections.abc import Mapping
from html import escape
from typing import Any

from mlvlab_jax.report.axis import format_percent, format_seconds
from mlvlab_jax.report.run import Run


def render_verdict(run: Run) -> str:
    """A paragraph; of a run that has not ended, only that."""
    if run.summary is None or run.best_step is None:
        state = "Interrupted; it can go on." if run.summary else "Not ended yet."
        return f'<p class="verdict">{state} <span class="quiet">Curves up to the last record.</span></p>'
    evaluation = run.evaluation
    told = _tell_summary(run.summary["best"]) if evaluation is None else _tell_evaluation(evaluation.content)
    spent = f", trained in {format_seconds(run.goodput.total_s)}" if run.goodput.total_s else ""
    return f'<p class="verdict">{told}{spent}</p>'


def _tell_evaluation(content: Mapping[str, Any]) -> str:
    accuracy, calibration = content["metrics"]["accuracy"], content["calibration"]
    after = calibration["after"]
    interval = f"{format_percent(accuracy['low'])} to {format_percent(accuracy['high'])}"
    ece = format_percent((after or calibration["before"])["ece"], digits=2)
    return (
        f"{escape(content['split'].capitalize())} accuracy <b>{format_percent(accuracy['value'], digits=2)}</b> "
        f'<span class="quiet">(95\u00a0% interval {interval}, {content["num_examples"]:,} images)</span>, '
        f"{'calibrated' if after else 'uncalibrated'} ECE <b>{ece}</b>"
    )


def _tell_summary(best: Mapping[str, Any]) -> str:
    """What training itself measured, where there is no evaluation."""
    for split in ("test", "validation"):
        if f"{split}/accuracy" in best:
            accuracy = format_percent(best[f"{split}/accuracy"], digits=2)
            return f"{split.capitalize()} accuracy <b>{accuracy}</b>"
    return "Finished"
