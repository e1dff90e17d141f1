import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlvlab_jax.errors import DataError, RunFolderError
from mlvlab_jax.monitoring import watcher as module
from mlvlab_jax.monitoring.detector import Detector, Verdict
from mlvlab_jax.monitoring.errors import UnknownLabelError, UnknownPredictionError
from mlvlab_jax.monitoring.metrics import MonitorMetrics
from mlvlab_jax.monitoring.watcher import Watcher
from tests.monitoring.observed import (
    CLASS_NAMES,
    draw_observations,
    draw_reference,
    make_config,
    read_lines,
    wait_until,
)


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch):
    monkeypatch.setattr(module, "_SHARE", 1.0)
    monkeypatch.setattr(module, "_GATHER_S", 0.0)


@pytest.fixture
def watch():
    """Makes watchers, and closes them."""
    made = []

    def make(config, *, reference=None, **changes):
        told = {"class_names": CLASS_NAMES, "model": "pets", "version": "v1", "package_sha256": "ab" * 32} | changes
        made.append(Watcher(reference or draw_reference(), config, metrics=MonitorMetrics(), **told))
        return made[-1]

    yield make
    for watcher in made:
        watcher.close()


def read_json(path):
    return json.loads(path.read_text())


def offer_windows(watcher, dims, *, seed=100, version="v1"):
    """Offers a window at a time, as fast as they are judged; each of a brightness."""
    for at, dim in enumerate(dims):
        before = num_windows(watcher)
        watcher.offer(draw_observations(seed + at, dim=dim, version=version))
        wait_until(lambda before=before: num_windows(watcher) > before)


def num_windows(watcher):
    return sum(watcher._metrics.value("mlvlab_drift_windows_total", verdict) for verdict in ("same", "different"))


def test_a_planted_shift_is_an_alarm_at_its_second_window_and_ends(tmp_path, watch, caplog):
    caplog.set_level(logging.WARNING)
    watcher = watch(make_config(tmp_path))
    offer_windows(watcher, (1, 1, 0.7, 0.7, 0.7, 1, 1))
    watcher.close()
    windows = read_lines(tmp_path / "windows.jsonl")
    assert [window["window"] for window in windows] == [1, 2, 3, 4, 5, 6, 7]
    assert [window["rejected"] for window in windows] == [False, False, True, True, True, False, False]
    assert [window["alarm"] for window in windows] == [False, False, False, True, True, True, False]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["firing", "resolved"]
    assert watcher._metrics.value("mlvlab_drift_alarm") == 0
    assert watcher._metrics.value("mlvlab_alerts_total", "sent") == 2


def test_a_window_is_told_on_the_edges_of_the_reference(tmp_path, watch):
    watcher = watch(make_config(tmp_path))
    observations = draw_observations(1, dim=0.7)
    watcher.offer(observations)
    wait_until(lambda: num_windows(watcher) == 1)
    watcher.close()
    (window,) = read_lines(tmp_path / "windows.jsonl")
    reference = read_json(tmp_path / "reference.json")
    assert window["start"] == "2001-09-09T01:46:40.000+00:00"
    assert window["end"] == "2001-09-09T01:54:59.000+00:00"
    assert (window["num"], window["model"], window["version"]) == (500, "pets", "v1")
    answered = np.array([seen.probabilities.argmax() for seen in observations])
    assert window["prediction"] == np.bincount(answered, minlength=3).tolist()
    edges = np.array(reference["features"]["brightness"]["edges"])
    brightness = np.array([seen.image.mean() for seen in observations])
    num_bins = len(edges) - 1
    bins = np.clip(np.searchsorted(edges, brightness, side="right") - 1, 0, num_bins - 1)
    expected = np.bincount(bins, minlength=num_bins)
    assert window["features"]["brightness"] == expected.tolist()
    assert set(window["features"]) == set(reference["features"])
    brightnesses = [result for result in window["tests"] if result["feature"] == "brightness"]
    assert [(each["test"], each["floor"], each["rejected"]) for each in brightnesses] == [
        ("kolmogorov_smirnov", 0.05, True)
    ]
    assert (reference["schema"], reference["num"], reference["class_names"]) == (1, 1500, list(CLASS_NAMES))
    assert sum(reference["features"]["brightness"]["counts"]) == sum(reference["prediction"]) == 1500


