"""The updates of a run: one a dispatch from batches of the host, or several from examples the devices hold."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mlvlab_jax.config.schema import Config
from mlvlab_jax.data.device import describe_batch, double_buffer, hold_split, make_placement
from mlvlab_jax.data.quarantine import BadExample
from mlvlab_jax.data.stream import Choice, Readers, train_choices, train_stream
from mlvlab_jax.engine.activations import keep_examples_in_place
from mlvlab_jax.engine.compiling import AheadOfTime, CompileOptions, describe_arrays
from mlvlab_jax.engine.dispatch import Dispatch, divide, make_due
from mlvlab_jax.engine.experiment import Experiment
from mlvlab_jax.engine.faults import strike
from mlvlab_jax.engine.mesh import batch_sharding, replicated
from mlvlab_jax.engine.resolution import Resolutions
from mlvlab_jax.engine.shard import process_shard
from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.engine.step import TrainStep, compile_train_step, make_train_step, stack_scalars
from mlvlab_jax.engine.teacher import Lesson
from mlvlab_jax.types import HostBatch, Tree

OnBad = Callable[[Sequence[BadExample]], None]


class Updates(Protocol):
    """The updates of a run; their programs are being compiled from the moment this is made."""

    def plan(self, done: int) -> Iterator[Dispatch]:
        """How the updates after `done` are divided."""

    def batches(self, done: int) -> Iterator[Tree]:
        """What each of these dispatches takes, on the devices."""

    def first_batch(self, batch: Tree) -> Tree:
        """The batch of the first update, on the devices, given what the first dispatch takes."""

    def await_program(self, batch: Tree) -> None:
        """Returns once the program that takes `batch` is compiled, or could not be, as the update then says."""

    def __call__(self, state: TrainState, batch: Tree) -> tuple[TrainState, jax.Array]:
        """The new state and the updates' scalars, float32 in the order of `SCALARS`, a row each where several."""


def make_updates(config: Config, experiment: Experiment, *, on_bad: OnBad) -> Updates:
    """As `training.steps_per_dispatch` says; `on_bad` is told of unreadable examples."""
    kind = Streamed if config.training.steps_per_dispatch == 1 else Held
    return kind(config, experiment, on_bad)


class Streamed:
    """One update a dispatch, each batch from the host."""

    def __init__(self, config: Config, experiment: Experiment, on_bad: OnBad) -> None:
        self._config, self._experiment, self._on_bad = config, experiment, on_bad
        self._lesson = _make_lesson(config, experiment)
        step = make_train_step(experiment.model, experiment.optimizer, config.training, config.pipeline)
        compiled = compile_train_step(step, experiment.layout, experiment.mesh, options=config.compile_options)
        batch = describe_batch(experiment.data.train, config.training.batch_size)
        if self._lesson:
            batch["teacher"] = self._lesson.logits
        self._resolutions = Resolutions(config, experiment)
        state, image = describe_arrays(experiment.state), batch["image"]
        self._steps = {}
        for size in self._resolutions.sizes():
            shape = (image.shape[0], *size, image.shape[3])
            sized = batch | {"image": jax.ShapeDtypeStruct(shape, image.dtype)}
            self._steps[size] = AheadOfTime(compiled, (state, sized))

    def plan(self, done: int) -> Iterator[Dispatch]:
        """Each update for itself."""
        return (Dispatch(step, step + 1) for step in range(done, self._experiment.horizon.num_steps))

    def batches(self, done: int) -> Iterator[Tree]:
        """Placed one ahead of the update that needs it."""
        stream = train_stream(
            self._experiment.data.train,
            batch_size=self._config.training.batch_size,
            num_steps=self._experiment.horizon.num_steps,
            seed=self._config.seed,
            first_step=done,
            shard=process_shard(self._experiment.mesh),
            readers=Readers.of(self._config.pipeline),
            on_bad=self._on_bad,
        )
        batches = double_buffer(_spoil(stream, done), batch_sharding(self._experiment.mesh))
        return self._resolutions.shrink(batches, done)

    def await_program(self, batch: Tree) -> None:
        """That for images of its size, and the teacher's."""
        if self._lesson:
            self._lesson.wait()
        self._steps[batch["image"].shape[1:3]].wait()

    def __call__(self, state: TrainState, batch: Tree) -> tuple[TrainState, jax.Array]:
        """One update."""
        step = self._steps[batch["image"].shape[1:3]]
        return step(state, self._lesson(state.key, batch) if self._lesson else batch)

    def first_batch(self, batch: Tree) -> Tree:
        """It is already there."""
        return batch


def _make_lesson(config: Config, experiment: Experiment) -> Lesson | None:
    if experiment.teacher is None:
        return None
    return Lesson(
        experiment.teacher,
        config.pipeline,
        split=experiment.data.train,
        batch_size=config.training.batch_size,
        key_data=experiment.state.key,
        mesh=experiment.mesh,
    )


def _spoil(stream: Iterator[HostBatch], done: int) -> Iterator[HostBatch]:
    """The batches after the first `done`, but for what a test wants of some: "nan" a loss, "labels" that are wrong."""
    for step, batch in enumerate(stream, start=done + 1):
        word = strike("batch", at=step)
        if word == "nan":
            batch["mask"] = batch["mask"] * np.float32(np.nan)
        elif word == "labels":
            batch["label"] = np.roll(batch["label"], 1, axis=0)
        yield batch


