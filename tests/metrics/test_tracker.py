import math

import numpy as np
import pytest

from mlvlab_jax.errors import ConfigError
from mlvlab_jax.metrics import MetricsComputer, MetricsTracker


def test_the_guides_training_loop_stops_and_gives_its_best_epoch():
    """The shape of the guide's `train_model`, with its MetricsComputer in the place of a network."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 64)
    noise = rng.normal(size=(64, 3))
    tracker, computer, num_epochs = MetricsTracker(patience=2), MetricsComputer(["loss", "accuracy"]), 0
    for strength in (0.0, 1.0, 5.0, 2.0, 1.0, 9.0):
        num_epochs += 1
        tracker.update_train({"loss": 1 / num_epochs})
        for rows in np.split(np.arange(64), [30, 60]):
            computer.update((noise + strength * np.eye(3)[targets])[rows], targets[rows])
        val_metrics = computer.compute_epoch()
        tracker.update_val(val_metrics)
        if tracker.should_stop():
            break
    best = tracker.get_best_metrics()
    assert num_epochs == 5
    assert (best["epoch"], best["train/loss"]) == (3, 1 / 3)
    assert best["accuracy"] > 0.9
    assert best["loss"] < 0.2


def test_the_rule_is_that_of_early_stopping():
    tracker, due = MetricsTracker("accuracy", "max", patience=2, min_delta=0.1), []
    for value in (0.5, 0.55, 0.7, math.nan, 0.75):
        tracker.update_val({"accuracy": value})
        due.append(tracker.should_stop())
    assert due == [False, False, False, False, True]
    assert tracker.get_best_metrics() == {"accuracy": 0.7, "epoch": 3}


def test_without_patience_nothing_stops_and_without_numbers_nothing_is_best():
    tracker = MetricsTracker()
    for _ in range(50):
        tracker.update_val({"loss": math.nan})
    assert not tracker.should_stop()
    assert tracker.get_best_metrics() == {}


def test_wrong_names_and_ranges_are_refused():
    with pytest.raises(ConfigError, match=r"watches 'loss', which is not among \['accuracy'\]"):
        MetricsTracker().update_val({"accuracy": 1.0})
    with pytest.raises(ConfigError, match="mode is 'lowest'"):
        MetricsTracker(mode="lowest")
    with pytest.raises(ConfigError, match="patience is 0"):
        MetricsTracker(patience=0)