def test_the_worst_images_of_a_window_that_differs_are_kept(tmp_path, watch):
    watcher = watch(make_config(tmp_path))
    outliers = draw_observations(2, dim=0.7)
    for place, distance in ((17, 900.0), (3, 700.0), (491, 800.0)):
        outliers[place] = outliers[place]._replace(embedding=np.full(4, distance, np.float32))
    watcher.offer(draw_observations(1))
    watcher.offer(outliers)
    wait_until(lambda: num_windows(watcher) == 2)
    watcher.close()
    same, different = read_lines(tmp_path / "windows.jsonl")
    assert same["images"] == []
    assert [image["request_id"] for image in different["images"]] == ["r2-17", "r2-491", "r2-3"]
    assert [image["file"] for image in different["images"]] == [f"images/window-000002/0{i}.png" for i in range(3)]
    with Image.open(tmp_path / different["images"][0]["file"]) as kept:
        np.testing.assert_array_equal(np.asarray(kept), outliers[17].image[..., 0])
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["window-000002"]


def test_the_folder_keeps_to_its_bounds(tmp_path, watch, monkeypatch):
    verdicts = iter([True] * 8)
    scripted(monkeypatch, lambda: next(verdicts))
    for left_behind in ("window-000001", "window-000009", ".window-000004.tmp"):
        (tmp_path / "images" / left_behind).mkdir(parents=True)
    watcher = watch(make_config(tmp_path, keep_windows=3))
    offer_windows(watcher, [1] * 8)
    watcher.close()
    assert [window["window"] for window in read_lines(tmp_path / "windows.jsonl")] == [6, 7, 8]
    kept = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert kept == ["window-000006", "window-000007", "window-000008"]


def scripted(monkeypatch, say):
    """A detector that says what it is told to."""
    monkeypatch.setattr(Detector, "judge", lambda self, window: Verdict(say(), ()))


def test_a_restart_goes_on_numbering_and_with_the_alarm(tmp_path, watch, caplog):
    config = make_config(tmp_path)
    first = watch(config)
    offer_windows(first, (1, 0.7))
    first.offer(draw_observations(50, num=400, dim=0.7))  # half a window, which is dropped
    wait_until(lambda: first._judge.num_waiting == 400)
    caplog.set_level(logging.INFO, "mlvlab_jax.monitoring.watcher")
    first.close()
    assert "400 answers of a window that is not complete are dropped" in caplog.text
    second = watch(config)
    offer_windows(second, (0.7,), seed=200)
    second.close()
    third = watch(config)
    assert third._metrics.value("mlvlab_drift_alarm") == 1
    offer_windows(third, (1, 1), seed=300)
    third.close()
    windows = read_lines(tmp_path / "windows.jsonl")
    assert [window["window"] for window in windows] == [1, 2, 3, 4, 5]
    assert [window["alarm"] for window in windows] == [False, False, True, True, False]
    sent = [record.getMessage() for record in caplog.records if record.name.endswith("sender")]
    assert [line.partition(":")[0] for line in sent] == ["firing", "resolved"]


def test_a_restart_with_another_version_has_no_alarm_and_ends_the_alert(tmp_path, watch, caplog):
    config = make_config(tmp_path)
    first = watch(config)
    offer_windows(first, (0.7, 0.7, 0.7))
    first.close()
    second = watch(config, version="v2")
    assert second._metrics.value("mlvlab_drift_alarm") == 0
    offer_windows(second, (0.7,), version="v2")
    second.close()
    windows = read_lines(tmp_path / "windows.jsonl")
    assert [(window["window"], window["version"], window["alarm"]) for window in windows[2:]] == [
        (3, "v1", True),
        (4, "v2", False),
    ]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["firing", "resolved"]


