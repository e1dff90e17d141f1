"""How the updates of a run are divided into calls to the device."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mlvlab_jax.config.schema import Config
from mlvlab_jax.data.device import count_bytes
from mlvlab_jax.engine.experiment import Experiment
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.optim.horizon import Horizon


class Dispatch(NamedTuple):
    """The updates after `first` up to `last`."""

    first: int
    last: int


def divide(done: int, *, count: int, num_steps: int, due: Callable[[int], bool]) -> Iterator[Dispatch]:
    """Dispatches of `count` updates wherever nothing is due within one, else of one update.

    Args:
        done: Updates already made.
        count: Updates in a full dispatch.
        num_steps: Updates in the whole run.
        due: Whether the host has something to do after that update.
    """
    while done < num_steps:
        full = done + count <= num_steps and not any(due(step) for step in range(done + 1, done + count))
        last = done + count if full else done + 1
        yield Dispatch(done, last)
        done = last


def make_due(config: Config, horizon: Horizon) -> Callable[[int], bool]:
    """Whether after an update the host logs, evaluates or saves."""
    log_every, save_every = config.tracking.log_every_steps, config.checkpoint.every_steps

    def due(step: int) -> bool:
        saves = save_every is not None and step % save_every == 0
        return step % log_every == 0 or saves or horizon.eval_due(step)

    return due


def check_dispatch(config: Config, experiment: Experiment) -> None:
    """Refuses several updates a dispatch where nothing would come of it.

    Raises:
        ConfigError: The training split cannot be held on the devices, or something is due more often.
    """
    count, split = config.training.steps_per_dispatch, experiment.data.train
    if count == 1:
        return
    path = "training.steps_per_dispatch"
    num_mib, limit = count_bytes(split) / 2**20, config.pipeline.max_memory_mib
    if not split.source.resident or num_mib > limit:
        raise ConfigError(
            f"{count} updates a dispatch need the training split on each device; its images take {num_mib:,.1f} MiB, "
            f"and pipeline.max_memory_mib allows {limit:,}; raise that, or set steps_per_dispatch: 1",
            path=path,
        )
    _check_intervals(config, experiment.horizon, path=path)


def _check_intervals(config: Config, horizon: Horizon, *, path: str) -> None:
    count = config.training.steps_per_dispatch
    intervals = {"tracking.log_every_steps": config.tracking.log_every_steps}
    if config.checkpoint.every_steps is not None:
        intervals["checkpoint.every_steps"] = config.checkpoint.every_steps
    for name, every in intervals.items():
        if every % count:
            common = math.gcd(*intervals.values())
            fits = [number for number in range(1, common + 1) if common % number == 0]
            nearest = min(fits, key=lambda number: (abs(number - count), number))
            raise ConfigError(
                f"{count} updates a dispatch do not divide {name}, {every}; expected a divisor; {nearest} is the "
                f"nearest that fits, or set {name} to a multiple of {count}",
                path=path,
            )
    if horizon.steps_per_eval < count:
        raise ConfigError(
            f"{count} updates a dispatch, and an evaluation every {horizon.steps_per_eval:g}; expected at most "
            f"{math.floor(horizon.steps_per_eval)}; raise evaluation.every_epochs, or set that",
            path=path,
        )
