import math
import re
from xml.etree import ElementTree

import numpy as np

from mlvlab_jax.report.curves import PANELS, Panel, draw_curves
from mlvlab_jax.report.records import Series

LOSS, ACCURACY = PANELS[:2]


def series(steps, values):
    return Series(np.array(steps), np.array(values, float))


def parse(figure):
    svg = re.search(r"<svg.*</svg>", figure, re.DOTALL)[0]
    return ElementTree.fromstring(svg)


def points(path):
    return [tuple(map(float, pair.split(","))) for pair in re.findall(r"[\d.]+,[\d.]+", path.get("d"))]


def lines_of(svg):
    return [path for path in svg.iter("path") if "line" in path.get("class")]


def read_ticks(svg):
    """Height of each tick of the vertical axis."""
    ticks = [text for text in svg.iter("text") if text.get("text-anchor") == "end" and text.text]
    return {float(text.text): float(text.get("y")) - 4 for text in ticks}


def test_the_ticks_fill_the_plot_also_where_it_does_not_begin_at_zero():
    svg = parse(draw_curves(ACCURACY, {"train/accuracy": series([1, 2, 3], [0.55, 0.7, 0.88])}, best_step=None))
    ticks = read_ticks(svg)
    assert sorted(ticks) == [50, 60, 70, 80, 90]
    assert (ticks[50], ticks[90]) == (178, 18)
    assert points(lines_of(svg)[0])[1][1] == ticks[70]


def test_points_stand_where_the_axes_say():
    curves = {"train/loss": series([10, 50, 100], [2.0, 1.0, 0.5])}
    svg = parse(draw_curves(LOSS, curves, best_step=None))
    (line,) = lines_of(svg)
    drawn = points(line)
    ticks = read_ticks(svg)
    assert drawn[0][1] == ticks[2.0]
    assert drawn[1][1] == ticks[1.0]
    assert drawn[2][1] == ticks[0.5]
    widths = np.diff([x for x, _ in drawn])
    np.testing.assert_allclose(widths[1] / widths[0], 50 / 40, rtol=0.01)


def test_a_value_that_is_not_finite_breaks_the_line_and_is_told():
    curves = {"train/loss": series(range(1, 7), [3, 2, math.nan, 1, math.nan, 0.5])}
    figure = draw_curves(LOSS, curves, best_step=None)
    svg = parse(figure)
    (line,) = lines_of(svg)
    assert line.get("d").count("M") == 1
    assert len(points(line)) == 2
    assert sum(1 for _ in svg.iter("circle")) == 2  # two points without neighbours
    assert "not finite: 2 of 6 values" in figure


def test_names_of_lines_that_meet_are_moved_apart():
    curves = {"train/accuracy": series([1, 9], [0.5, 0.99]), "validation/accuracy": series([1, 9], [0.6, 0.99])}
    svg = parse(draw_curves(ACCURACY, curves, best_step=9))
    heights = [float(text.get("y")) for text in svg.iter("text") if text.text in ("train", "validation")]
    assert len(heights) == 2
    assert abs(heights[0] - heights[1]) >= 24
    assert "best: step 9" in [text.text for text in svg.iter("text")]


def test_the_pointer_is_told_both_values():
    curves = {"train/loss": series([10, 20], [2, 1]), "validation/loss": series([20], [1.5])}
    svg = parse(draw_curves(LOSS, curves, best_step=None))
    told = [rect.find("title").text for rect in svg.iter("rect")]
    assert told == ["step 10\ntrain 2\nvalidation 1.5 (step 20)", "step 20\ntrain 1\nvalidation 1.5"]


def test_accuracy_never_has_a_tick_above_100():
    svg = parse(draw_curves(ACCURACY, {"train/accuracy": series([1, 2, 3], [1, 1, 1])}, best_step=None))
    ticks = read_ticks(svg)
    assert max(ticks) == 100
    assert min(ticks) < 100


def test_a_long_run_draws_a_small_chart():
    rng = np.random.default_rng(0)
    curves = {f"{split}/loss": series(range(100_000), rng.random(100_000)) for split in ("train", "validation")}
    assert len(draw_curves(LOSS, curves, best_step=5)) < 40_000


def test_what_was_not_recorded_is_not_drawn():
    panel = Panel("A", "", {"train": "gone"})
    assert draw_curves(panel, {"other": series([1], [1])}, best_step=1) == ""
    assert draw_curves(panel, {"gone": series([1], [math.nan])}, best_step=1) == ""
