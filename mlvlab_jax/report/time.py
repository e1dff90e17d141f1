"""Where the time of a run went: a bar, its legend, and the verdict in words."""

from html import escape

from mlvlab_jax.report.axis import format_percent, format_seconds
from mlvlab_jax.report.run import Run

#: Phase -> what it is called and its ink, in the order of the bar: training is what the time is for; waiting for input
#: and work that had to be done again are lost.
_PHASES = {
    "train": ("training", "blue"),
    "input": ("waiting for input", "orange"),
    "lost": ("lost work", "red"),
    "evaluate": ("evaluation", "grey-1"),
    "analyse": ("analysis", "grey-1"),
    "checkpoint": ("checkpoints", "grey-2"),
    "compile": ("compilation", "grey-3"),
    "setup": ("setup", "grey-4"),
    "import": ("imports", "grey-4"),
}


def render_time(run: Run) -> str:
    """One bar of the time of all attempts, the share of lasting training in it, and the verdict where the run ended."""
    total, seconds = run.goodput.total_s, run.goodput.seconds
    if not total:
        return ""
    bars, legend, x = [], [], 0.0
    for phase in sorted(seconds, key=lambda phase: list(_PHASES).index(phase) if phase in _PHASES else len(_PHASES)):
        if not seconds[phase]:
            continue
        name, ink = _PHASES.get(phase, (phase, "grey-4"))
        share = seconds[phase] / total
        told = f"{escape(name)} {format_seconds(seconds[phase])} ({format_percent(share, digits=0)})"
        place = f'x="{100 * x:.2f}%" width="{100 * share:.2f}%" height="100%"'
        bars.append(f'<rect class="{ink}" {place}><title>{told}</title></rect>')
        legend.append(f'<li><i class="{ink}"></i>{told}')
        x += share
    return (
        f'<figure class="time"><figcaption>{_tell_total(run)}</figcaption>'
        f'<svg role="img" aria-label="Where the time went">{"".join(bars)}</svg><ul>{"".join(legend)}</ul>'
        f"{_tell_verdict(run)}</figure>"
    )


def _tell_total(run: Run) -> str:
    goodput = run.goodput
    told = f"{format_seconds(goodput.total_s)} in all, goodput {format_percent(goodput.share, digits=0)}"
    if goodput.num_attempts > 1:
        told += f"; {goodput.num_attempts} attempts, {format_seconds(goodput.down_s)} between them"
    if goodput.lost_steps:
        told += f"; {goodput.lost_steps:,} steps made again"
    return told


def _tell_verdict(run: Run) -> str:
    verdict = run.summary.get("verdict") if run.summary else None
    return f"<p>{escape(verdict)}</p>" if verdict else ""