class Held:
    """Several updates a dispatch, whose examples the devices hold; the host says which."""

    def __init__(self, config: Config, experiment: Experiment, on_bad: OnBad) -> None:
        self._config, self._experiment, self._on_bad = config, experiment, on_bad
        step = make_train_step(experiment.model, experiment.optimizer, config.training, config.pipeline)
        self._many = compile_many(step, experiment.layout, experiment.mesh, options=config.compile_options)
        self._held, self._bad = hold_split(experiment.data.train, replicated(experiment.mesh))
        self._programs: dict[int, AheadOfTime] = {}
        for dispatch in self.plan(0):
            self._program(dispatch.last - dispatch.first)
            if len(self._programs) == 2:
                break

    def plan(self, done: int) -> Iterator[Dispatch]:
        """Full dispatches between what the host has to do."""
        horizon = self._experiment.horizon
        due = make_due(self._config, horizon)
        return divide(done, count=self._config.training.steps_per_dispatch, num_steps=horizon.num_steps, due=due)

    def batches(self, done: int) -> Iterator[Tree]:
        """Index and epoch of the examples of each dispatch, int32 (updates, b)."""
        return double_buffer(self._stack(done), _choices_sharding(self._experiment.mesh))

    def _stack(self, done: int) -> Iterator[Choice]:
        choices = train_choices(
            self._experiment.data.train,
            bad=self._bad,
            batch_size=self._config.training.batch_size,
            num_steps=self._experiment.horizon.num_steps,
            seed=self._config.seed,
            first_step=done,
            shard=process_shard(self._experiment.mesh),
            on_bad=self._on_bad,
        )
        for dispatch in self.plan(done):
            some = [next(choices) for _ in range(dispatch.first, dispatch.last)]
            ids, epochs = (np.stack([choice[name] for choice in some]) for name in ("example_id", "epoch"))
            yield Choice(example_id=ids, epoch=epochs)

    def first_batch(self, batch: Tree) -> Tree:
        """Read once more on the host."""
        stream = train_stream(
            self._experiment.data.train,
            batch_size=self._config.training.batch_size,
            num_steps=1,
            seed=self._config.seed,
            shard=process_shard(self._experiment.mesh),
            on_bad=self._on_bad,
        )
        return make_placement(batch_sharding(self._experiment.mesh))(next(stream))

    def _program(self, num_updates: int) -> AheadOfTime:
        if num_updates not in self._programs:
            shape = (num_updates, self._config.training.batch_size)
            choices = {name: jax.ShapeDtypeStruct(shape, np.int32) for name in ("example_id", "epoch")}
            arguments = (describe_arrays(self._experiment.state), describe_arrays(self._held), choices)
            self._programs[num_updates] = AheadOfTime(self._many, arguments)
        return self._programs[num_updates]

    def await_program(self, batch: Tree) -> None:
        """That for so many updates."""
        self._program(len(batch["epoch"])).wait()

    def __call__(self, state: TrainState, batch: Tree) -> tuple[TrainState, jax.Array]:
        """The updates of one dispatch."""
        return self._program(len(batch["epoch"]))(state, self._held, batch)


def compile_many(
    step: TrainStep, layout: TrainState, mesh: Mesh, *, options: CompileOptions
) -> Callable[[TrainState, Tree, Tree], tuple[TrainState, jax.Array]]:
    """Several updates as one program (state, held, choices) -> (state, scalars of each); the state is donated.

    Args:
        step: One update.
        layout: Shardings of the state.
        mesh: Where to compute; `held` is whole on every device.
        options: Of XLA's compiler.
    """
    # In a compiled loop XLA's CPU backend does without its parallel kernels: half the speed, a tenth for convolutions.
    unrolled = mesh.devices.flat[0].platform == "cpu"

    def one(held: Tree, state: TrainState, choice: Tree) -> tuple[TrainState, jax.Array]:
        batch = {name: rows[choice["example_id"]] for name, rows in held.items()} | choice
        # Without a barrier XLA would fuse the end of an update with the start of the next, and round differently.
        state, batch = jax.lax.optimization_barrier((state, batch))
        batch = jax.lax.with_sharding_constraint(batch, batch_sharding(mesh))
        with keep_examples_in_place(mesh, batch_size=len(batch["mask"])):
            state, scalars = step(state, batch)
        return state, stack_scalars(scalars)

    def many(state: TrainState, held: Tree, choices: Tree) -> tuple[TrainState, jax.Array]:
        if not unrolled:
            return jax.lax.scan(lambda state, choice: one(held, state, choice), state, choices)
        rows = []
        for index in range(len(choices["epoch"])):
            state, scalars = one(held, state, jax.tree.map(lambda x, i=index: x[i], choices))
            rows.append(scalars)
        return state, jnp.stack(rows)

    return jax.jit(
        many,
        in_shardings=(layout, replicated(mesh), _choices_sharding(mesh)),
        out_shardings=(layout, replicated(mesh)),
        donate_argnums=0,
        compiler_options=dict(options) or None,
    )


def _choices_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P(None, *batch_sharding(mesh).spec))
