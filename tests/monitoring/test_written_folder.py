"""The page of a folder as the monitor itself writes it."""

from mlvlab_jax.monitoring.findings import find_changes
from mlvlab_jax.monitoring.folder import WatchedModel
from mlvlab_jax.monitoring.history import read_history
from mlvlab_jax.monitoring.judge import Judge
from mlvlab_jax.monitoring.live import Label
from mlvlab_jax.monitoring.metrics import MonitorMetrics
from mlvlab_jax.monitoring.page import write_drift_page
from tests.monitoring.observed import CLASS_NAMES, draw_observations, draw_reference, make_config


def test_what_the_monitor_writes_the_page_reads(tmp_path):
    watched = WatchedModel("pets", "v1", "ab" * 32, CLASS_NAMES, draw_reference())
    judge = Judge(watched, make_config(tmp_path), metrics=MonitorMetrics(), note=lambda judged: None)
    history = read_history(tmp_path)
    assert find_changes(history).state == "waiting"
    for seed in (1, 2):
        judge.take(draw_observations(seed))
    assert find_changes(read_history(tmp_path)).state == "same"
    for seed in (3, 4, 5):
        judge.take(draw_observations(seed, dim=0.5))
    judge.take_labels([Label(f"r1-{i}", 0, i % 3, 0, "v1", 1.8e9 + i) for i in range(60)])
    judge.close()

    history = read_history(tmp_path)
    findings = find_changes(history)
    assert (findings.state, findings.since.window, findings.shown.window) == ("alarm", 4, 5)
    assert any(  # all are darker than the darkest bin
        change.startswith("brightness is lower than at training (median below ") for change in findings.changes
    )
    assert (history.live.num, history.live.correct, len(history.labels)) == (60, 20, 60)
    page = write_drift_page(tmp_path).read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "33.3\u00a0% of 60 labelled answers are right" in page
    assert "no image kept" not in page
