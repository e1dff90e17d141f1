import datetime
import json
import os
import stat
import threading
import time

import numpy as np
import pytest

from mlvlab_jax.config.monitoring import RecordingConfig
from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.monitoring import recorder as module
from mlvlab_jax.monitoring.recorder import Recorder, is_sampled, read_recorded

CLASSES = ("cat", "dog")
HALVES = np.array([0.1, 0.9], np.float32)


def open_recorder(folder, *, share=1.0, **changes):
    config = RecordingConfig(folder=str(folder), share=share, **changes)
    return Recorder(config, model="pets", version="v1", class_names=CLASSES)


def files(folder):
    return sorted(path for path in folder.rglob("*.request"))


def test_a_recorded_request_is_read_as_it_came(tmp_path):
    before = time.time()
    recorder = open_recorder(tmp_path / "kept")
    body = bytes(range(256)) + b"\n\n{}\n"
    recorder.record("../a/id\n", "image/jpeg; q=1", body, HALVES)
    recorder.switch(version="v2", class_names=("dog", "emu", "cat"))
    recorder.record("second", "image/png", b"", np.array([0.25, 1 / 3, 5 / 12], np.float32))
    recorder.close()
    first, second = read_recorded(tmp_path / "kept")
    assert (first.request_id, first.content_type, first.body) == ("../a/id\n", "image/jpeg", body)
    assert (first.model, first.version, first.class_names) == ("pets", "v1", CLASSES)
    assert before <= first.time_s <= time.time()
    assert first.probabilities.dtype == np.float32
    np.testing.assert_array_equal(first.probabilities, HALVES)
    assert (second.version, second.class_names, second.body) == ("v2", ("dog", "emu", "cat"), b"")
    np.testing.assert_array_equal(second.probabilities, np.array([0.25, 1 / 3, 5 / 12], np.float32))
    assert recorder.dropped == 0


def test_the_head_of_a_file_is_json_and_its_rest_is_the_body(tmp_path):
    recorder = open_recorder(tmp_path)
    recorder.record("a", "image/png", b"\x89PNG\n1", HALVES)
    recorder.close()
    head, _, body = files(tmp_path)[0].read_bytes().partition(b"\n")
    assert body == b"\x89PNG\n1"
    assert json.loads(head)["probabilities"] == [0.1, 0.9]  # and not 0.10000000149011612
    assert json.loads(head).keys() == {
        *("request_id", "time", "content_type", "model", "version", "classes", "bytes", "probabilities")
    }


