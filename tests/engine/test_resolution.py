"""Smaller images at first: which size when, what the network sees, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.loop import run
from mlvlab_jax.engine.resolution import Resolutions, check_progressive
from mlvlab_jax.engine.updates import make_updates
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.trees import compute_digest
from tests.conftest import RecordingTracker, tiny_config

STAGES = [{"until_epoch": 1, "size": [4, 4]}, {"until_epoch": 2.5, "size": [6, 4]}]
VIT = {"hidden_size": 16, "num_heads": 2, "num_layers": 1, "patch_size": 2, "pool": "gap"}


def progressive(stages=STAGES, **changes):
    return tiny_config(training={"progressive": stages} | changes.pop("training", {}), **changes)


def check(config):
    check_progressive(config, make_experiment(config))


def test_each_update_has_the_size_of_its_epoch():
    config = progressive()  # 4.5 updates an epoch, 18 in all
    experiment = make_experiment(config)
    made = Resolutions(config, experiment)
    assert made.sizes() == [(4, 4), (6, 4), (8, 8)]
    assert [made.size_at(step) for step in range(1, 19)] == [(4, 4)] * 4 + [(6, 4)] * 7 + [(8, 8)] * 7
    batches = make_updates(config, experiment, on_bad=lambda found: None).batches(3)
    assert [batch["image"].shape[1:3] for batch in batches] == [made.size_at(step) for step in range(4, 19)]


def test_a_smaller_pixel_is_the_mean_of_those_it_stands_for():
    config = progressive([{"until_epoch": 1, "size": [4, 4]}])
    made = Resolutions(config, make_experiment(config))
    image = np.zeros((16, 8, 8, 1), np.uint8)
    image[:, 2:6, 2:6] = 200
    (small,) = made.shrink(iter([{"image": jnp.asarray(image)}]), 0)
    small = np.asarray(small["image"])
    assert small.dtype == np.uint8
    assert small.shape == (16, 4, 4, 1)
    np.testing.assert_array_equal(small[0, :, :, 0], small[0, :, :, 0].T)
    assert abs(small.mean() - image.mean()) < 2
    assert small[0, 1, 1, 0] > 150 > 40 > small[0, 0, 0, 0]


def test_it_trains_with_as_many_programs_as_sizes_and_goes_on_bit_for_bit(tmp_path):
    config = progressive(checkpoint={"every_steps": 2})
    whole = run(config, workdir=tmp_path / "whole", tracker=RecordingTracker())
    run(config, workdir=tmp_path / "cut", tracker=RecordingTracker(), stop_requested=lambda step: step == 6)
    again = run(config, workdir=tmp_path / "cut", tracker=RecordingTracker())
    assert compute_digest(again.state) == compute_digest(whole.state)
    plain = run(tiny_config(), workdir=tmp_path / "plain", tracker=RecordingTracker())
    assert compute_digest(plain.state.variables) != compute_digest(whole.state.variables)


def test_networks_whose_parameters_have_no_size_can_follow():
    for position in ("rope", "sincos"):
        check(
            progressive(
                [{"until_epoch": 1, "size": [4, 4]}],
                model={"name": "vision_transformer", "params": VIT | {"position": position}},
            )
        )
    with pytest.raises(
        ConfigError, match=r"cannot take images of 4 x 4 with the parameters it has for 8 x 8"
    ) as refused:
        check(progressive(model={"name": "vision_transformer", "params": VIT}))
    assert refused.value.path == "training.progressive[0].size"


@pytest.mark.parametrize(
    ("stages", "training", "words"),
    [
        ([{"until_epoch": 2, "size": [4, 4]}, {"until_epoch": 1, "size": [6, 6]}], {}, "expected them to rise"),
        ([{"until_epoch": 4, "size": [4, 4]}], {}, "below training.num_epochs, 4"),
        ([{"until_epoch": 1, "size": [9, 4]}], {}, "expected at most the 8 x 8 of the images"),
        (STAGES, {"steps_per_dispatch": 2}, "do not go together with training.steps_per_dispatch above 1"),
        (STAGES, {"distillation": {"package": "p"}}, "do not go together with training.distillation"),
    ],
)
def test_what_cannot_be_is_refused(stages, training, words):
    with pytest.raises(ConfigError, match=words):
        check(progressive(stages, training=training))
