"""What a run has left in its folder for those who make a step of it again; the folder is only read."""

import contextlib
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mlvlab_jax.config.load import flatten
from mlvlab_jax.config.schema import Config
from mlvlab_jax.engine.beginning import begin
from mlvlab_jax.engine.checkpoint import CheckpointStore
from mlvlab_jax.engine.experiment import Experiment
from mlvlab_jax.engine.folder import describe_session
from mlvlab_jax.engine.goodput import read_ledger
from mlvlab_jax.engine.integrity import find_damage
from mlvlab_jax.engine.progress import Progress
from mlvlab_jax.engine.recovery import list_steps
from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.errors import CheckpointError, ConfigError, DataError

Records = Mapping[int, Mapping[str, float]]
#: How the entries of a session begin that may change bits, the configuration being the same.
_DECISIVE = ("versions.", "machine", "devices", "num_processes", "flags.XLA_")


class Origin(NamedTuple):
    """Where a replay begins: state and progress after `progress.step` steps."""

    state: TrainState
    progress: Progress


def read_windows(workdir: Path) -> dict[int, dict[str, float]]:
    """The records of metrics.jsonl that close a window of training, by step; what is no record is left out."""
    path, records = workdir / "metrics.jsonl", {}
    for line in path.read_text("utf-8", "replace").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            record = json.loads(line)
            if "train/loss" in record:
                records[int(record["step"])] = record
    return records


def check_step(workdir: Path, records: Records, *, step: int) -> None:
    """Refuses a step that the run has not taken yet.

    Args:
        workdir: Run folder.
        records: Of `read_windows`.
        step: Its number, from 1.

    Raises:
        ConfigError: Says how far the run went.
    """
    begun = [attempt.step for attempt in read_ledger(workdir / "goodput.jsonl")]
    last = max([0, *begun, *records, *list_steps(workdir / "checkpoints")])
    if step > last:
        raise ConfigError(f"--step {step}: the run in {workdir} went to step {last}; expected one up to that")


def compare_session(workdir: Path, config: Config, experiment: Experiment) -> list[str]:
    """What is different here from the newest session of the run and may change bits, a line each.

    Args:
        workdir: Run folder.
        config: Of the run.
        experiment: The same made real.

    Raises:
        DataError: The data are not those of the run.
    """
    manifest = json.loads((workdir / "manifest.json").read_text())
    data = dict(experiment.data.identity)
    if manifest["data"] != data:
        raise DataError(
            f"{workdir}: the run was made of other data: {manifest['data']} there, {data} now; bring the old data back"
        )
    there, here = _decisive(manifest["sessions"][-1]), _decisive(describe_session(config))
    names = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    return [f"{name}: {there.get(name)} in the run, {here.get(name)} here" for name in names]


def find_way(workdir: Path, config: Config, *, step: int, records: Records) -> tuple[Records, frozenset[int]]:
    """How a run that may have gone back came over a step: the records on the way, and the steps it had left out.

    The device knew nothing of these. Where the step, or the record that covers it, is itself one of those left out, it
    was made before the run went back.

    Args:
        workdir: Run folder; the run may be going on.
        config: Of the run.
        step: The one to make again.
        records: Of `read_windows`.
    """
    folder, mode = workdir / "checkpoints", config.training.early_stopping.mode
    if config.training.non_finite.policy != "rollback":
        return records, frozenset()
    newest = next((saved for saved in reversed(list_steps(folder)) if not find_damage(folder / str(saved))), None)
    if newest is None:
        return records, frozenset()
    with CheckpointStore(folder, config.checkpoint, mode=mode, read_only=True) as store:
        skipped = frozenset(Progress.from_tree(store.read_progress(newest)).skipped)
    if step in skipped:
        until = next(number for number in itertools.count(step) if number + 1 not in skipped)
        records = {number: record for number, record in records.items() if number <= until}
    closing = min((number for number in records if number >= step), default=step)
    made = step if step in skipped else closing
    if made in skipped:
        since = next(number for number in itertools.count(made, -1) if number - 1 not in skipped)
        skipped = frozenset(number for number in skipped if number < since)
    return records, skipped


def _decisive(session: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flatten(dict(session)).items() if name.startswith(_DECISIVE)}


def find_origin(
    workdir: Path, config: Config, experiment: Experiment, *, step: int, note: Callable[[str], None]
) -> Origin:
    """The newest intact checkpoint before `step`; the initial state where there is none.

    Args:
        workdir: Run folder; the run may be going on.
        config: Of the run.
        experiment: The same made real.
        step: The one to make again.
        note: Told of each checkpoint that is of no use.
    """
    folder, mode = workdir / "checkpoints", config.training.early_stopping.mode
    if not list_steps(folder):
        return Origin(begin(config, experiment, workdir=workdir).state, Progress())
    with CheckpointStore(folder, config.checkpoint, mode=mode, read_only=True) as store:
        for saved in reversed([saved for saved in store.steps() if saved < step]):
            try:
                state, tree = store.restore(saved, experiment.state, experiment.layout)
            # A run that goes on takes old ones away while they are being read.
            except (CheckpointError, FileNotFoundError) as error:
                note(f"passed over: {error}")
                continue
            return Origin(state, Progress.from_tree(tree))
    return Origin(begin(config, experiment, workdir=workdir).state, Progress())
