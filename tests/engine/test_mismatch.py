"""A checkpoint of another model is refused with everything that is different about it."""

import jax
import jax.numpy as jnp
import pytest

from mlvlab_jax.engine.checkpoint import CheckpointStore
from mlvlab_jax.engine.mismatch import Kind, list_mismatches
from mlvlab_jax.errors import CheckpointError
from tests.conftest import tiny_config
from tests.engine.conftest import make_state


def test_all_differences_are_listed_with_the_nearest_names():
    kernel, bias = Kind((3, 4), "float32"), Kind((4,), "float32")
    expected = {"head/kernel": kernel, "head/bias": bias, "same": bias, "step": Kind((), "int32")}
    found = {"haed/kernel": kernel, "head/bias": Kind((5,), "float32"), "same": bias, "step": Kind((), "float32")}
    assert list_mismatches(expected, found) == [
        "head/kernel: missing; expected float32 [3, 4]; there is 'haed/kernel'",
        "head/bias: float32 [5], expected float32 [4]",
        "step: float32 [], expected int32 []",
        "haed/kernel: float32 [3, 4], which this model does not have",
    ]
    assert list_mismatches(expected, expected) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"a": jnp.ones(4)}, "a: float32 [3], expected float32 [4]\n"),
        ({"a": jnp.ones(3, jnp.int32)}, "a: float32 [3], expected int32 [3]\n"),  # which Orbax would cast in silence
        ({"c": jnp.ones(1)}, "c: missing; expected float32 [1]\n"),
        ({"b": None}, "b: float32 [2, 2], which this model does not have\n"),
    ],
)
def test_a_state_of_another_model_is_not_restored(changed, expected, tmp_path):
    arrays = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
    with CheckpointStore(tmp_path, tiny_config().checkpoint, mode="min") as store:
        store.save(make_state(**arrays), {}, step=4, monitored=None)
        store.wait()
        like = make_state(**{name: leaf for name, leaf in (arrays | changed).items() if leaf is not None})
        layout = jax.tree.map(lambda x: x.sharding, like)
        with pytest.raises(CheckpointError) as error:
            store.restore(4, like, layout)
    assert error.value.exit_code == 66
    assert f"{tmp_path / '4'}: the state of another model:\n  variables/params/{expected}bring back the code" in str(
        error.value
    )
