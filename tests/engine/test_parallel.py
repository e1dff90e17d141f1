"""The same run on any mesh: equal losses, and parameters that are bit-equal after a restore on another one."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from mlvlab_jax.engine.checkpoint import CheckpointStore
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.loop import run
from mlvlab_jax.engine.step import SCALARS
from mlvlab_jax.engine.updates import make_updates
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.trees import compute_digest
from tests.conftest import RecordingTracker, tiny_config
from tests.engine.test_step import MODELS, train

MESHES = {
    "data=8": {"data": 8},
    "fsdp=8": {"data": 1, "fsdp": 8},
    "data=2 fsdp=2 tensor=2": {"data": 2, "fsdp": 2, "tensor": 2},
}
# SGD: Adam divides gradients that are zero but for rounding (a key's bias) by their own size.
RULES = {"optimizer": {"name": "sgd"}, "training": {"ema_decay": 0.9, "gradient_clip_norm": 1.0}}


@pytest.mark.parametrize("model", MODELS)
def test_twenty_losses_are_those_of_one_device_on_every_mesh(model, on_devices):
    changes = RULES | {"model": MODELS[model]}
    found = {name: train(tiny_config(**changes, mesh=mesh), 20) for name, mesh in MESHES.items()}
    on_devices(1)
    whole, expected = train(tiny_config(**changes, mesh={"data": 1}), 20)
    for name, (state, losses) in found.items():
        np.testing.assert_allclose(losses, expected, rtol=1e-5, err_msg=name)
        for a, b in zip(jax.tree.leaves(state.variables), jax.tree.leaves(whole.variables), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5, err_msg=name)
    if model == "vit":
        spread, _ = found["fsdp=8"]
        assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(spread.opt_state))


@pytest.mark.parametrize("model", ["cnn", pytest.param("vit", marks=pytest.mark.slow)])
def test_twenty_losses_are_those_of_the_whole_batch_in_any_number_of_pieces(model, on_devices):
    on_devices(1)
    plain = {"params": {"dropout": 0.0} | ({"stochastic_depth": 0.0} if model == "vit" else {})}
    changes = {"model": MODELS[model] | {"params": MODELS[model]["params"] | plain["params"]}, "mesh": {"data": 1}}
    changes |= {"optimizer": {"name": "sgd"}, "pipeline": {"augment": {"mixup": {"alpha": 0.8}}}}
    whole, expected = train(tiny_config(**changes), 20)
    for num_pieces in (4, 8):
        pieces, losses = train(tiny_config(**changes, training={"accumulation_steps": num_pieces}), 20)
        np.testing.assert_allclose(losses, expected, rtol=1e-5, err_msg=f"{num_pieces} pieces")
        for a, b in zip(jax.tree.leaves(pieces.variables), jax.tree.leaves(whole.variables), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_run_restores_bit_for_bit_on_other_meshes_and_numbers_of_devices(tmp_path, on_devices):
    config = tiny_config(model=MODELS["vit"], mesh={"data": 1, "fsdp": 8})
    saved = run(config, workdir=tmp_path, tracker=RecordingTracker(), stop_requested=lambda step: step == 3)
    others = [(8, {"data": 8}), (8, {"data": 4, "fsdp": 2}), (4, {"data": 2, "tensor": 2}), (1, {"data": 1})]
    for count, mesh in others:
        on_devices(count)
        other = make_experiment(tiny_config(model=MODELS["vit"], mesh=mesh))
        with CheckpointStore(tmp_path / "checkpoints", config.checkpoint, mode="min") as store:
            state, _ = store.restore(3, other.state, other.layout)
        assert compute_digest(state) == compute_digest(saved.state)
        assert dict(state.step.sharding.mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1} | mesh


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of eight devices after three steps: its folder, its state's digest, and the loss of the fourth step."""
    folder = tmp_path_factory.mktemp("stopped")
    config = tiny_config(model=MODELS["vit"])
    saved = run(config, workdir=folder, tracker=RecordingTracker(), stop_requested=lambda step: step == 3)
    return folder, compute_digest(saved.state), next_loss(config, folder)[1]


