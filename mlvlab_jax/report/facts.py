"""What was run, on what, for how long, and how to run it again."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mlvlab_jax.report.axis import format_percent, format_seconds
from mlvlab_jax.report.run import Run

_HASH_CHARS = 12
#: Phase -> what it is called and its ink: training is what the time is for, waiting for input is lost.
_PHASES = {
    "train": ("training", "blue"),
    "input": ("waiting for input", "orange"),
    "evaluate": ("evaluation", "grey-1"),
    "analyse": ("analysis", "grey-1"),
    "checkpoint": ("checkpoints", "grey-2"),
    "compile": ("compilation", "grey-3"),
    "setup": ("setup", "grey-4"),
}
#: Program as the operating system names it -> what to type.
_PROGRAMS = {"mlvlab": "mlvlab", "train.py": "python -m mlvlab_jax.train", "cli.py": "python -m mlvlab_jax.cli"}


def render_verdict(run: Run) -> str:
    """One sentence: how good, how sure, how long."""
    seconds = sum(run.seconds.values())
    spent = f", trained in {format_seconds(seconds)}" if seconds else ""
    if run.summary is None or run.best_step is None:
        state = "Interrupted; it can go on." if run.summary else "Not ended yet."
        return f'<p class="verdict">{state} <span class="quiet">Curves up to the last record.</span></p>'
    evaluation = run.evaluation
    if evaluation is not None and "accuracy" in evaluation.content["metrics"]:
        content = evaluation.content
        accuracy, calibration = content["metrics"]["accuracy"], content["calibration"]
        after = calibration["after"]
        ece = (after or calibration["before"])["ece"]
        return (
            f'<p class="verdict">{escape(content["split"].capitalize())} accuracy '
            f"<b>{format_percent(accuracy['value'], digits=2)}</b> <span class='quiet'>(95\u00a0% interval "
            f"{format_percent(accuracy['low'])} to {format_percent(accuracy['high'])}, "
            f"{content['num_examples']:,} images)</span>, {'calibrated' if after else 'uncalibrated'} ECE "
            f"<b>{format_percent(ece, digits=2)}</b>{spent}</p>"
        )
    best = run.summary["best"]
    split = next((s for s in ("test", "validation") if f"{s}/accuracy" in best), None)
    told = (
        f"{split.capitalize()} accuracy <b>{format_percent(best[f'{split}/accuracy'], digits=2)}</b>"
        if split
        else "Done"
    )
    return f'<p class="verdict">{told}{spent}</p>'


def render_facts(run: Run) -> str:
    """Data, model, configuration, code, devices and time as a list of terms, and where the time went as a bar."""
    manifest, session = run.manifest, run.manifest["sessions"][-1]
    summary = run.summary or {}
    steps = f"{summary['steps']:,} steps, {summary['ended']}" if summary else "not ended"
    best = f"; best at step {run.best_step:,}" if run.best_step is not None else ""
    bad = summary.get("num_bad_examples", 0)
    params = f", {summary['num_params']:,} parameters" if summary else ""
    sessions = len(manifest["sessions"])
    resumed = f"; {sessions} sessions" if sessions > 1 else ""
    facts = {
        "Data": _render_data(manifest)
        + (f"<br><span class='warning'>{bad:,} unreadable examples</span>" if bad else ""),
        "Model": f"{escape(str(run.config['model']['name']))}{params}",
        "Training": f"{escape(steps)}{best}",
        "Configuration": _render_hash(manifest["config_hash"]),
        "Code": _render_code(session),
        "Devices": escape(_describe_devices(session)),
        "Seed": escape(str(manifest["seed"])),
        "Started": f"{_render_time_of_day(manifest['sessions'][0]['started'])}{resumed}",
    }
    listed = "".join(f"<div><dt>{term}<dd>{text}</div>" for term, text in facts.items())
    return f'<dl class="facts">{listed}</dl>{_render_time(run.seconds)}'


def _render_data(manifest: Mapping[str, Any]) -> str:
    identity = dict(manifest["data"])
    lines = [escape(str(identity.pop("origin", "")))]
    for version in manifest["data_version"]:
        dirty = ' <span class="warning">changed since</span>' if version["dirty"] else ""
        revision = f" at {_render_hash(version['revision'])}" if version["revision"] else ""
        lines.append(f"{escape(str(version['path']))} {_render_hash(version['md5'])}{revision}{dirty}")
    lines += [f"{escape(split)} {_render_hash(digest)}" for split, digest in identity.items()]
    return "<br>".join(line for line in lines if line)


def _render_code(session: Mapping[str, Any]) -> str:
    version = escape(f"mlvlab_jax {session['versions']['mlvlab_jax']}")
    if session["git"] is None:
        return f'{version}, <span class="warning">outside of a git repository</span>'
    dirty = ' <span class="warning">with uncommitted changes</span>' if session["git"]["dirty"] else ""
    return f"{version}, commit {_render_hash(session['git']['commit'])}{dirty}"


def _render_hash(digest: str) -> str:
    return f'<code title="{escape(digest)}">{escape(digest[:_HASH_CHARS])}</code>'


def _render_time_of_day(started: str) -> str:
    return escape(started.replace("T", " ").replace("+00:00", " UTC"))


def _describe_devices(session: Mapping[str, Any]) -> str:
    """["cpu:0 cpu", "cpu:1 cpu"] as "2 x cpu"."""
    kinds = Counter(device.split(" ", 1)[-1] for device in session["devices"])
    devices = ", ".join(f"{number} x {kind}" for kind, number in kinds.items())
    processes = session["num_processes"]
    return f"{devices}, {processes} processes" if processes > 1 else f"{devices}, {session['machine']}"


def _render_time(seconds: Mapping[str, float]) -> str:
    """One bar of the whole duration; the share of training in it is the goodput."""
    total = sum(seconds.values())
    if not total:
        return ""
    order = sorted(seconds, key=lambda phase: list(_PHASES).index(phase) if phase in _PHASES else len(_PHASES))
    bars, legend, x = [], [], 0.0
    for phase in order:
        name, ink = _PHASES.get(phase, (phase, "grey-4"))
        share = seconds[phase] / total
        told = f"{escape(name)} {format_seconds(seconds[phase])} ({format_percent(share, digits=0)})"
        place = f'x="{100 * x:.2f}%" width="{100 * share:.2f}%" height="100%"'
        bars.append(f'<rect class="{ink}" {place}><title>{told}</title></rect>')
        legend.append(f'<li><i class="{ink}"></i>{told}')
        x += share
    goodput = format_percent(seconds.get("train", 0.0) / total, digits=0)
    return (
        f'<figure class="time"><figcaption>{format_seconds(total)} in all, goodput {goodput}</figcaption>'
        f'<svg role="img" aria-label="Where the time went">{"".join(bars)}</svg><ul>{"".join(legend)}</ul></figure>'
    )


def render_versions(run: Run) -> str:
    """Versions of the last session as a list of terms."""
    session = run.manifest["sessions"][-1]
    versions = {"python": session["python"], **session["versions"]}
    listed = "".join(
        f"<div><dt>{escape(name)}<dd>{escape(str(version))}</div>" for name, version in versions.items() if version
    )
    return f'<dl class="versions">{listed}</dl>'


def render_commands(run: Run) -> str:
    """What to type to get this run again."""
    first = run.manifest["sessions"][0]
    lines, notes = [], []
    if first["git"] is None:
        notes.append("The run was started outside of a git repository: no commit leads back to its code.")
    else:
        lines.append(f"git checkout {first['git']['commit']}")
        if first["git"]["dirty"]:
            notes.append("The working tree had uncommitted changes: the commit alone does not lead back to its code.")
    pins = [f"{name}=={version}" for name, version in first["versions"].items() if version and name != "mlvlab_jax"]
    lines.append(f"python -m pip install --editable . {' '.join(pins)}  # Python {first['python']}")
    lines += [f"dvc pull {shlex.quote(version['path'])}" for version in run.manifest["data_version"]]
    lines.append(_command(first["command"]) or "mlvlab train --config config.yaml  # the configuration below")
    warnings = "".join(f'<p class="warning">{note}</p>' for note in notes)
    commands = escape("\n".join(lines))
    promise = "In a new run folder; the same numbers on the same machine, on a GPU up to the order of its sums."
    return f'<pre><code>{commands}</code></pre>{warnings}<p class="quiet">{promise}</p>'


def _command(recorded: Sequence[str]) -> str | None:
    """The training command without the folder it wrote, which holds this run; None if a program of one's own ran it."""
    program, *arguments = recorded
    if program not in _PROGRAMS:
        return None
    kept, skip = [], False
    for argument in arguments:
        if not skip and argument != "--workdir" and not argument.startswith("--workdir="):
            kept.append(argument)
        skip = argument == "--workdir"
    return f"{_PROGRAMS[program]} {shlex.join(kept)}"
