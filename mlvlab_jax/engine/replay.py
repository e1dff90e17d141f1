"""A step of a run made again: batch, random numbers and state as they were."""

import dataclasses
from collections.abc import Collection, Mapping

import jax
import numpy as np

from mlvlab_jax.config.schema import Config
from mlvlab_jax.data.device import make_placement
from mlvlab_jax.data.stream import train_stream
from mlvlab_jax.engine.dispatch import Dispatch
from mlvlab_jax.engine.experiment import Experiment
from mlvlab_jax.engine.mesh import batch_sharding
from mlvlab_jax.engine.origin import Origin, Records
from mlvlab_jax.engine.progress import Window
from mlvlab_jax.engine.shard import process_shard
from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.engine.step import SCALARS
from mlvlab_jax.engine.teacher import open_teacher
from mlvlab_jax.engine.updates import Updates, make_updates
from mlvlab_jax.types import HostBatch, Tree

_APPLIED = SCALARS.index("applied")


@dataclasses.dataclass(frozen=True)
class Replayed:
    """A step made again.

    step: its number. first, last: the steps after `first` up to `last` were made. scalars: of the step, by `SCALARS`.
    example_id: int32 (b), of its batch. before: the state it began with. found: means over the log window that holds
    it. logged: the same as metrics.jsonl has them. Both are empty where no record covers the step.
    """

    step: int
    first: int
    last: int
    scalars: Mapping[str, float]
    example_id: np.ndarray
    before: TrainState
    found: Mapping[str, float]
    logged: Mapping[str, float]

    @property
    def equal(self) -> bool:
        """Whether every number of the window is the logged one, bit for bit."""
        return all(is_equal(self.found[name], value) for name, value in self.logged.items())


def is_equal(found: float, logged: float) -> bool:
    """Whether two numbers are equal, or both not a number."""
    return found == logged or (found != found and logged != logged)


def replay(
    config: Config,
    experiment: Experiment,
    origin: Origin,
    *,
    step: int,
    records: Records,
    left_out: Collection[int] = (),
) -> Replayed:
    """Makes the steps from `origin` to `step` again, and on to the end of the log window that holds it.

    Args:
        config: Of the run.
        experiment: The same made real.
        origin: Before the step; its arrays are given away.
        step: Its number.
        records: Of `find_way`.
        left_out: Of the same: steps that change nothing.
    """
    experiment = dataclasses.replace(experiment, teacher=open_teacher(config, experiment.data))
    updates = make_updates(config, experiment, on_bad=lambda found: None)
    first, state, rows = origin.progress.step, origin.state, []
    closing = min((number for number in records if number >= step), default=None)
    last = step if closing is None else closing
    for dispatch, batch in zip(updates.plan(first), updates.batches(first), strict=False):
        if dispatch.first < step <= dispatch.last:
            before = _advance(updates, state, batch, range(dispatch.first + 1, step), left_out)
            ids = jax.device_get(batch["example_id"]).reshape(-1, config.training.batch_size)
            ids = ids[step - 1 - dispatch.first]
        state, made_here = _make(updates, state, batch, dispatch, left_out)
        rows += made_here
        if dispatch.last >= last:
            break
        if dispatch.last not in left_out:
            state = _evaluate(experiment, state, step=dispatch.last)
    made = {number: dict(zip(SCALARS, row, strict=True)) for number, row in enumerate(rows, start=first + 1)}
    found = {} if closing is None else _sum_up(origin.progress.window, made, records, left_out, closing=closing)
    logged = {name: records[closing][name] for name in found if closing is not None and name in records[closing]}
    return Replayed(step, first, max(made), made[step], ids, before, found, logged)


def _make(
    updates: Updates, state: TrainState, batch: Tree, dispatch: Dispatch, left_out: Collection[int]
) -> tuple[TrainState, list[list[float]]]:
    """The steps of a dispatch, and their scalars; those left out are said not to have been applied."""
    steps = range(dispatch.first + 1, dispatch.last + 1)
    if not any(step in left_out for step in steps):
        state, scalars = updates(state, batch)
        return state, jax.device_get(scalars).reshape(-1, len(SCALARS)).tolist()
    rows = []
    for index, step in enumerate(steps):
        one = batch if len(steps) == 1 else jax.tree.map(lambda x, i=index: x[i : i + 1], batch)
        after, scalars = updates(jax.tree.map(lambda x: x.copy(), state), one)
        rows.append(jax.device_get(scalars).reshape(-1).tolist())
        # What the device left out by itself has its place in the state it gave.
        if step in left_out and rows[-1][_APPLIED]:
            rows[-1][_APPLIED] = 0.0
        else:
            state = after
    return state, rows


def _advance(updates: Updates, state: TrainState, batch: Tree, steps: range, left_out: Collection[int]) -> TrainState:
    """A copy of the state after `steps`, the first ones of the dispatch that takes `batch`."""
    state = jax.tree.map(lambda x: x.copy(), state)
    for index, step in enumerate(steps):
        if step not in left_out:
            state, _ = updates(state, jax.tree.map(lambda x, i=index: x[i : i + 1], batch))
    return state


def _evaluate(experiment: Experiment, state: TrainState, *, step: int) -> TrainState:
    """The state after the evaluation that followed `step`, which changes it where the schedule listens."""
    if experiment.optimizer.observe is None or not experiment.horizon.eval_due(step):
        return state
    validation = experiment.data.splits["validation"]
    return experiment.observe(
        state, experiment.evaluator(state.evaluated, validation, on_bad=lambda found: None).scalars
    )


def _sum_up(
    window: Window,
    made: Mapping[int, Mapping[str, float]],
    records: Records,
    left_out: Collection[int],
    *,
    closing: int,
) -> dict[str, float]:
    """Means over the window that ends with the step `closing`, beginning with the window open before all `made`."""
    for number in range(min(made), closing + 1):
        # An update that was left out is in no mean.
        window = window.add(dict(made[number])) if made[number]["applied"] else window
        if number in records and number < closing and number not in left_out:
            window = Window()
    return window.means()


def read_batch(config: Config, experiment: Experiment, *, step: int) -> tuple[HostBatch, Tree]:
    """The batch of a step as read by the host, and the same on the devices."""
    stream = train_stream(
        experiment.data.train,
        batch_size=config.training.batch_size,
        num_steps=step,
        seed=config.seed,
        first_step=step - 1,
        shard=process_shard(experiment.mesh),
        on_bad=lambda found: None,
    )
    batch = next(stream)
    return batch, make_placement(batch_sharding(experiment.mesh))(batch)