def next_loss(config, folder):
    experiment = make_experiment(config)
    with CheckpointStore(folder / "checkpoints", config.checkpoint, mode="min") as store:
        state, _ = store.restore(3, experiment.state, experiment.layout)
    digest, updates = compute_digest(state), make_updates(config, experiment, on_bad=lambda found: None)
    _, scalars = updates(state, next(updates.batches(3)))
    told = dict(zip(SCALARS, scalars.tolist(), strict=True))
    return digest, told["loss_sum"] / told["num_examples"]


@pytest.mark.parametrize(
    ("count", "mesh"),
    [
        (4, {"data": 4}),
        (8, {"data": 2, "fsdp": 4}),
        *(
            pytest.param(count, mesh, marks=pytest.mark.slow)
            for count, mesh in [
                (2, {"data": 2}),
                (1, {"data": 1}),
                (8, {"data": 4, "tensor": 2}),
                (8, {"fsdp": 8, "data": 1}),
            ]
        ),
    ],
)
def test_a_state_of_eight_devices_is_bit_equal_elsewhere_and_its_next_loss_the_same(count, mesh, stopped, on_devices):
    folder, expected, loss = stopped
    on_devices(count)
    digest, found = next_loss(tiny_config(model=MODELS["vit"], mesh=mesh), folder)
    assert digest == expected
    assert found == pytest.approx(loss, rel=1e-5)


def test_a_rule_of_the_configuration_comes_first():
    mesh = {"data": 2, "fsdp": 2, "tensor": 2, "rules": [["mlp_in/kernel", "whole"], ["head/kernel", "row"]]}
    layout = make_experiment(tiny_config(model=MODELS["vit"], mesh=mesh)).layout.variables.params
    assert layout["block0"]["mlp_in"]["kernel"].is_fully_replicated
    assert layout["head"]["kernel"].spec == PartitionSpec("tensor", "fsdp")
    assert layout["block0"]["mlp_out"]["kernel"].spec == PartitionSpec("tensor", "fsdp")


@pytest.mark.parametrize(
    ("changes", "path", "expected"),
    [
        ({"mesh": {"data": 1, "tensor": 8}}, "mesh.tensor", r"tensor 8 does not divide .* 4 attention heads.*; 4 fits"),
        (
            {"mesh": {"data": 4, "tensor": 2}, "model": {"params": {"mlp_dim": 33}}},
            "mesh.tensor",
            r"tensor 2 does not divide the 33 outputs of 'block0/mlp_in/kernel' \(16, 33\)",
        ),
        (
            {"mesh": {"rules": [["blok0/mlp_in", "row"]]}},
            r"mesh.rules\[0\]",
            r"'blok0/mlp_in' is found in none of \d+ parameters; the nearest are block0/mlp_in/",
        ),
        (
            {"mesh": {"rules": [["mlp", "row"], ["block0/mlp_in/kernel", "whole"]]}},
            r"mesh.rules\[1\]",
            "only parameters that rules above it take, such as 'block0/mlp_in/kernel'",
        ),
        (
            {"mesh": {"data": 2, "fsdp": 4}, "training": {"batch_size": 24, "accumulation_steps": 2}},
            "training.batch_size",
            "24 examples .* data 2 x fsdp 4 x 2 accumulation steps; expected a multiple of 16; 16 or 32 fits",
        ),
    ],
)
def test_what_does_not_fit_the_mesh_is_refused_with_its_numbers(changes, path, expected):
    changes = {"model": MODELS["vit"]} | changes
    changes["model"] = {"name": "vision_transformer", "params": MODELS["vit"]["params"] | changes["model"]["params"]}
    with pytest.raises(ConfigError, match=expected) as caught:
        make_experiment(tiny_config(**changes))
    assert re.fullmatch(path, caught.value.path)


def test_a_rule_that_is_no_regular_expression_is_refused_with_the_configuration():
    with pytest.raises(ConfigError, match=r"expected a regular expression, found '\*kernel' \(nothing to repeat"):
        tiny_config(mesh={"rules": [["*kernel", "row"]]})
