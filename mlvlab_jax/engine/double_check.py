"""Silent corruption: updates computed twice and copies compared, so that a wrong one is neither kept nor saved."""

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mlvlab_jax.config.schema import Config
from mlvlab_jax.config.training import IntegrityConfig
from mlvlab_jax.engine.bit_flips import flip_bit
from mlvlab_jax.engine.compiling import AheadOfTime, describe_arrays
from mlvlab_jax.engine.digests import Difference, find_changes, find_outliers, make_digests, read_digests
from mlvlab_jax.engine.dispatch import Dispatch
from mlvlab_jax.engine.distributed import gather
from mlvlab_jax.engine.experiment import Experiment
from mlvlab_jax.engine.faults import strike
from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.engine.updates import Updates
from mlvlab_jax.errors import ConfigError, CorruptionError
from mlvlab_jax.types import Tree

#: Either makes XLA compute the same bits each time; the first also chooses the same program each time it compiles.
_DETERMINISTIC = ("xla_gpu_deterministic_ops", "xla_gpu_exclude_nondeterministic_ops")
_MOST_SHOWN = 3


def check_determinism(config: Config, mesh: Mesh, *, flags: str) -> None:
    """Refuses to compute steps twice where equal bits cannot be expected.

    Args:
        config: The run.
        mesh: Where it computes.
        flags: XLA_FLAGS of the environment.

    Raises:
        ConfigError: GPUs that were not told to compute the same twice.
    """
    every = config.training.integrity.replay_every_steps
    if every is None or mesh.devices.flat[0].platform != "gpu":
        return
    told = dict(flag.removeprefix("--").partition("=")[::2] for flag in flags.split()) | config.compile_options
    if not any(told.get(name) in (True, "true", "1") for name in _DETERMINISTIC):
        raise ConfigError(
            f"{every} compares the bits of a step computed twice, and on GPUs sums may run in another order each time; "
            f"expected XLA_FLAGS=--{_DETERMINISTIC[0]}=true, or {_DETERMINISTIC[1]}, which is enough and keeps "
            "autotuning; set one of them, there or in compile_options, or replay_every_steps: null",
            path="training.integrity.replay_every_steps",
        )


def make_checked_updates(updates: Updates, config: Config, experiment: Experiment, *, workdir: Path) -> Updates:
    """`updates` with the checks of `training.integrity`; themselves where none is asked for.

    Args:
        updates: Those of the run.
        config: The run.
        experiment: The same made real.
        workdir: Run folder, for the messages.
    """
    rules = config.training.integrity
    if rules == IntegrityConfig():
        return updates
    return CheckedUpdates(updates, rules, experiment, workdir)


class CheckedUpdates:
    """Updates of which some are computed twice, and after some of which all copies are compared.

    Args:
        updates: Those that are checked.
        rules: Which of them.
        experiment: Of the run.
        workdir: Run folder, for the messages.
    """

    def __init__(self, updates: Updates, rules: IntegrityConfig, experiment: Experiment, workdir: Path) -> None:
        self._updates, self._rules, self._workdir = updates, rules, workdir
        self._layout, self._mesh = experiment.layout, experiment.mesh
        self._hosts = gather(socket.gethostname())
        self._now = Dispatch(0, 0)
        state = (describe_arrays(experiment.state),)
        self._digests = AheadOfTime(make_digests(self._layout, self._mesh), state)
        self._copy = AheadOfTime(jax.jit(_copy, out_shardings=self._layout), state)

    def plan(self, done: int) -> Iterator[Dispatch]:
        """As theirs; the dispatch given last is the one that the next call makes."""
        for dispatch in self._updates.plan(done):
            self._now = dispatch
            yield dispatch

    def batches(self, done: int) -> Iterator[Tree]:
        """As theirs."""
        return self._updates.batches(done)

    def first_batch(self, batch: Tree) -> Tree:
        """As theirs."""
        return self._updates.first_batch(batch)

    def await_program(self, batch: Tree) -> None:
        """As theirs."""
        self._updates.await_program(batch)

    def __call__(self, state: TrainState, batch: Tree) -> tuple[TrainState, jax.Array]:
        """As theirs, checked where it is due; that waits for the devices.

        Raises:
            CorruptionError: The bits are not the same twice, or not on all devices.
        """
        twice = _due(self._rules.replay_every_steps, self._now)
        state, scalars = self._make_twice(state, batch) if twice else self._make(state, batch)
        if _due(self._rules.compare_replicas_every_steps, self._now):
            self.compare_replicas(state, step=self._now.last)
        return state, scalars

    def compare_replicas(self, state: TrainState, *, step: int) -> None:
        """To be called before `state`, that after `step`, is saved; does nothing where that is not asked for.

        Raises:
            CorruptionError: Devices hold different copies.
        """
        if self._rules.compare_replicas_every_steps is None:
            return
        found = find_outliers(read_digests(self._digests(state)), self._layout, self._mesh)
        if found:
            self._refuse(found, step, "copies on different devices differ (where two do, either may be wrong)")

    def _make(self, state: TrainState, batch: Tree) -> tuple[TrainState, jax.Array]:
        state, scalars = self._updates(state, batch)
        word = strike("update")
        return (flip_bit(state, word) if word else state), scalars

    def _make_twice(self, state: TrainState, batch: Tree) -> tuple[TrainState, jax.Array]:
        """By the same program: another, though of the same step, may round differently."""
        first, expected = self._make(self._copy(state), batch)
        digests = self._digests(first)
        del first  # its memory is needed for the second
        state, scalars = self._make(state, batch)
        found = find_changes(read_digests(digests), read_digests(self._digests(state)), self._layout)
        # Each process looks at its own copies; all must come to the same conclusion.
        if any(gather(jax.device_get(expected).tobytes() != jax.device_get(scalars).tobytes())):
            found.append(Difference("loss and other scalars", ()))
        if found:
            self._refuse(found, self._now.last, "the update was computed twice, and the results differ")
        return state, scalars

    def _refuse(self, found: Sequence[Difference], step: int, what: str) -> NoReturn:
        shown = "; ".join(self._describe(difference) for difference in found[:_MOST_SHOWN])
        more = f"; and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
        raise CorruptionError(
            f"step {step}: {what}: {shown}{more}; expected equal bits; a device, its memory or a link is broken; "
            "nothing after the last checkpoint was saved; take the machine out and start the same command again, which "
            f"goes on from there; mlvlab replay --workdir {self._workdir} --step {step} computes the step once more"
        )

    def _describe(self, difference: Difference) -> str:
        devices = [self._mesh.devices.flat[position] for position in difference.devices]
        if len(devices) == self._mesh.size > 1:
            return f"{difference.name} on all {len(devices)} devices"
        shown = ", ".join(f"{d} (process {d.process_index}, {self._hosts[d.process_index]})" for d in devices)
        return f"{difference.name} on {shown}" if shown else difference.name


def _copy(state: TrainState) -> TrainState:
    copied: TrainState = jax.tree.map(jnp.copy, state)
    return copied


def _due(every: int | None, dispatch: Dispatch) -> bool:
    return every is not None and dispatch.last // every > dispatch.first // every
