"""The loop of a sweep: keeps as many trials running as wanted until all have ended or it is asked to stop."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mlvlab_jax.errors import MlvlabError
from mlvlab_jax.sweeps.folder import Sweep, open_sweep_folder
from mlvlab_jax.sweeps.job import Job
from mlvlab_jax.sweeps.results import SweepResult, read_result, write_result
from mlvlab_jax.sweeps.study import next_trial, open_study, unfinished_trials

if TYPE_CHECKING:
    from optuna import Study

TRAINER = (sys.executable, "-m", "mlvlab_jax.train")
_POLL_S = 0.2
#: How jax is told the share of a GPU's memory to take, now and formerly; it refuses both at once.
_MEMORY_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
#: Failures in a row at the start that show that something is wrong with all trials.
_GIVE_UP_AFTER = 3


def run_sweep(
    sweep: Sweep,
    *,
    num_trials: int,
    num_jobs: int = 1,
    trainer: Sequence[str] = TRAINER,
    stop_requested: Callable[[], bool] = lambda: False,
    note: Callable[[str], None] = lambda text: None,
) -> SweepResult:
    """Runs, or goes on with, the sweep in its folder until `num_trials` trials have ended.

    Args:
        sweep: What to search and where.
        num_trials: Trials in all, those of earlier sessions included.
        num_jobs: Trials at a time; on a GPU each gets its share of the memory. With one, equal seeds and equal
            results of training give equal trials, however often the sweep was stopped in between.
        trainer: Command that runs one trial, with the arguments of `mlvlab train`.
        stop_requested: Asked a few times a second; true lets the running trials save, and ends the sweep.
        note: Is told of each beginning and end of a trial.

    Raises:
        ConfigError: As `open_sweep_folder` and `Job.poll`.
        MlvlabError: The first trials all failed, or no trial was completed.
    """
    with open_sweep_folder(sweep):
        study = open_study(sweep.folder, sweep.space)
        loop = _Loop(sweep, study, num_trials=num_trials, num_jobs=num_jobs, trainer=trainer, note=note)
        try:
            loop.run(stop_requested)
        finally:
            loop.stop()
        result = read_result(sweep, study, ended="interrupted" if loop.interrupted else "finished")
        write_result(sweep, result)
    failed = [trial for trial in result.trials if trial.state == "failed"]
    if failed and result.best is None and not loop.interrupted:
        last = failed[-1]
        raise MlvlabError(
            f"{sweep.folder}: no trial was completed and {len(failed)} failed; trial {last.number}: {last.error}"
        )
    return result


class _Loop:
    """The running trials, and how many have ended."""

    def __init__(
        self,
        sweep: Sweep,
        study: "Study",
        *,
        num_trials: int,
        num_jobs: int,
        trainer: Sequence[str],
        note: Callable[[str], None],
    ) -> None:
        self.interrupted = False
        self._sweep = sweep
        self._study = study
        self._num_trials = num_trials
        self._num_jobs = num_jobs
        self._trainer = trainer
        self._note = note
        self._jobs: list[Job] = []
        self._waiting = unfinished_trials(study, sweep.space)
        self._num_failed_first = 0
        self._environment = _share_memory(num_jobs)

    def run(self, stop_requested: Callable[[], bool]) -> None:
        """Until nothing runs and nothing is left to start."""
        while True:
            if stop_requested() and not self.interrupted:
                self._interrupt()
            while not self.interrupted and len(self._jobs) < self._num_jobs and self._start_one():
                pass
            if not self._jobs:
                return
            time.sleep(_POLL_S)
            for job in [job for job in self._jobs if job.poll()]:
                self._jobs.remove(job)
                self._end_one(job)

    def stop(self) -> None:
        """Leaves no process behind."""
        for job in self._jobs:
            job.stop()
        for job in self._jobs:
            job.wait()

    def _interrupt(self) -> None:
        self.interrupted = True
        for job in self._jobs:
            job.stop()

    def _start_one(self) -> bool:
        """Starts a trial that was stopped, or a new one; says whether there was one to start."""
        if self._waiting:
            trial = self._waiting.pop(0)
        elif self._num_failed_first < _GIVE_UP_AFTER and self._num_begun() < self._num_trials:
            trial = next_trial(self._study, self._sweep.space)
        else:
            return False
        sweep = self._sweep
        job = Job(trial, folder=sweep.folder, space=sweep.space, trainer=self._trainer, environment=self._environment)
        self._jobs.append(job)
        self._note(read_result(sweep, self._study, ended="running").trials[job.number].describe())
        return True

    def _num_begun(self) -> int:
        return len(self._study.get_trials(deepcopy=False))

    def _end_one(self, job: Job) -> None:
        result = read_result(self._sweep, self._study, ended="running")
        write_result(self._sweep, result)
        trial = result.trials[job.number]
        failed_first = trial.state == "failed" and result.best is None
        self._num_failed_first = self._num_failed_first + 1 if failed_first else 0
        if job.interrupted and not self.interrupted:
            self._interrupt()
        self._note(f"trial {trial.number}: stopped, to be gone on with" if job.interrupted else trial.describe())


def _share_memory(num_jobs: int) -> dict[str, str]:
    """Variables that give each of several processes its part of a GPU, unless the user has said how much."""
    if num_jobs == 1 or os.environ.keys() & set(_MEMORY_VARIABLES):
        return {}
    return {_MEMORY_VARIABLES[0]: f"{0.9 / num_jobs:.2f}"}
