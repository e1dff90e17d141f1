"""What a run does about losses and weights that are not finite: end, go on without the batch, or go back."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mlvlab_jax.config.schema import Config
from mlvlab_jax.engine.mesh import replicated
from mlvlab_jax.engine.progress import Progress, StepScalars
from mlvlab_jax.engine.state import TrainState
from mlvlab_jax.errors import NonFiniteError
from mlvlab_jax.trees import named_leaves


class Guard:
    """Judges the steps of a run as their scalars come in, and its state before it is saved.

    Args:
        config: Of the run.
        state: A state, or its shapes: what parameters there are.
        mesh: Where the state lies.
        workdir: Run folder, for the command that replays a step.
        note: Told of each update that was left out.
    """

    def __init__(
        self, config: Config, state: TrainState, mesh: Mesh, *, workdir: Path, note: Callable[[str], None]
    ) -> None:
        self._rules, self._spikes = config.training.non_finite, config.training.loss_spikes
        self._params = [name for name, _ in named_leaves(state.variables.params)]
        self._workdir, self._note = workdir, note
        self._are_finite = jax.jit(_are_finite, out_shardings=replicated(mesh))
        self._returns: dict[int, int] = {}

    def judge(self, progress: Progress, finished: Iterable[StepScalars]) -> Progress:
        """Notes the updates that were left out.

        Raises:
            NonFiniteError: One was not finite, and is not to be skipped, or too many in a row were.
        """
        for step, scalars in finished:
            if scalars["applied"] and _is_sound(scalars):
                continue
            finite, what = self._describe(step, scalars)
            progress = dataclasses.replace(progress, skipped=(*progress.skipped, step))
            in_a_row, most = _count_last_in_a_row(progress.skipped), self._rules.max_in_a_row
            if not finite and (self._rules.policy != "skip" or in_a_row > most):
                raise self._error(step, what, in_a_row=in_a_row)
            limit = "" if finite else f" ({in_a_row} of at most {most} in a row)"
            self._note(f"{what}; the update is left out{limit}; to see why: {self._replay(step)}")
        return progress

    def check_state(self, state: TrainState, *, step: int) -> None:
        """Refuses a state to be saved in which a weight or an average is not finite.

        Raises:
            NonFiniteError: Names the first.
        """
        held = {"variables": state.variables, "ema": state.ema}
        finite = jax.device_get(self._are_finite(held)).tolist()
        bad = [name for (name, _), ok in zip(named_leaves(held), finite, strict=True) if not ok]
        if bad:
            raise self._error(step, f"step {step}: {len(bad)} arrays of the state are not finite, first {bad[0]}")

    def may_go_back(self, error: NonFiniteError, *, to: int) -> bool:
        """Whether a run that lost its loss goes on from the checkpoint `to`, without the batches since."""
        if self._rules.policy != "rollback":
            return False
        self._returns[to] = self._returns.get(to, 0) + 1
        if self._returns[to] > self._rules.max_in_a_row:
            return False
        self._note(f"{error.what}; back to step {to}, leaving out the batches of steps {to + 1} to {error.step}")
        return True

    def _describe(self, step: int, scalars: dict[str, float]) -> tuple[bool, str]:
        """Whether loss and gradients are finite, and what is wrong."""
        loss = scalars["loss_sum"] / (scalars["num_examples"] or math.nan)
        if _is_sound(scalars):
            if self._spikes is None:
                return False, f"step {step}: the update is not finite, though loss ({loss:.4g}) and gradients are"
            return True, f"step {step}: the loss {loss:.4g} is a spike, over {self._spikes.sigmas:g} sigma"
        num_bad, total = int(scalars["num_bad_grads"]), len(self._params)
        if not num_bad:
            return False, f"step {step}: the loss is {loss:.4g} and the norm of the gradient {scalars['grad_norm']:.4g}"
        first = self._params[int(scalars["first_bad_grad"])]
        grads = f"the gradients of {num_bad} of {total} parameters are not finite, first {first}"
        return False, f"step {step}: the loss is {loss:.4g}, and {grads}"

    def _error(self, step: int, what: str, *, in_a_row: int = 1) -> NonFiniteError:
        skipped = f" ({in_a_row} in a row, at most {self._rules.max_in_a_row} are left out)" if in_a_row > 1 else ""
        return NonFiniteError(
            f"{what}{skipped}; expected finite numbers; nothing after the last checkpoint was saved; lower "
            "training.learning_rate, set training.gradient_clip_norm, or set training.non_finite.policy to skip or "
            f"rollback; to see why: {self._replay(step)}",
            path="training.learning_rate",
            step=step,
            what=what,
        )

    def _replay(self, step: int) -> str:
        return f"mlvlab replay --workdir {self._workdir} --step {step} --per-example"


def _is_sound(scalars: dict[str, float]) -> bool:
    return math.isfinite(scalars["loss_sum"]) and math.isfinite(scalars["grad_norm"])


def _are_finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)])


def _count_last_in_a_row(steps: Sequence[int]) -> int:
    count = 1
    while count < len(steps) and steps[-count - 1] == steps[-count] - 1:
        count += 1
    return count
