import pytest
from scipy.stats import binomtest

from mlvlab_jax.monitoring.errors import UnknownLabelError, UnknownPredictionError
from mlvlab_jax.monitoring.live import Label, LiveAccuracy, Unlabelled
from tests.monitoring.observed import CLASS_NAMES, draw_observations


def label_of(right, version="v1"):
    return Label("r", 0, 1, 1 if right else 2, version, 0.0)


def test_the_interval_is_wilsons():
    live = LiveAccuracy("v1")
    live.add(label_of(i >= 7) for i in range(40))
    expected = binomtest(33, 40).proportion_ci(method="wilson")
    assert live.summarize() == pytest.approx(
        {"num": 40, "correct": 33, "accuracy": 33 / 40, "low": expected.low, "high": expected.high}
    )


def test_nothing_is_said_of_no_labels_or_of_those_of_another_version():
    live = LiveAccuracy("v2", [label_of(True).to_record()])
    live.add([label_of(True)])
    assert live.summarize() is None


def test_only_the_last_ten_thousand_count():
    live = LiveAccuracy("v1")
    live.add(label_of(i >= 500) for i in range(10_250))
    assert live.summarize()["num"] == 10_000
    assert live.summarize()["correct"] == 9_750


def test_a_label_is_a_name_or_a_number_and_the_name_goes_first():
    unlabelled = Unlabelled(max_unlabelled=10)
    seen = draw_observations(1, num=4)
    unlabelled.remember(seen, CLASS_NAMES)  # cat, dog, 7
    for place, (label, expected) in enumerate([("dog", 1), ("2", 2), ("7", 2)]):
        found = unlabelled.match(f"r1-{place}", 0, label)
        assert (found.label, found.prediction) == (expected, int(seen[place].probabilities.argmax()))
    for label in ("3", "-1", "1.0", "", "Dog", "٢", "9" * 5000):
        with pytest.raises(UnknownLabelError):
            unlabelled.match("r1-3", 0, label)
    assert unlabelled.match("r1-3", 0, "1").label == 1


def test_the_oldest_answers_are_forgotten():
    unlabelled = Unlabelled(max_unlabelled=3)
    unlabelled.remember(draw_observations(1, num=5), CLASS_NAMES)
    for place in (0, 1):
        with pytest.raises(UnknownPredictionError):
            unlabelled.match(f"r1-{place}", 0, "cat")
    assert unlabelled.match("r1-2", 0, "cat").label == 0
    assert len(unlabelled) == 2


def test_a_label_is_held_against_the_classes_of_the_version_that_answered():
    unlabelled = Unlabelled(max_unlabelled=10)
    unlabelled.remember(draw_observations(1, num=1), ("a", "b", "c"))
    unlabelled.remember(draw_observations(2, num=1, version="v2"), ("c", "b", "a"))
    first, second = (unlabelled.match(f"r{seed}-0", 0, "c") for seed in (1, 2))
    assert (first.label, first.version, second.label, second.version) == (2, "v1", 0, "v2")
