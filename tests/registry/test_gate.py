"""Hand numbers; the interval of the paired difference has its own tests beside `compare`."""

import dataclasses

import numpy as np
import pytest

from mlvlab_jax.errors import PackageError
from mlvlab_jax.package import load
from mlvlab_jax.package.verify import verify_files
from mlvlab_jax.registry import gate
from mlvlab_jax.registry.gate import Contender, RefusedError, run_gates
from mlvlab_jax.registry.policy import PromotionPolicy
from tests.registry.packages import DATA_VERSION, make_package


@pytest.fixture
def contender(tmp_path):
    def make(version, **contents):
        folder = make_package(tmp_path / version, **contents)
        return Contender(version, folder, verify_files(folder))

    return make


def unmeasured(package):
    raise AssertionError("nobody asked for the latency")


def ask(candidate, champion=None, *, measure_ms=unmeasured, **policy):
    results = run_gates(candidate, champion, PromotionPolicy(**policy), measure_ms=measure_ms)
    return {result.name: (result.passed, result.message) for result in results}


def test_without_a_champion_and_without_demands_all_gates_say_so(contender):
    assert ask(contender("1.0.0")) == {
        "digests": (True, "13 files"),
        "data version": (True, "data/raw aaaaaaaaaaaa"),
        "champion": (True, "none yet to compare with"),
        "latency": (True, "not asked for"),
    }


def test_the_data_version(contender):
    none = contender("1.0.0", data_version=())
    passed, message = ask(none)["data version"]
    assert not passed
    assert message.startswith("none in the package; expected one")
    assert ask(none, data_version="any")["data version"] == (True, "not asked for")
    dirty = contender("1.1.0", data_version=({**DATA_VERSION, "dirty": True},))
    assert ask(dirty)["data version"][0]
    assert ask(dirty, data_version="committed")["data version"] == (
        False,
        "data/raw: not committed; expected a clean pointer in git",
    )
    assert ask(contender("1.2.0"), data_version="committed")["data version"][0]


def test_floors_say_by_how_much(contender):
    candidate = contender("1.0.0", wrong=range(60))
    said = ask(candidate, metric_floors={"test/accuracy": 0.95, "test/f1": 0.5, "test/loss": 0.0})
    assert said["test/accuracy"] == (False, "0.9400, floor 0.95: 0.01 short")
    assert said["test/f1"] == (False, "not in the package; expected 0.5 or more; there: test/accuracy, test/loss")
    assert not said["test/loss"][0]  # was not finite
    assert ask(candidate, metric_floors={"test/accuracy": 0.94})["test/accuracy"] == (True, "0.9400, floor 0.94")


@pytest.mark.parametrize(
    ("wrong", "tolerance", "passed"),
    [
        (range(20), 1.0, True),  # the same mistakes: no difference at all
        (range(20), 0.3, False),  # so few examples cannot show a difference as small as that
        (range(5, 15), 1.0, True),  # ten of the twenty mended
        (range(5, 15), 0.0, True),
        (range(20, 40), 1.0, False),  # as many, but others: 40 discordant pairs leave room for more than a point
        (range(20, 40), 2.0, True),
        (range(60), 1.0, False),
        (range(60), 10.0, True),
    ],
)
def test_the_champion_is_met_on_the_same_examples(wrong, tolerance, passed, contender):
    champion = contender("1.0.0", wrong=range(20))
    said = ask(contender("1.1.0", wrong=wrong), champion, tolerance_points=tolerance)["champion"]
    assert said[0] == passed, said


def test_a_refusal_by_the_champion_says_by_how_much(contender):
    # With none gained the limits are Wilson's of 40 in 1,000: 2.95 % and 5.40 %.
    passed, message = ask(contender("1.1.0", wrong=range(60)), contender("1.0.0", wrong=range(20)))["champion"]
    assert not passed
    assert (
        message == "-4.00 points against 1.0.0 on 1,000 examples, 95 % [-5.40, -2.95], tolerance 2: 3.40 points too low"
    )


def test_models_that_cannot_be_compared_are_refused_unless_the_champion_is_not_asked(contender):
    champion = contender("1.0.0")
    other = contender("1.1.0", first=500)
    passed, message = ask(other, champion)["champion"]
    assert not passed
    assert "500 of the 1000 examples of A are not in B" in message
    assert ask(other, champion, tolerance_points=None)["champion"] == (True, "not asked for")
    (other.package / "evaluation" / "predictions.parquet").unlink()
    passed, message = ask(other, champion)["champion"]
    assert not passed
    assert "predictions.parquet: cannot be read" in message


def test_latency_says_by_how_much(contender):
    candidate = contender("1.0.0")
    over = ask(candidate, latency_budget_ms=10.0, measure_ms=lambda package: 12.5)
    assert over["latency"] == (False, "12.5 ms an image, budget 10 ms: 2.5 ms too slow")
    within = ask(candidate, latency_budget_ms=10.0, measure_ms=lambda package: 10.0)
    assert within["latency"] == (True, "10 ms an image, budget 10 ms")

    def broken(package):
        raise PackageError("its outputs are others")

    assert ask(candidate, latency_budget_ms=10.0, measure_ms=broken)["latency"] == (False, "its outputs are others")


def test_latency_is_the_median_of_single_images_after_warming_up(contender, monkeypatch):
    asked, seconds = [], iter([5.0] * 10 + [0.002] * 60 + [1.0] * 40)  # warm-up, most calls, some outliers

    class Model:
        image = (4, 6, 3)

        def predict_logits(self, image):
            asked.append((image.shape, image.dtype))
            clock[0] += next(seconds)

    clock = [0.0]
    monkeypatch.setattr(load, "load_package", lambda path: Model())
    monkeypatch.setattr(gate.time, "perf_counter", lambda: clock[0])
    assert gate.measure_latency_ms(contender("1.0.0").package) == pytest.approx(2.0)
    assert asked == [((1, 4, 6, 3), np.uint8)] * 110


def test_an_error_of_refusal_lists_the_gates_that_refused(contender):
    results = run_gates(contender("1.0.0", data_version=()), None, PromotionPolicy(metric_floors={"test/f1": 0.5}))
    error = RefusedError("m 1.0.0 as champion", results)
    assert str(error).splitlines()[0] == "m 1.0.0 as champion: refused, nothing was changed"
    assert [line.split(":")[0].strip() for line in str(error).splitlines()[1:]] == ["data version", "test/f1"]
    assert error.exit_code == 65


def test_a_policy_is_frozen_and_its_values_are_in_range():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PromotionPolicy().tolerance_points = 5.0
    for bad in ({"tolerance_points": -1.0}, {"latency_budget_ms": 0.0}, {"data_version": "yes"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            PromotionPolicy(**bad)