def test_the_folder_is_private_even_if_it_was_not(tmp_path):
    folder = tmp_path / "kept"
    folder.mkdir(mode=0o755)
    recorder = open_recorder(folder)
    recorder.record("a", "image/png", b"1", HALVES)
    recorder.close()
    for path in (folder, files(folder)[0].parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_the_sample_is_of_the_stated_share_and_the_same_every_time(tmp_path):
    names = [f"request-{number}" for number in range(20_000)]
    chosen = [name for name in names if is_sampled(name, share=0.1)]
    assert abs(len(chosen) - 2000) < 5 * (20_000 * 0.1 * 0.9) ** 0.5
    assert set(chosen) <= {name for name in names if is_sampled(name, share=0.2)}
    assert all(is_sampled(name, share=1.0) for name in names)
    recorder = open_recorder(tmp_path, share=0.1)
    for name in names[:500]:
        recorder.record(name, "image/png", b"1", HALVES)
    recorder.close()
    recorded = [request.request_id for request in read_recorded(tmp_path)]
    assert recorded == [name for name in chosen if name in names[:500]]


def test_the_oldest_go_when_the_folder_is_full(tmp_path):
    recorder = open_recorder(tmp_path, max_mib=1)
    body = bytes(300_000)  # three fit
    for name in "abcde":
        recorder.record(name, "image/png", body, HALVES)
    recorder.record("giant", "image/png", bytes(2**20), HALVES)
    recorder.close()
    assert [request.request_id for request in read_recorded(tmp_path)] == ["c", "d", "e"]
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 2**20
    assert recorder.dropped == 1  # the giant
    again = open_recorder(tmp_path, max_mib=1)
    again.record("f", "image/png", body, HALVES)
    again.close()
    assert [request.request_id for request in read_recorded(tmp_path)] == ["d", "e", "f"]


def make_old(folder, *, days):
    """Dates the one recorded request back."""
    path = files(folder)[-1]
    day = datetime.date.fromisoformat(path.parent.name) - datetime.timedelta(days=days)
    (folder / day.isoformat()).mkdir()
    path.rename(folder / day.isoformat() / path.name)


def test_what_is_too_old_goes_at_the_start_and_with_it_what_a_crash_left(tmp_path):
    for days in (9, 2, 0):
        recorder = open_recorder(tmp_path, keep_days=100)
        recorder.record(f"{days} days", "image/png", b"1", HALVES)
        recorder.close()
        if days:
            make_old(tmp_path, days=days)
    halves = [files(tmp_path)[-1].with_name(f".{name}.request.1.tmp") for name in ("old", "new")]
    for half in halves:
        half.write_bytes(b"{")
    os.utime(halves[0], (0, 0))
    open_recorder(tmp_path, keep_days=7).close()
    assert [request.request_id for request in read_recorded(tmp_path)] == ["2 days", "0 days"]
    assert [half.exists() for half in halves] == [False, True]
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


def test_what_is_too_old_goes_while_the_server_runs(tmp_path, monkeypatch):
    recorder = open_recorder(tmp_path)
    recorder.record("a", "image/png", b"1", HALVES)
    recorder.close()
    monkeypatch.setattr(module, "_SWEEP_S", 0.05)
    recorder = open_recorder(tmp_path, keep_days=1)
    make_old(tmp_path, days=3)
    deadline = time.monotonic() + 10
    while files(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    recorder.close()
    assert not files(tmp_path)


def test_a_slow_disk_never_holds_up_the_caller(tmp_path, monkeypatch):
    released = threading.Event()
    write = module.write_atomic
    monkeypatch.setattr(module, "write_atomic", lambda path, data: (released.wait(30), write(path, data)))
    monkeypatch.setattr(module, "_MAX_PENDING_BYTES", 10 * (1000 + module._OVERHEAD_BYTES))
    recorder = open_recorder(tmp_path)
    for number in range(50):
        recorder.record(f"{number:02}", "image/png", bytes(1000), HALVES)
    assert recorder.dropped == 40  # ten may wait, and nothing was written yet
    released.set()
    deadline = time.monotonic() + 10
    while len(files(tmp_path)) < 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    recorder.record("later", "image/png", bytes(1000), HALVES)  # there is room again
    recorder.close()
    expected = [f"{number:02}" for number in range(10)] + ["later"]
    assert [request.request_id for request in read_recorded(tmp_path)] == expected


def test_a_full_disk_is_counted_and_recording_goes_on_after_it(tmp_path, monkeypatch, caplog):
    write, full = module.write_atomic, threading.Event()
    full.set()

    def attempt(path, data):
        if full.is_set():
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(module, "write_atomic", attempt)
    recorder = open_recorder(tmp_path)
    for name in ("a", "b"):
        recorder.record(name, "image/png", b"1", HALVES)
    deadline = time.monotonic() + 10
    while recorder.dropped < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    full.clear()
    recorder.record("c", "image/png", b"1", HALVES)
    recorder.close()
    assert recorder.dropped == 2
    assert [request.request_id for request in read_recorded(tmp_path)] == ["c"]
    assert [record.message.partition("go")[0] for record in caplog.records] == [
        f"{tmp_path}: requests are not recorded, and the server "
    ]


def test_answers_of_another_number_of_classes_are_dropped(tmp_path):
    recorder = open_recorder(tmp_path)
    recorder.record("of the version before", "image/png", b"1", np.ones(3, np.float32) / 3)
    recorder.close()
    assert recorder.dropped == 1
    assert not files(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "head", "classes"])
def test_a_damaged_file_is_named(tmp_path, damage):
    recorder = open_recorder(tmp_path)
    recorder.record("a", "image/png", b"12345", HALVES)
    recorder.close()
    (path,) = files(tmp_path)
    data = path.read_bytes()
    if damage == "classes":
        next(tmp_path.glob("classes-*")).unlink()
    else:
        path.write_bytes(data[:-1] if damage == "cut" else data[1:])
    with pytest.raises(DataError, match=path.name):
        list(read_recorded(tmp_path))


def test_a_folder_without_recorded_requests_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"recording\.folder"):
        read_recorded(tmp_path / "missing")


def test_a_folder_that_is_none_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        open_recorder(tmp_path / "file")
    with pytest.raises(ConfigError, match="null"):
        Recorder(RecordingConfig(), model="m", version="1", class_names=())
