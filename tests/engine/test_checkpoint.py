import math

from mlvlab_jax.engine.retention import Rank


def test_checkpoints_rank_by_value_then_the_earliest():
    low, high, nan = ({"monitored": value, "step": 5} for value in (0.1, 0.9, math.nan))
    assert Rank("max")(high) > Rank("max")(low) > Rank("max")(nan)
    assert Rank("min")(low) > Rank("min")(high) > Rank("min")(nan)
    assert Rank("min")({"monitored": 0.1, "step": 4}) > Rank("min")(low)
