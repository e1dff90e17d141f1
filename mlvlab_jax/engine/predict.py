"""What a model says of every readable example of a split, on any mesh."""

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
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
from mlvlab_jax.models.nets.api import Model, Variables
from mlvlab_jax.types import Tree

#: Batches dispatched before the logits of the first are fetched: the device never waits, its memory is bounded.
_AHEAD = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Outputs:
    """Of n examples in split order.

    index: int64 (n), in the source. label: int32 (n). logits: float32 (n, k). brightness: float32 (n), mean of the
    decoded pixels, 0 to 255.
    """

    index: np.ndarray
    label: np.ndarray
    logits: np.ndarray
    brightness: np.ndarray


class Predictor:
    """Computes logits with one compiled program.

    Args:
        model: The network.
        pipeline: How pixels become input.
        layout: Shardings of the training state.
        mesh: Where to compute.
        batch_size: Examples in every batch, of any split; rounded up to a multiple of what the mesh needs.
    """

    def __init__(
        self, model: Model, pipeline: PipelineConfig, *, layout: TrainState, mesh: Mesh, batch_size: int
    ) -> None:
        ways = mesh.shape["data"] * mesh.shape["fsdp"]
        self._batch_size = math.ceil(batch_size / ways) * ways
        self._sharding, self._shard = batch_sharding(mesh), process_shard(mesh)
        self._readers = Readers.of(pipeline)

        def predict_step(variables: Variables, batch: Tree) -> dict[str, jax.Array]:
            logits, _ = model.apply(variables, normalize(batch["image"], pipeline), jax.random.key(0), False)
            return {
                "index": batch["example_id"],
                "label": batch["label"],
                "logits": logits.astype(jnp.float32),
                "brightness": batch["image"].astype(jnp.float32).mean((1, 2, 3)),
                "mask": batch["mask"],
            }

        self._step = jax.jit(
            predict_step, in_shardings=(layout.evaluated, self._sharding), out_shardings=replicated(mesh)
        )

    def __call__(
        self,
        variables: Variables,
        split: Split,
        *,
        on_bad: Callable[[Sequence[BadExample]], None],
        between: Callable[[], None] = lambda: None,
        change: Callable[[Tree], jax.Array] = lambda batch: batch["image"],
    ) -> Outputs:
        """Outputs for all readable examples of `split`, the same in every process; `on_bad` is told of the others.

        `between` is called after each batch, and may raise to break off. `change` gives the pixels of a device batch
        that the model sees, uint8 (b h w c).
        """
        batches = eval_stream(
            split,
            batch_size=self._batch_size,
            shard=self._shard,
            readers=self._readers,
            on_bad=on_bad,
        )
        done: list[Outputs] = []
        pending: deque[dict[str, jax.Array]] = deque()
        for batch in double_buffer(batches, self._sharding):
            pending.append(self._step(variables, batch | {"image": change(batch)}))
            between()
            if len(pending) > _AHEAD:
                done.append(_fetch(pending.popleft()))
        done += map(_fetch, pending)
        names = (field.name for field in dataclasses.fields(Outputs))
        return Outputs(**{name: np.concatenate([getattr(part, name) for part in done]) for name in names})


def average_mirrored(model: Model) -> Model:
    """`model` whose logits, in evaluation, are the mean of those of an image and of its mirror image."""

    def apply(variables: Variables, image: jax.Array, key: jax.Array, train: bool) -> tuple[jax.Array, Tree]:
        logits, state = model.apply(variables, image, key, train)
        if train:
            return logits, state
        return (logits + model.apply(variables, image[:, :, ::-1], key, train)[0]) / 2, state

    return model._replace(apply=apply)


def _fetch(step: dict[str, jax.Array]) -> Outputs:
    """The rows that count, on the host."""
    rows = jax.device_get(step)
    kept = rows.pop("mask") > 0
    rows["index"] = rows["index"].astype(np.int64)
    return Outputs(**{name: values[kept] for name, values in rows.items()})
