"""What was run, on what, and for how long."""

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mlvlab_jax.report.run import Run
from mlvlab_jax.report.time import render_time

_HASH_CHARS = 12


def render_facts(run: Run) -> str:
    """Data, model, configuration, code, devices and time as a list of terms, and where the time went as a bar."""
    manifest, session = run.manifest, run.manifest["sessions"][-1]
    params = f", {run.summary['num_params']:,} parameters" if run.summary else ""
    facts = {
        "Data": _render_data(manifest),
        "Model": f"{escape(str(run.config['model']['name']))}{params}{_render_beginning(manifest)}",
        "Training": _render_training(run),
        "Configuration": _render_hash(manifest["config_hash"]),
        "Code": _render_code(session),
        "Devices": escape(_describe_devices(session)),
        "Seed": escape(str(manifest["seed"])),
        "Started": _render_start(manifest["sessions"]),
    }
    listed = "".join(f"<div><dt>{term}<dd>{text}</div>" for term, text in facts.items())
    return f'<dl class="facts">{listed}</dl>{render_time(run)}'


def _render_beginning(manifest: Mapping[str, Any]) -> str:
    """The weights that training began with, where they were not of chance."""
    weights = manifest.get("weights")
    if weights is None:
        return ""
    if "path" not in weights:  # a mean of runs that began with none
        return ""
    changed = "".join(f"<br>{escape(str(line))}" for line in weights["changed"])
    return f"<br>began with {escape(str(weights['path']))} {_render_hash(weights['sha256'])}{changed}"


def _render_training(run: Run) -> str:
    if run.summary is None:
        return "not ended"
    best = f"; best at step {run.best_step:,}" if run.best_step is not None else ""
    bad = run.summary["num_bad_examples"]
    unreadable = f'<br><span class="warning">{bad:,} unreadable examples</span>' if bad else ""
    return f"{run.summary['steps']:,} steps, {escape(run.summary['ended'])}{best}{unreadable}"


def _render_start(sessions: Sequence[Mapping[str, Any]]) -> str:
    started = escape(sessions[0]["started"].replace("T", " ").replace("+00:00", " UTC"))
    return f"{started}; {len(sessions)} sessions" if len(sessions) > 1 else started


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


def _describe_devices(session: Mapping[str, Any]) -> str:
    """["cpu:0 cpu", "cpu:1 cpu"] as "2 x cpu"."""
    kinds = Counter(device.split(" ", 1)[-1] for device in session["devices"])
    devices = ", ".join(f"{number} x {kind}" for kind, number in kinds.items())
    processes = session["num_processes"]
    return f"{devices}, {processes} processes" if processes > 1 else f"{devices}, {session['machine']}"


def render_versions(run: Run) -> str:
    """Versions of the last session as a list of terms."""
    session = run.manifest["sessions"][-1]
    versions = {"python": session["python"], **session["versions"]}
    listed = "".join(
        f"<div><dt>{escape(name)}<dd>{escape(str(version))}</div>" for name, version in versions.items() if version
    )
    return f'<dl class="versions">{listed}</dl>'
