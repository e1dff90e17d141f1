import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlvlab_jax.report.axis import format_number, format_percent, format_seconds, round_ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 2.3, [0, 0.5, 1, 1.5, 2, 2.5]),
        (0, 787, [0, 200, 400, 600, 800]),
        (0, 2e-3, [0, 5e-4, 1e-3, 1.5e-3, 2e-3]),
        (94.4, 99.4, [94, 95, 96, 97, 98, 99, 100]),
        (-3, 4, [-4, -2, 0, 2, 4]),
    ],
)
def test_ticks_of_known_ranges(low, high, expected):
    assert round_ticks(low, high) == expected


@given(st.floats(-1e12, 1e12), st.floats(1e-9, 1e12))
def test_ticks_are_few_even_and_around_the_values(low, width):
    high = low + width
    if high - low < 1e-9 * max(abs(low), abs(high)):
        return  # too close for their own digits
    ticks = round_ticks(low, high)
    gaps = np.diff(ticks)
    assert 3 <= len(ticks) <= 9
    assert np.allclose(gaps, gaps[0], rtol=1e-2)
    assert ticks[0] <= low + gaps[0] * 1e-2
    assert ticks[-1] >= high - gaps[0] * 1e-2


def test_one_value_gets_room_around_it():
    assert round_ticks(5, 5)[0] < 5 < round_ticks(5, 5)[-1]
    assert round_ticks(0, 0)[0] < 0 < round_ticks(0, 0)[-1]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (2e-3, "2e-3"),
        (-1.25e-7, "-1.25e-7"),
        (99.44134, "99.44"),
        (2897.9, "2,898"),
        (12345, "12.35k"),
        (12345678, "12.35M"),
        (3e9, "3G"),
    ],
)
def test_numbers_are_short(value, expected):
    assert format_number(value) == expected


def test_shares_and_times_have_units():
    assert format_percent(0.98888, digits=2) == "98.89\u00a0%"
    assert [format_seconds(s) for s in (4.696, 99.96, 245, 3725)] == ["4.7 s", "1 min 40 s", "4 min 5 s", "1 h 2 min"]
