import json
import math

import numpy as np

from mlvlab_jax.report.records import Series, read_records, thin_series


def test_a_resumed_and_torn_file_reads_as_one_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        '{"step": 4, "train/loss": 0.4}',
        '{"step": 2, "train/loss": 0.2, "epoch": 1, "note": "text", "flag": true, "none": null}',
        '{"step": 6, "train/loss": 9.0}',
        '{"step": 8, "tra',
        "[1, 2]",
        '{"train/loss": 1.0}',
        '{"step": 6, "train/loss": NaN}',
        '{"step": 8, "train/loss": Infinity, "validation/loss": 0.8}',
    ]
    path.write_text("\n".join(lines))
    curves = read_records(path)
    assert sorted(curves) == ["epoch", "train/loss", "validation/loss"]
    assert curves["train/loss"].steps.tolist() == [2, 4, 6, 8]
    np.testing.assert_array_equal(curves["train/loss"].values, [0.2, 0.4, math.nan, math.nan])
    assert curves["validation/loss"].steps.tolist() == [8]


def test_no_file_is_no_curves(tmp_path):
    assert read_records(tmp_path / "metrics.jsonl") == {}
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe\n" + json.dumps({"step": 1, "a": 2}).encode())
    assert list(read_records(tmp_path / "metrics.jsonl")) == ["a"]


def test_a_long_curve_keeps_its_ends_peaks_and_gaps():
    values = np.random.default_rng(0).random(5000)
    values[[1234, 2345]] = 50.0, -50.0
    values[4000] = math.nan
    thin = thin_series(Series(np.arange(5000), values), max_points=200)
    assert len(thin.steps) <= 200
    assert {0, 1234, 2345, 4000, 4999} <= set(thin.steps.tolist())
    assert (np.diff(thin.steps) > 0).all()
    np.testing.assert_array_equal(thin.values, values[thin.steps])


def test_a_short_curve_stays():
    series = Series(np.arange(200), np.arange(200.0))
    assert thin_series(series, max_points=200) is series
