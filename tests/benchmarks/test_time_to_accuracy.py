"""What the benchmark of time to accuracy tells the peer, and what it says in the end."""

import importlib

import pytest

from mlvlab_jax.config.load import load_config
from tests.conftest import ROOT


@pytest.fixture
def bench():
    return importlib.import_module("time_to_accuracy")


def test_ratios_are_told_only_where_all_have_reached_the_target(bench):
    found = {side: {"seconds": 100.0 * k, "accuracy": 0.93} for k, side in enumerate(("ours", *bench.PEERS), start=1)}
    summary = bench.sum_up(found)
    assert summary["ours_seconds"] == 100
    assert summary["C13_over_torch_eager"] == 0.5
    assert summary["C13_over_torch_compile_tuned"] == 0.25
    found["torch_compile"]["accuracy"] = 0.9299
    assert not [name for name in bench.sum_up(found) if name.startswith("C13")]


def test_the_peer_is_told_the_recipe_of_the_configuration(bench):
    config = load_config(
        [ROOT / bench.CONFIG], ["training.learning_rate=0.03", "pipeline.augment.crop_padding=3"]
    ).config
    recipe = bench.Recipe.of(config, num_steps=7)
    assert (recipe.num_steps, recipe.learning_rate, recipe.crop_padding) == (7, 0.03, 3)
    assert recipe.warmup_share == pytest.approx(0.5 / config.training.num_epochs)
    assert recipe.widths == config.model.params.widths