def test_another_version_starts_a_window_a_reference_and_ends_the_alert_of_the_one_before(tmp_path, watch, caplog):
    watcher = watch(make_config(tmp_path))
    offer_windows(watcher, (0.7, 0.7))
    watcher.offer(draw_observations(3, num=499, dim=0.7))
    watcher.follow(draw_reference(800, seed=5), class_names=("a", "b", "c"), version="v2", package_sha256="cd" * 32)
    watcher.offer(draw_observations(4))  # of v1, answered a moment before
    offer_windows(watcher, (1,), version="v2")
    watcher.close()
    windows = read_lines(tmp_path / "windows.jsonl")
    assert [(window["version"], window["alarm"]) for window in windows] == [("v1", False), ("v1", True), ("v2", False)]
    reference = read_json(tmp_path / "reference.json")
    assert (reference["version"], reference["num"], reference["class_names"]) == ("v2", 800, ["a", "b", "c"])
    assert [record.getMessage() for record in caplog.records] == [
        "firing: Requests to pets v1 differ from its reference",
        "resolved: Requests to pets v1 differ from its reference",
    ]


def test_a_version_that_cannot_be_followed_is_not_held_against_the_one_before(tmp_path, watch, caplog):
    watcher = watch(make_config(tmp_path))
    watcher.follow(draw_reference(50), class_names=CLASS_NAMES, version="v2", package_sha256="cd" * 32)
    watcher.offer(draw_observations(1, dim=0.7, version="v2"))
    wait_until(lambda: not watcher._pending)
    watcher.follow(draw_reference(), class_names=CLASS_NAMES, version="v3", package_sha256="ef" * 32)
    offer_windows(watcher, (1,), version="v3")
    watcher.close()
    assert [window["version"] for window in read_lines(tmp_path / "windows.jsonl")] == ["v3"]
    assert watcher._metrics.value("mlvlab_drift_errors_total") == 1
    assert "50 examples" in caplog.text


def test_offering_goes_on_while_the_detector_hangs_and_what_is_too_much_is_dropped(tmp_path, watch, monkeypatch):
    entered, released = threading.Event(), threading.Event()

    def hang():
        entered.set()
        assert released.wait(60)
        return False

    scripted(monkeypatch, hang)
    watcher = watch(make_config(tmp_path, max_pending=600))
    watcher.offer(draw_observations(1))
    assert entered.wait(60)
    for seed in range(2, 6):
        watcher.offer(draw_observations(seed))
    assert len(watcher._pending) == 600
    assert watcher._metrics.value("mlvlab_monitor_dropped_total") == 2000 - 600
    released.set()
    wait_until(lambda: num_windows(watcher) == 2)
    wait_until(lambda: watcher._judge.num_waiting == 100)
    assert watcher._metrics.value("mlvlab_drift_errors_total") == 0  # a sample is as good
    watcher.close()


def test_work_that_takes_long_is_a_failure(watch, monkeypatch, caplog):
    monkeypatch.setattr(module, "_SLOW_S", 0.05)
    scripted(monkeypatch, lambda: bool(time.sleep(0.06)))
    watcher = watch(make_config())
    offer_windows(watcher, (1,))
    wait_until(lambda: watcher._metrics.value("mlvlab_drift_errors_total") >= 1)
    assert [record.exc_info[0].__name__ for record in caplog.records] == ["SlowError"]


def test_a_million_offers_take_a_bounded_place(watch, monkeypatch):
    blocked = threading.Event()
    monkeypatch.setattr("mlvlab_jax.monitoring.judge.Judge.take", lambda self, seen: blocked.wait(60))
    watcher = watch(make_config(max_pending=50, max_unlabelled=70))
    observations = draw_observations(1, num=100) * 100
    for _ in range(100):
        watcher.offer(observations)
    pending, dropped = len(watcher._pending), watcher._metrics.value("mlvlab_monitor_dropped_total")
    assert pending == 50
    assert len(watcher._unlabelled) == 70
    assert 1_000_000 - dropped - pending <= module._PIECE
    blocked.set()


