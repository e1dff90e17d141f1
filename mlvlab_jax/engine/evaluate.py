"""Measuring a split: every example exactly once, on any mesh."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import clu.metrics
import jax
from jax.sharding import Mesh

from mlvlab_jax.config.schema import PipelineConfig
from mlvlab_jax.data.augment import normalize
from mlvlab_jax.data.device import double_buffer
from mlvlab_jax.data.order import Split
from mlvlab_jax.data.quarantine import BadExample
from mlvlab_jax.data.stream import Readers, eval_stream
from mlvlab_jax.engine.mesh import batch_sharding, replicated
from mlvlab_jax.engine.shard import process_shard
from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.metrics.base import Measured, compute_results, merge_batch
from mlvlab_jax.models.nets.api import Model, Variables
from mlvlab_jax.types import Tree

#: Batches dispatched before the first one's metrics are fetched: the device never waits, its memory is bounded.
_AHEAD = 8


class Evaluator:
    """Computes metrics of a split with one compiled program.

    Args:
        model: The network.
        metrics: What to measure, by name; any subclass of `clu.metrics.Metric` that takes logits, labels and mask.
        pipeline: How pixels become input.
        layout: Shardings of the training state.
        mesh: Where to compute.
        batch_size: Examples in a batch; rounded up to a multiple of what the mesh needs.
    """

    def __init__(
        self,
        model: Model,
        metrics: Mapping[str, type[clu.metrics.Metric]],
        pipeline: PipelineConfig,
        *,
        layout: TrainState,
        mesh: Mesh,
        batch_size: int,
    ) -> None:
        ways = mesh.shape["data"] * mesh.shape["fsdp"]
        self._batch_size = math.ceil(batch_size / ways) * ways
        self._sharding, self._shard = batch_sharding(mesh), process_shard(mesh)
        self._pipeline = pipeline

        def eval_step(variables: Variables, batch: Tree) -> dict[str, clu.metrics.Metric]:
            logits, _ = model.apply(variables, normalize(batch["image"], pipeline), jax.random.key(0), False)
            outputs = {"logits": logits, "labels": batch["label"], "mask": batch["mask"]}
            return {name: metric.from_model_output(**outputs) for name, metric in metrics.items()}

        self._step = jax.jit(eval_step, in_shardings=(layout.evaluated, self._sharding), out_shardings=replicated(mesh))

    def __call__(
        self,
        variables: Variables,
        split: Split,
        *,
        on_bad: Callable[[Sequence[BadExample]], None],
        between: Callable[[], None] = lambda: None,
    ) -> Measured:
        """Metrics of `variables` on all readable examples of `split`, by name; `on_bad` is told of the others.

        `between` is called after each batch, and may raise to break off.
        """
        batches = eval_stream(
            split,
            batch_size=min(self._batch_size, self._smallest_for(len(split))),
            shard=self._shard,
            readers=Readers.of(self._pipeline),
            on_bad=on_bad,
        )
        merged: dict[str, clu.metrics.Metric] = {}
        pending: deque[dict[str, clu.metrics.Metric]] = deque()
        for batch in double_buffer(batches, self._sharding):
            pending.append(self._step(variables, batch))
            between()
            if len(pending) > _AHEAD:
                merged = merge_batch(merged, pending.popleft())
        while pending:
            merged = merge_batch(merged, pending.popleft())
        with jax.transfer_guard("allow"):  # metrics of CLU's own compute their result in jax, from numpy arrays
            return compute_results(merged)

    def _smallest_for(self, num_examples: int) -> int:
        """Batch that holds a whole small split, so that a split of 100 is not padded to 512."""
        ways = self._sharding.mesh.shape["data"] * self._sharding.mesh.shape["fsdp"]
        return math.ceil(num_examples / ways) * ways
