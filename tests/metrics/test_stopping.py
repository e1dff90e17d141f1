import math

from mlvlab_jax.config.training import EarlyStoppingConfig
from mlvlab_jax.metrics.stopping import EarlyStopping


def follow(values, **config):
    rules, state, due = EarlyStoppingConfig(**config), EarlyStopping(), []
    for step, value in enumerate(values, 1):
        state = state.observe(step, value, rules)
        due.append(state.stop_due(rules))
    return state, due


def test_patience_counts_evaluations_without_improvement():
    state, due = follow([3.0, 2.0, 2.5, 2.1, 2.0], patience=3)
    assert (state.best, state.best_step) == (2.0, 2)
    assert due == [False, False, False, False, True]


def test_min_delta_is_the_smallest_improvement():
    state, _ = follow([1.0, 0.95, 0.90, 0.85], patience=9, min_delta=0.1)
    assert (state.best, state.best_step, state.num_without_improvement) == (0.85, 4, 0)
    state, _ = follow([1.0, 0.95, 0.91], patience=9, min_delta=0.1)
    assert (state.best, state.num_without_improvement) == (1.0, 2)


def test_mode_max_watches_for_higher_values():
    state, _ = follow([0.5, 0.7, 0.6], mode="max")
    assert (state.best, state.best_step) == (0.7, 2)


def test_not_a_number_never_improves_and_null_patience_never_stops():
    state, due = follow([math.nan, 1.0, math.nan] * 20)
    assert state.best == 1.0
    assert not any(due)
