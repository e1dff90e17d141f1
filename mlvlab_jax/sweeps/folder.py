"""The folder of a sweep: one writer, and a configuration and a space that do not change under it.

base.yaml and space.yaml say what is searched, journal.log is Optuna's memory, trials/ holds a run folder for each trial
and logs/ what it printed; sweep.json and best.yaml are the result so far.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import yaml

from mlvlab_jax.config.load import config_from_tree, diff_identity, diff_trees, read_section, to_yaml
from mlvlab_jax.config.schema import Config
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.files import exclusive_writer, write_atomic
from mlvlab_jax.sweeps.space import SweepSpace, space_tree


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is searched, and where: `base` is the configuration that all trials share."""

    folder: Path
    base: Config
    space: SweepSpace


@contextlib.contextmanager
def open_sweep_folder(sweep: Sweep) -> Iterator[None]:
    """Holds the folder for this process, with base.yaml and space.yaml in it.

    Raises:
        ConfigError: It holds something other than a sweep, or another sweep; the message has the difference.
        RunFolderError: Another live process holds it.
    """
    check_sweep_folder(sweep)
    with exclusive_writer(sweep.folder):
        write_atomic(sweep.folder / "base.yaml", to_yaml(sweep.base).encode())
        text = yaml.safe_dump(space_tree(sweep.space), sort_keys=False, default_flow_style=None, width=100)
        write_atomic(sweep.folder / "space.yaml", text.encode())
        yield


def check_sweep_folder(sweep: Sweep) -> None:
    """Refuses a folder in which the sweep could not be started or gone on with.

    Raises:
        ConfigError: As in `open_sweep_folder`.
    """
    folder = sweep.folder
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file; expected a folder; give another --workdir")
    if not (folder / "space.yaml").exists():
        ours = {"run.lock", "base.yaml"}
        foreign = sorted(e.name for e in folder.iterdir() if e.name not in ours) if folder.exists() else []
        if foreign:
            raise ConfigError(
                f"{folder}: holds {foreign[:3]} but no sweep; expected an empty folder, a new one, or a sweep's; "
                "give another --workdir"
            )
        return
    changes = diff_identity(config_from_tree(yaml.safe_load((folder / "base.yaml").read_text())), sweep.base)
    changes += diff_trees(_identity(read_section(SweepSpace, folder / "space.yaml")[0]), _identity(sweep.space))
    if changes:
        listed = "\n".join(f"  {line}" for line in changes)
        raise ConfigError(
            f"{folder}: holds a sweep of another configuration or space (there -> here):\n{listed}\n"
            "go on with the old one, or give another --workdir"
        )


def _identity(space: SweepSpace) -> dict[str, object]:
    """The number of trials may change: it decides how long a sweep is, not what a trial is."""
    return {name: value for name, value in space_tree(space).items() if name != "trials"}