def test_pixels_that_wait_are_bounded_too(watch, monkeypatch):
    monkeypatch.setattr(module, "_MAX_PENDING_BYTES", 10 * 64)
    blocked = threading.Event()
    monkeypatch.setattr("mlvlab_jax.monitoring.judge.Judge.take", lambda self, seen: blocked.wait(60))
    watcher = watch(make_config())
    watcher.offer(draw_observations(1, num=1))
    wait_until(lambda: not watcher._pending)
    watcher.offer(draw_observations(2, num=100))
    assert len(watcher._pending) == 10
    blocked.set()
    wait_until(lambda: not watcher._pending)
    assert watcher._pending_bytes == 0


def test_a_crashing_detector_costs_its_window_and_no_other(tmp_path, watch, monkeypatch, caplog):
    script = iter([ValueError("one"), ValueError("two"), KeyError("three"), False])

    def say():
        each = next(script)
        if isinstance(each, Exception):
            raise each
        return each

    scripted(monkeypatch, say)
    watcher = watch(make_config(tmp_path))
    started = watcher._metrics.value("mlvlab_drift_last_success_timestamp_seconds")
    for at in range(3):
        watcher.offer(draw_observations(at))
        wait_until(lambda at=at: watcher._metrics.value("mlvlab_drift_errors_total") == at + 1)
    assert watcher._metrics.value("mlvlab_drift_last_success_timestamp_seconds") == started
    offer_windows(watcher, (1,))
    wait_until(lambda: watcher._metrics.value("mlvlab_drift_last_success_timestamp_seconds") > started)
    watcher.close()
    assert [window["num"] for window in read_lines(tmp_path / "windows.jsonl")] == [500]
    assert [record.exc_info[0] for record in caplog.records] == [ValueError, KeyError]


def test_an_offer_of_nonsense_is_counted_and_not_raised(watch, caplog):
    watcher = watch(make_config())
    watcher.offer([None])
    assert watcher._metrics.value("mlvlab_drift_errors_total") == 1


def test_a_disk_that_refuses_keeps_no_alarm_back(tmp_path, watch, monkeypatch, caplog):
    watcher = watch(make_config(tmp_path))

    def refuse(self, records):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlvlab_jax.monitoring.lines.LinesFile.append", refuse)
    offer_windows(watcher, (0.7, 0.7))
    wait_until(lambda: watcher._metrics.value("mlvlab_alerts_total", "sent") == 1)
    wait_until(lambda: watcher._metrics.value("mlvlab_drift_errors_total") == 2)


def test_the_thread_steps_back_behind_the_requests(watch):
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    watcher = watch(make_config())
    expected = min(19, ours + module._NICENESS)
    wait_until(lambda: os.getpriority(os.PRIO_PROCESS, watcher._thread.native_id) == expected)
    assert os.getpriority(os.PRIO_PROCESS, 0) == ours


def test_labels_give_the_live_accuracy_over_a_restart(tmp_path, watch):
    config = make_config(tmp_path)
    watcher = watch(config)
    observations = draw_observations(1, num=20)
    watcher.offer(observations)
    for place, seen in enumerate(observations):
        answered = int(seen.probabilities.argmax())
        watcher.label(seen.request_id, 0, CLASS_NAMES[answered if place % 4 else (answered + 1) % 3])
    watcher.close()
    expected = {"num": 20, "correct": 15, "accuracy": 0.75, "low": 0.5313, "high": 0.8881}
    told = read_json(tmp_path / "live.json")
    assert told == pytest.approx(expected, abs=1e-4)
    assert watcher._metrics.value("mlvlab_labels_total") == 20
    again = watch(config)
    assert again._metrics.value("mlvlab_live_accuracy") == 0.75
    assert again._metrics.value("mlvlab_live_accuracy_low") == told["low"]
    assert again._metrics.value("mlvlab_live_accuracy_high") == told["high"]
    again.follow(draw_reference(), class_names=CLASS_NAMES, version="v2", package_sha256="")
    wait_until(lambda: np.isnan(again._metrics.value("mlvlab_live_accuracy")))
    wait_until(lambda: not (tmp_path / "live.json").exists())


