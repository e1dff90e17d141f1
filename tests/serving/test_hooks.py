from types import SimpleNamespace

import numpy as np
import pytest

from mlvlab_jax.config.monitoring import RecordingConfig
from mlvlab_jax.config.serving import ServingConfig
from mlvlab_jax.errors import DataError
from mlvlab_jax.monitoring.errors import UnknownPredictionError
from mlvlab_jax.monitoring.recorder import read_recorded
from mlvlab_jax.serving.hooks import Hooks
from mlvlab_jax.serving.metrics import ServingMetrics
from tests.monitoring.observed import (
    CLASS_NAMES,
    draw_observations,
    draw_reference,
    make_config,
    read_lines,
    wait_until,
)


def served(version, reference=None):
    package = SimpleNamespace(reference=reference, manifest=SimpleNamespace(sha256=version[0] * 64))
    predictor = SimpleNamespace(name="digits", version=version, class_names=CLASS_NAMES, package=package)
    return SimpleNamespace(predictor=predictor)


def test_nothing_is_told_where_nobody_listens():
    hooks = Hooks(ServingConfig(), metrics=ServingMetrics())
    hooks.follow(served("1.0.0"))
    assert (hooks.observe, hooks.record, hooks.label) == (None, None, None)
    hooks.close()


def test_requests_are_recorded_under_the_version_that_answered_them(tmp_path):
    config = ServingConfig(recording=RecordingConfig(folder=str(tmp_path / "recorded"), share=1.0))
    hooks = Hooks(config, metrics=ServingMetrics())
    probabilities = np.array([0.2, 0.3, 0.5], np.float32)
    for version in ("1.0.0", "2.0.0"):
        hooks.follow(served(version))
        hooks.record(f"id-{version}", "image/png", b"picture", probabilities)
    hooks.close()
    recorded = list(read_recorded(tmp_path / "recorded"))
    assert [(r.request_id, r.version, r.body) for r in recorded] == [
        ("id-1.0.0", "1.0.0", b"picture"),
        ("id-2.0.0", "2.0.0", b"picture"),
    ]


def test_answers_are_watched_against_the_reference_of_their_version(tmp_path):
    metrics = ServingMetrics()
    hooks = Hooks(ServingConfig(monitoring=make_config(tmp_path / "watched")), metrics=metrics)
    hooks.follow(served("v1", draw_reference()))
    hooks.observe(draw_observations(1))
    value = metrics.registry.get_sample_value
    wait_until(lambda: value("mlvlab_drift_windows_total", {"verdict": "same"}) == 1)
    hooks.label("r1-0", 0, "cat")
    wait_until(lambda: value("mlvlab_labels_total") == 1)
    hooks.follow(served("v2", draw_reference(seed=5)))
    hooks.observe(draw_observations(2, version="v2"))
    wait_until(lambda: len(read_lines(tmp_path / "watched" / "windows.jsonl")) == 2)
    hooks.close()
    assert [line["version"] for line in read_lines(tmp_path / "watched" / "windows.jsonl")] == ["v1", "v2"]
    text = metrics.render().decode()
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    with pytest.raises(UnknownPredictionError):
        hooks.label("never", 0, "cat")


def test_a_reference_that_is_too_small_is_an_error_at_the_start(tmp_path):
    hooks = Hooks(ServingConfig(monitoring=make_config(tmp_path / "watched")), metrics=ServingMetrics())
    with pytest.raises(DataError, match="reference"):
        hooks.follow(served("v1", draw_reference(num=20)))
    hooks.close()
