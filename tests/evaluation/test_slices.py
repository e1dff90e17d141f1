import math

import numpy as np
import pytest

from mlvlab_jax.data.columns import Column
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.evaluation.intervals import compute_wilson
from mlvlab_jax.evaluation.slices import bin_quantiles, choose_columns, slice_accuracy, take_rows

CAMERA = Column(np.array([0, 1, 0, 2, 1, 0], np.int32), ("left", "right", ""), None)
AGE = Column(None, (), np.array([3.0, 1, 2, np.nan, 5, 4]))
CORRECT = np.array([True, True, False, True, False, True])


def test_accuracy_is_that_of_the_examples_of_each_value():
    found = slice_accuracy(CORRECT, {"camera": CAMERA}, measured={"brightness": np.zeros(6)})
    rows = {row.value: (row.count, row.accuracy) for row in found["camera"]}
    assert rows == {"(empty)": (1, 1.0), "left": (3, pytest.approx(2 / 3)), "right": (2, 0.5)}
    left = next(row for row in found["camera"] if row.value == "left")
    assert (left.low, left.high) == compute_wilson(2, 3)
    assert [row.value for row in found["brightness"]] == ["0 to 0"]


def test_many_numbers_are_put_into_bins_of_equal_size():
    numbers = np.arange(100.0)[::-1]
    bins, names = bin_quantiles(np.append(numbers, np.nan))
    assert np.bincount(bins).tolist() == [20, 20, 20, 20, 20, 1]
    assert names == ["0 to 19", "20 to 39", "40 to 59", "60 to 79", "80 to 99", "(empty)"]
    assert bins[0] == 4
    assert bins[-1] == 5


def test_equal_numbers_share_a_bin():
    bins, names = bin_quantiles(np.array([1.0] * 7 + [2, 3, 3]))
    assert names == ["1 to 2", "3 to 3", "(empty)"]
    assert np.bincount(bins).tolist() == [8, 2]


def test_numbers_of_few_values_are_not_binned_and_of_many_are():
    few = Column(np.arange(30, dtype=np.int32) % 3, ("1", "2", "10"), np.array([1.0, 2, 10] * 10))
    many = Column(np.arange(30, dtype=np.int32), tuple(map(str, range(30))), np.arange(30.0))
    found = slice_accuracy(np.ones(30, bool), {"few": few, "many": many}, measured={"brightness": np.arange(30.0)})
    assert [row.value for row in found["few"]] == ["1", "2", "10"]
    assert [row.count for row in found["many"]] == [6] * 5


def test_columns_are_chosen_by_name_or_where_values_are_few():
    many = Column(np.arange(30, dtype=np.int32), tuple(map(str, range(30))), None)
    one = Column(np.zeros(6, np.int32), ("same",), None)
    columns = {"camera": CAMERA, "age": AGE, "many": many, "one": one}
    assert choose_columns(columns, None) == ("camera",)
    assert choose_columns(columns, ["age", "brightness", "many"]) == ("age", "many")
    with pytest.raises(ConfigError, match=r"--slice 'camra': no such column.*did you mean 'camera'\?"):
        choose_columns(columns, ["camra"])


def test_rows_are_taken_by_index():
    rows = take_rows(CAMERA, np.array([3, 0]))
    assert [rows.values[code] for code in rows.codes] == ["", "left"]
    assert rows.numbers is None
    ages = take_rows(AGE, np.array([4, 3]))
    assert ages.numbers[0] == 5
    assert math.isnan(ages.numbers[1])
