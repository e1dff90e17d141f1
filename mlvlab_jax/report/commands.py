"""What to type to get a run again."""

import shlex
from collections.abc import Sequence
from html import escape

from mlvlab_jax.report.run import Run

#: Program as the operating system names it -> what to type.
_PROGRAMS = {"mlvlab": "mlvlab", "train.py": "python -m mlvlab_jax.train", "cli.py": "python -m mlvlab_jax.cli"}


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
