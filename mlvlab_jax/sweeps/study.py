"""Optuna's part of a sweep: which values come next, when a trial is given up, and the journal that remembers both.

References:
    T. Akiba, S. Sano, T. Yanase, T. Ohta, M. Koyama, "Optuna: A Next-generation Hyperparameter Optimization Framework",
    2019. J. Bergstra, R. Bardenet, Y. Bengio, B. Kegl, "Algorithms for Hyper-Parameter Optimization", 2011 (tpe).
    L. Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020 (halving).
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlvlab_jax.errors import ConfigError
from mlvlab_jax.sweeps.space import Dimension, SamplerConfig, SweepSpace, encode

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

JOURNAL = "journal.log"


def check_optuna() -> None:
    """Makes sure that Optuna is there.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError("sweeps need Optuna, which is not installed: pip install 'mlvlab_jax[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_study(folder: Path, space: SweepSpace) -> "Study":
    """The study in `folder`, which this process holds; it is begun where there is none."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = folder / JOURNAL
    _mend(path)
    return optuna.create_study(
        study_name="sweep",
        storage=JournalStorage(JournalFileBackend(str(path))),
        direction="maximize" if space.mode == "max" else "minimize",
        pruner=_make_pruner(space),
        load_if_exists=True,
    )


def _mend(path: Path) -> None:
    """Takes away what a writer that was killed in the middle of a record leaves: a part of a line, and its lock."""
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with path.open("r+b") as file:
                file.truncate(whole)


def next_trial(study: "Study", space: SweepSpace) -> "Trial":
    """A new trial with all its values. A sampler of its own, so that a sweep gone on with draws what it would have."""
    study.sampler = _make_sampler(space, number=len(study.get_trials(deepcopy=False)))
    return _suggest(study.ask(), space)


def unfinished_trials(study: "Study", space: SweepSpace) -> list["Trial"]:
    """The trials that were running when the sweep stopped, to be gone on with."""
    from optuna.trial import Trial, TrialState

    found = []
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.sampler = _make_sampler(space, number=frozen.number)
        found.append(_suggest(Trial(study, frozen._trial_id), space))
    return found


def params_of(params: dict[str, Any], space: SweepSpace) -> dict[str, Any]:
    """The values of a trial as the configuration takes them; the journal holds choices as JSON text."""
    return {path: json.loads(params[path]) if space.space[path].values else params[path] for path in sorted(params)}


def _suggest(trial: "Trial", space: SweepSpace) -> "Trial":
    """Draws every value that the trial has not drawn yet."""
    for path in sorted(space.space):
        _suggest_one(trial, path, space.space[path])
    return trial


def _suggest_one(trial: "Trial", path: str, dimension: Dimension) -> None:
    if dimension.values is not None:
        trial.suggest_categorical(path, [encode(value) for value in dimension.values])
    elif isinstance(dimension.low, int) and isinstance(dimension.high, int):
        step = dimension.step if isinstance(dimension.step, int) else 1
        trial.suggest_int(path, dimension.low, dimension.high, log=dimension.log, step=step)
    elif dimension.low is not None and dimension.high is not None:
        trial.suggest_float(path, dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def _make_sampler(space: SweepSpace, *, number: int) -> "BaseSampler":
    from optuna.samplers import GridSampler, RandomSampler, TPESampler

    class Grid(GridSampler):
        """The sweep itself knows how many points there are."""

        def after_trial(self, *args: Any, **kwargs: Any) -> None:
            """Optuna's own stops `Study.optimize`, which is not running."""

    rules: SamplerConfig = space.sampler
    if rules.name == "grid":
        points = {
            path: [encode(value) for value in values] if space.space[path].values else values
            for path, values in space.grid().items()
        }
        return Grid(points, seed=rules.seed)
    seed = int(np.random.SeedSequence([rules.seed, number]).generate_state(1)[0])
    if rules.name == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=rules.startup_trials)


def _make_pruner(space: SweepSpace) -> "BasePruner":
    from optuna.pruners import MedianPruner, NopPruner, SuccessiveHalvingPruner

    rules = space.pruner
    if rules.name == "median":
        return MedianPruner(n_startup_trials=rules.warmup_trials, n_warmup_steps=rules.warmup_evaluations)
    if rules.name == "halving":
        return SuccessiveHalvingPruner(min_resource=rules.warmup_evaluations, reduction_factor=3)
    return NopPruner()
