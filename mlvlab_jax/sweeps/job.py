"""One trial as a process: started, followed by the metrics it writes, stopped, and its end recorded."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlvlab_jax.errors import PREEMPTED_EXIT_CODE, ConfigError, RunFolderError
from mlvlab_jax.plugins import did_you_mean
from mlvlab_jax.sweeps.space import SweepSpace, encode
from mlvlab_jax.sweeps.study import params_of

if TYPE_CHECKING:
    from optuna import Trial

_TAIL_LINES = 3


class Job:
    """A trial that is running.

    Args:
        trial: Optuna's side of it, with all its values.
        folder: The sweep's.
        space: The sweep's.
        trainer: Command that takes --config, overrides and --workdir as `mlvlab train` does.
        environment: Variables the process gets beside those of this one.
    """

    def __init__(
        self, trial: "Trial", *, folder: Path, space: SweepSpace, trainer: Sequence[str], environment: dict[str, str]
    ) -> None:
        self.number = trial.number
        self.interrupted = False
        self._trial = trial
        self._space = space
        self._asked_to_stop = False
        self._pruned = False
        self._curve_stamp: tuple[int, int] | None = None
        frozen = trial.study.get_trials(deepcopy=False)[trial.number]
        self._num_reported = len(frozen.intermediate_values)
        self._earlier_s = frozen.user_attrs.get("seconds", 0.0)
        self._workdir = trial_folder(folder, self.number)
        self._log = folder / "logs" / f"{self.number:04d}.log"
        self._log.parent.mkdir(exist_ok=True)
        params = params_of(frozen.params, space)
        overrides = [f"{path}={encode(params[path])}" for path in params]
        command = [*trainer, "--config", str(folder / "base.yaml"), "--workdir", str(self._workdir), *overrides]
        self._start = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | environment, start_new_session=True
            )

    def poll(self) -> bool:
        """Reports what is new; says whether the process has ended and its end is recorded.

        Raises:
            ConfigError: The run measures something else than what the sweep compares.
            RunFolderError: The trial's run folder is being written by a process that an earlier sweep left behind.
        """
        code = self._process.poll()
        self._report()
        if code is not None and not self._pruned:
            self._record_end(code)
        return code is not None

    def stop(self) -> None:
        """Asks the process to save and stop; the trial stays one to be gone on with."""
        if not self._asked_to_stop:
            self._process.terminate()
        self._asked_to_stop = True

    def wait(self) -> None:
        """Returns when the process is gone."""
        self._process.wait()

    def _report(self) -> None:
        """Hands new evaluations to the pruner one by one, so that its verdict is the curve's, not the clock's."""
        from optuna.trial import TrialState

        for step, value in self._read_curve()[self._num_reported :]:
            if self._pruned:
                return
            self._num_reported += 1
            self._trial.report(value, self._num_reported)
            if self._trial.should_prune():
                self._tell(TrialState.PRUNED, step=step)
                self._pruned = True
                self._process.terminate()

    def _read_curve(self) -> list[tuple[int, float]]:
        path = self._workdir / "metrics.jsonl"
        try:
            stat = path.stat()
        except FileNotFoundError:
            return []
        if (stat.st_mtime_ns, stat.st_size) == self._curve_stamp:
            return []
        self._curve_stamp = (stat.st_mtime_ns, stat.st_size)
        return read_curve(path, metric=self._space.metric)

    def _record_end(self, code: int) -> None:
        from optuna.trial import TrialState

        if code == RunFolderError.exit_code:
            raise RunFolderError(f"trial {self.number}: {self._tail(1)}")
        if code == 0:
            self._record_result()
        elif self._asked_to_stop or code == PREEMPTED_EXIT_CODE:
            self.interrupted = True
            self._trial.set_user_attr("seconds", self._seconds())
        else:
            self._tell(TrialState.FAIL, exit_code=code, error=f"{describe_exit(code)}: {self._tail(_TAIL_LINES)}")

    def _record_result(self) -> None:
        from optuna.trial import TrialState

        best = json.loads((self._workdir / "summary.json").read_text())["best"]
        value = best.get(self._space.metric)
        if value is None or value != value:
            self._tell(TrialState.FAIL, exit_code=0, error=f"{self._space.metric} is {value} at its best checkpoint")
        else:
            self._tell(TrialState.COMPLETE, value=value, step=best["step"])

    def _tell(self, state: Any, *, value: float | None = None, **attributes: Any) -> None:
        for name, attribute in {"seconds": self._seconds(), **attributes}.items():
            self._trial.set_user_attr(name, attribute)
        self._trial.study.tell(self._trial, value, state=state)

    def _seconds(self) -> float:
        return round(self._earlier_s + time.monotonic() - self._start, 3)

    def _tail(self, num_lines: int) -> str:
        """The last words of the process."""
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-num_lines:]) or f"no message in {self._log}"


def trial_folder(folder: Path, number: int) -> Path:
    """Run folder of a trial."""
    return folder / "trials" / f"{number:04d}"


def describe_exit(code: int) -> str:
    """An exit status in words, negative ones being signals."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"ended by {name}" + (", as when memory runs out" if -code == signal.SIGKILL else "")


def read_curve(path: Path, *, metric: str) -> list[tuple[int, float]]:
    """(step, value) of each evaluation so far, in order; a line still being written is left for later.

    Raises:
        ConfigError: The evaluations do not measure `metric`.
    """
    curve = []
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        record = json.loads(line)
        if metric in record:
            curve.append((record["step"], float(record[metric])))
        elif measured := [name for name in record if name.startswith("validation/")]:
            raise ConfigError(
                f"metric: {metric!r} is not measured{did_you_mean(metric, measured)} (there are: {', '.join(measured)})"
            )
    return curve
