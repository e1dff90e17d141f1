"""With fsdp a layer's weights travel to the examples; activations stay where they are."""

import jax

from mlvlab_jax.data.shape import DataShape
from mlvlab_jax.engine.experiment import make_learner
from mlvlab_jax.engine.mesh import make_mesh
from mlvlab_jax.engine.state import describe_state
from mlvlab_jax.engine.step import compile_train_step, make_train_step
from mlvlab_jax.planning.plan import Target, make_plan
from mlvlab_jax.planning.step import describe_batch
from mlvlab_jax.types import ImageSpec
from tests.conftest import tiny_config

VIT = {"name": "vision_transformer", "params": {"hidden_size": 128, "num_heads": 4, "num_layers": 1, "patch_size": 2}}
PLAIN = {"augment": {"crop_padding": 0, "horizontal_flip": False}}
SHAPE = DataShape(ImageSpec(16, 16, 3), 10, 512)


def test_what_is_gathered_is_as_large_as_the_weights():
    config = tiny_config(model=VIT, mesh={"data": 1, "fsdp": 8}, pipeline=PLAIN, training={"batch_size": 64})
    step = make_plan(config, SHAPE, Target(jax.devices())).step
    sizes = {c.kind: c.array_bytes for c in step.traffic.collectives}
    weights = 4 * step.num_params
    # Before, and again for the gradient of what comes before; nothing of the 64 x 65 x 128 activations.
    assert 0.9 * weights < sizes["all-gather"] <= 2.1 * weights
    assert sizes["all-reduce"] + sizes.get("reduce-scatter", 0) <= 1.1 * weights


def test_without_fsdp_nothing_is_added_to_the_program():
    config = tiny_config(model=VIT, mesh={"data": 8}, pipeline=PLAIN)
    mesh, learner = make_mesh(config.mesh), make_learner(config, SHAPE, device=jax.devices()[0])
    state, layout = describe_state(learner.model, learner.optimizer, with_ema=False, mesh=mesh)
    pure = make_train_step(learner.model, learner.optimizer, config.training, config.pipeline)
    text = compile_train_step(pure, layout, mesh).lower(state, describe_batch(16, SHAPE)).as_text()
    assert "sharding_constraint" not in text