def test_labels_do_not_wait_for_the_end_of_the_traffic(watch, monkeypatch):
    labelled, waiting = threading.Event(), []

    def take_labels(self, labels):
        waiting.append(len(watcher._pending))

    monkeypatch.setattr("mlvlab_jax.monitoring.judge.Judge.take", lambda self, seen: labelled.wait(60))
    watcher = watch(make_config())
    monkeypatch.setattr("mlvlab_jax.monitoring.judge.Judge.take_labels", take_labels)
    watcher.offer(draw_observations(1, num=100))
    watcher.label("r1-0", 0, "cat")
    labelled.set()
    wait_until(lambda: waiting)
    assert waiting == [100 - module._PIECE]


def test_labels_of_nothing_or_of_no_class_are_refused(watch):
    watcher = watch(make_config())
    watcher.offer(draw_observations(1, num=1))
    for request_id, item in (("r1-1", 0), ("r1-0", 1)):
        with pytest.raises(UnknownPredictionError):
            watcher.label(request_id, item, "cat")
    with pytest.raises(UnknownLabelError):
        watcher.label("r1-0", 0, "bird")
    watcher.label("r1-0", 0, "cat")
    with pytest.raises(UnknownPredictionError):  # it has its class
        watcher.label("r1-0", 0, "cat")
    assert watcher._metrics.value("mlvlab_labels_total") == 1


def test_a_folder_has_one_writer(tmp_path, watch):
    config = make_config(tmp_path)
    watch(config)
    with pytest.raises(RunFolderError, match="give another monitoring.folder"):
        watch(config)


def test_a_reference_that_is_too_small_or_a_foreign_file_is_refused_and_leaves_the_folder_free(tmp_path, watch):
    config = make_config(tmp_path)
    with pytest.raises(DataError, match="50 examples"):
        watch(config, reference=draw_reference(50))
    (tmp_path / "alerts.json").write_text("[]")
    with pytest.raises(DataError, match=r"alerts.json: not alerts"):
        watch(config)
    (tmp_path / "alerts.json").unlink()
    (tmp_path / "labels.jsonl").write_text('{"label": 1}\n')
    with pytest.raises(DataError, match=r"labels\.jsonl:1: not a JSON object with label, prediction, version"):
        watch(config)
    (tmp_path / "labels.jsonl").unlink()
    watch(config)


KILLED = """
import os, sys
from pathlib import Path
from mlvlab_jax.monitoring import watcher as module
from mlvlab_jax.monitoring.metrics import MonitorMetrics
from tests.monitoring.observed import *
module._SHARE = 1.0
config = make_config(Path(sys.argv[1]))
told = dict(class_names=CLASS_NAMES, model="pets", version="v1", package_sha256="ab" * 32)
watcher = module.Watcher(draw_reference(), config, metrics=MonitorMetrics(), **told)
for seed in (1, 2):
    watcher.offer(draw_observations(seed, dim=0.7))
wait_until(lambda: watcher._metrics.value("mlvlab_alerts_total", "sent") == 1)
os.kill(os.getpid(), 9)
"""


def test_a_killed_process_leaves_a_folder_to_go_on_with(tmp_path, watch):
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=root, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    with (tmp_path / "windows.jsonl").open("a") as file:
        file.write('{"window": 3, "sta')  # what a machine that lost power may leave
    watcher = watch(make_config(tmp_path))
    assert watcher._metrics.value("mlvlab_drift_alarm") == 1
    offer_windows(watcher, (1, 1))
    wait_until(lambda: watcher._metrics.value("mlvlab_alerts_total", "sent") == 1)  # its end, and no second start
    watcher.close()
    assert [window["window"] for window in read_lines(tmp_path / "windows.jsonl")] == [1, 2, 3, 4]
