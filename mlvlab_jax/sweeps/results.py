"""What a sweep has found so far: sweep.json, best.yaml and the table."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from mlvlab_jax.config.load import compute_hash, to_yaml
from mlvlab_jax.files import write_atomic, write_json
from mlvlab_jax.sweeps.folder import Sweep
from mlvlab_jax.sweeps.job import trial_folder
from mlvlab_jax.sweeps.space import configure, encode
from mlvlab_jax.sweeps.study import params_of

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial
    from rich.table import Table

_STATES: dict[str, Literal["complete", "pruned", "failed", "unfinished"]] = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "unfinished",
}


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """One trial.

    number: its place in the sweep, from 0. value: the metric at the run's best checkpoint, or at the last evaluation
    of a trial that was given up. step: where that was. evaluations: the metric at each evaluation in turn. error: why
    it failed, and its last words.
    """

    number: int
    state: Literal["complete", "pruned", "failed", "unfinished"]
    value: float | None
    step: int | None
    params: dict[str, Any]
    seconds: float
    evaluations: list[float]
    exit_code: int | None
    error: str | None
    workdir: str

    def describe(self) -> str:
        """One line."""
        chosen = "  ".join(f"{path}={_show(value)}" for path, value in self.params.items())
        if self.state == "unfinished":
            return f"trial {self.number}: {chosen}"
        measured = f" {self.value:.4f} at step {self.step}" if self.value is not None else ""
        error = f": {self.error}" if self.error else ""
        return f"trial {self.number}: {self.state}{measured} in {self.seconds:.1f} s{error}"


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """All trials by number, and the best of those that were completed."""

    metric: str
    mode: Literal["min", "max"]
    ended: Literal["running", "interrupted", "finished"]
    trials: list[TrialResult]
    best: TrialResult | None

    def ranked(self) -> list[TrialResult]:
        """Completed trials best first, then those given up, then the others."""
        sign = -1 if self.mode == "max" else 1
        states = list(_STATES.values())
        return sorted(self.trials, key=lambda t: (states.index(t.state), sign * (t.value or 0.0), t.number))


def read_result(sweep: Sweep, study: "Study", *, ended: Literal["running", "interrupted", "finished"]) -> SweepResult:
    """The state of the study."""
    trials = [_read_trial(sweep, frozen) for frozen in study.get_trials(deepcopy=False)]
    result = SweepResult(sweep.space.metric, sweep.space.mode, ended, trials, None)
    completed = [trial for trial in result.ranked() if trial.state == "complete"]
    return dataclasses.replace(result, best=completed[0] if completed else None)


def _read_trial(sweep: Sweep, frozen: "FrozenTrial") -> TrialResult:
    return TrialResult(
        number=frozen.number,
        state=_STATES[frozen.state.name],
        value=frozen.value,
        step=frozen.user_attrs.get("step"),
        params=params_of(frozen.params, sweep.space),
        seconds=frozen.user_attrs.get("seconds", 0.0),
        evaluations=[frozen.intermediate_values[index] for index in sorted(frozen.intermediate_values)],
        exit_code=frozen.user_attrs.get("exit_code"),
        error=frozen.user_attrs.get("error"),
        workdir=trial_folder(sweep.folder, frozen.number).relative_to(sweep.folder).as_posix(),
    )


def write_result(sweep: Sweep, result: SweepResult) -> None:
    """Writes sweep.json and, once a trial was completed, best.yaml: the complete configuration of the best one."""
    best = configure(sweep.base, result.best.params) if result.best else None
    tree = {"schema": 1, **dataclasses.asdict(result)}
    if best is not None and result.best is not None:
        tree["best"]["config_hash"] = compute_hash(best)
        comment = f"# Trial {result.best.number}: {result.metric} {result.best.value!r} at step {result.best.step}.\n"
        write_atomic(sweep.folder / "best.yaml", (comment + to_yaml(best)).encode())
    write_json(sweep.folder / "sweep.json", tree)


def make_table(result: SweepResult) -> "Table":
    """The trials, best first."""
    from rich import box
    from rich.markup import escape
    from rich.table import Column, Table

    paths = sorted({path for trial in result.trials for path in trial.params})
    names = ["trial", "state", result.metric.removeprefix("validation/"), "step", *_short_names(paths), "seconds"]
    # Words below one another: most settings have long names and short values.
    columns = [Column(name.replace("_", "\n"), justify="right", overflow="fold") for name in names]
    for column in (*columns[:4], columns[-1]):
        column.no_wrap = True
    table = Table(*columns, box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    colours = {"complete": "green", "pruned": "yellow", "failed": "red", "unfinished": "blue"}
    for trial in result.ranked():
        table.add_row(
            str(trial.number),
            f"[{colours[trial.state]}]{trial.state}[/]",
            "" if trial.value is None else f"{trial.value:.4f}",
            "" if trial.step is None else str(trial.step),
            *[escape(_show(trial.params[path])) if path in trial.params else "" for path in paths],
            f"{trial.seconds:.1f}",
        )
    return table


def _short_names(paths: Sequence[str]) -> list[str]:
    """The last part of each path, or all of it where that would name two."""
    last = [path.rpartition(".")[2] for path in paths]
    return [name if last.count(name) == 1 else path for name, path in zip(last, paths, strict=True)]


def _show(value: Any) -> str:
    """A value for the eye: three digits of a fraction, words without quotes."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else encode(value)
