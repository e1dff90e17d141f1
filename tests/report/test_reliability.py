import re
from xml.etree import ElementTree

import pytest

from mlvlab_jax.report.reliability import draw_reliabilities, draw_reliability

BINS = [
    {"low": 0.0, "high": 0.5, "count": 0, "confidence": 0.0, "accuracy": 0.0},
    {"low": 0.5, "high": 0.6, "count": 4, "confidence": 0.55, "accuracy": 0.25},
    {"low": 0.6, "high": 0.8, "count": 20, "confidence": 0.7, "accuracy": 0.9},
    {"low": 0.8, "high": 1.0, "count": 80, "confidence": 0.95, "accuracy": 0.95},
]
MEASURED = {"ece": 0.0123, "nll": 0.41, "brier": 0.17, "bins": BINS}


def parse(figure):
    return ElementTree.fromstring(re.search(r"<svg.*</svg>", figure, re.DOTALL)[0])


def rects(svg, kind):
    found = [rect for rect in svg.iter("rect") if rect.get("class") == kind]
    return [{name: float(rect.get(name)) for name in ("x", "y", "width", "height")} for rect in found]


def test_gaps_reach_from_accuracy_to_confidence_and_empty_bins_are_not_drawn():
    svg = parse(draw_reliability(MEASURED, title="a"))
    ticks = [text for text in svg.iter("text") if text.get("text-anchor") == "end" and text.text in ("0", "100")]
    bottom, top = (float(text.get("y")) - 4 for text in ticks)
    bars, gaps, strokes = (rects(svg, kind) for kind in ("blue bar", "orange gap", "blue"))
    assert len(bars) == len(gaps) == len(strokes) == 3
    for each, bar, gap, stroke in zip(BINS[1:], bars, gaps, strokes, strict=True):
        scale = bottom - top
        assert (bottom - stroke["y"] - 1) / scale == pytest.approx(each["accuracy"], abs=1e-3)
        assert gap["height"] / scale == pytest.approx(abs(each["accuracy"] - each["confidence"]), abs=1e-3)
        lower = min(each["accuracy"], each["confidence"])
        assert bar["height"] / scale == pytest.approx(lower, abs=1e-3)
        assert (bottom - gap["y"] - gap["height"]) / scale == pytest.approx(lower, abs=1e-3)


def test_counts_are_drawn_to_scale_and_few_images_are_pale():
    svg = parse(draw_reliability(MEASURED, title="a"))
    heights = [rect["height"] for rect in rects(svg, "count")]
    assert heights[1] / heights[2] == pytest.approx(20 / 80, abs=0.01)
    assert heights[0] == pytest.approx(heights[2] * 4 / 80, abs=0.1)
    pale = [group.find("title").text for group in svg.iter("g") if group.get("class") == "pale"]
    assert pale == ["confidence 0.50 to 0.60: 4 images\naccuracy 25.0\u00a0%, mean confidence 55.0\u00a0%"]


def test_before_and_after_stand_side_by_side():
    calibration = {"temperature": 1.5, "fitted_on": "validation", "before": MEASURED, "after": {**MEASURED, "ece": 0.5}}
    both = draw_reliabilities(calibration)
    assert both.count("<svg") == 2
    assert both.index("ECE 1.23") < both.index("at temperature 1.500, fitted on validation") < both.index("ECE 50.00")
    assert draw_reliabilities({**calibration, "after": None}).count("<svg") == 1
