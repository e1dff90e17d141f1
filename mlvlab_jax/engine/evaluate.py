"""Measuring a split: every example exactly once, on any mesh."""

import math
from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh

from mlvlab_jax.config.schema import PipelineConfig
from mlvlab_jax.data.augment import normalize
from mlvlab_jax.data.device import double_buffer
from mlvlab_jax.data.order import Split
from mlvlab_jax.data.quarantine import BadExample
from mlvlab_jax.data.stream import Readers, Shard, eval_stream
from mlvlab_jax.engine.mesh import batch_sharding, replicated
from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.metrics.classification import Metric
from mlvlab_jax.models.nets.api import Model, Variables
from mlvlab_jax.types import Tree

Sums = dict[str, tuple[jax.Array, jax.Array]]


class Evaluator:
    """Computes metrics of a split with one compiled program.

    Args:
        model: The network.
        metrics: What to measure.
        pipeline: How pixels become input.
        layout: Shardings of the training state.
        mesh: Where to compute.
        batch_size: Examples in a batch; rounded up to a multiple of what the mesh needs.
    """

    def __init__(
        self,
        model: Model,
        metrics: Sequence[Metric],
        pipeline: PipelineConfig,
        *,
        layout: TrainState,
        mesh: Mesh,
        batch_size: int,
    ) -> None:
        ways = mesh.shape["data"] * mesh.shape["fsdp"]
        self._batch_size = math.ceil(batch_size / ways) * ways
        self._sharding = batch_sharding(mesh)
        self._pipeline = pipeline

        def eval_step(variables: Variables, batch: Tree) -> Sums:
            logits, _ = model.apply(variables, normalize(batch["image"], pipeline), jax.random.key(0), False)
            return {m.name: m.update(logits, batch["label"], batch["mask"]) for m in metrics}

        self._step = jax.jit(eval_step, in_shardings=(layout.evaluated, self._sharding), out_shardings=replicated(mesh))

    def __call__(
        self, variables: Variables, split: Split, *, on_bad: Callable[[Sequence[BadExample]], None]
    ) -> dict[str, float]:
        """Metrics of `variables` on all readable examples of `split`, by name; `on_bad` is told of the others."""
        batches = eval_stream(
            split,
            batch_size=min(self._batch_size, self._smallest_for(len(split))),
            shard=Shard(jax.process_index(), jax.process_count()),
            readers=Readers.of(self._pipeline),
            on_bad=on_bad,
        )
        totals: dict[str, tuple[float, float]] = {}
        pending = [self._step(variables, batch) for batch in double_buffer(batches, self._sharding)]
        for sums in jax.device_get(pending):
            for name, (value, count) in sums.items():
                old_value, old_count = totals.get(name, (0.0, 0.0))
                totals[name] = (old_value + float(value), old_count + float(count))
        return {name: value / count for name, (value, count) in totals.items()}

    def _smallest_for(self, num_examples: int) -> int:
        """Batch that holds a whole small split, so that a split of 100 is not padded to 512."""
        ways = self._sharding.mesh.shape["data"] * self._sharding.mesh.shape["fsdp"]
        return math.ceil(num_examples / ways) * ways
