import json

import pytest

from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.monitoring.history import read_history
from tests.monitoring.folders import make_labels, make_reference, make_window, make_windows, write_folder


def test_a_folder_is_read_as_it_was_written(tmp_path):
    history = read_history(write_folder(tmp_path))
    assert [window.window for window in history.windows] == list(range(1, 16))
    assert history.windows[0].features["brightness"] == tuple(make_windows()[0]["features"]["brightness"])
    assert sum(history.windows[0].features["brightness"]) == history.windows[0].num == 500
    assert history.reference.features["brightness"].edges[-1] == 255
    assert [window.alarm for window in history.windows[-4:]] == [False, True, True, True]
    assert len(history.labels) == history.live.num == 120
    assert history.torn == ()


def test_what_is_not_there_yet_is_empty(tmp_path):
    folder = write_folder(tmp_path, windows=[], labels=[])
    (folder / "windows.jsonl").unlink()
    history = read_history(folder)
    assert history.windows == history.labels == ()
    assert history.live is None


def test_a_line_that_is_being_written_is_left_out_and_said(tmp_path):
    folder = write_folder(tmp_path)
    for name in ("windows", "labels"):
        with (folder / f"{name}.jsonl").open("a") as file:
            file.write('{"window": 16, "st')
    history = read_history(folder)
    assert len(history.windows) == 15
    assert len(history.labels) == 120
    assert history.torn == ("windows.jsonl", "labels.jsonl")


def test_keys_of_a_later_version_are_left_out(tmp_path):
    folder = write_folder(tmp_path, windows=[make_window(1) | {"later": 1}], reference=make_reference() | {"later": 1})
    assert read_history(folder).windows[0].window == 1


def test_a_folder_nothing_was_watched_in_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no reference.json, so nothing was watched there; check --folder"):
        read_history(tmp_path)
    with pytest.raises(ConfigError, match="no reference.json"):
        read_history(tmp_path / "missing")


BROKEN_WINDOWS = {
    "start": "yesterday",
    "num": 500.5,
    "rejected": 1,
    "alarm": None,
    "prediction": [-1] * 10,
    "tests": [{"test": "mmd"}],
    "images": [make_window(1, num_images=1)["images"][0] | {"file": "../../etc/passwd.png"}],
}


@pytest.mark.parametrize("key", BROKEN_WINDOWS)
def test_a_damaged_window_is_named_by_line_and_key(tmp_path, key):
    windows = [make_window(1), make_window(2) | {key: BROKEN_WINDOWS[key]}]
    folder = write_folder(tmp_path, windows=windows, pictures=False)
    with pytest.raises(DataError, match=rf"windows\.jsonl:2: {key}.*; expected what the monitor"):
        read_history(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": {"brightness": [500]}}, "window 1: features.brightness: 1 bins, not those of reference.json"),
        ({"features": {"hue": [500]}}, "window 1: features.hue: 1 bins, not those"),
        ({"prediction": [500]}, "window 1: counts of 1 classes; expected 10"),
        ({"images": [make_window(1, num_images=1)["images"][0] | {"prediction": 10}]}, "a class beyond the 10"),
    ],
)
def test_a_window_that_does_not_fit_the_reference_is_refused(tmp_path, change, message):
    folder = write_folder(tmp_path / "a", windows=[make_window(1) | change], pictures=False)
    with pytest.raises(DataError, match=message):
        read_history(folder)
    other = make_window(1, version="another") | change
    assert read_history(write_folder(tmp_path / "b", windows=[other], pictures=False)).windows[0].version == "another"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2; expected 1"),
        ({"class_names": ["a"]}, "counts of 10 classes and 1 names"),
        ({"features": {"brightness": {"edges": [0, 1], "counts": [1, 2]}}}, "2 edges and 2 counts"),
        ({"features": {"brightness": {"edges": [0, None], "counts": [1]}}}, r"features\.brightness\.edges\.1: "),
        ({"num": "many"}, "num: "),
    ],
)
def test_a_damaged_reference_is_refused(tmp_path, change, message):
    folder = write_folder(tmp_path, reference=make_reference() | change, windows=[])
    with pytest.raises(DataError, match=rf"reference\.json: .*{message}"):
        read_history(folder)


def test_labels_of_other_versions_are_left_out(tmp_path):
    labels = [*make_labels(30), make_labels(1)[0] | {"version": "another", "label": 10**6}]
    assert len(read_history(write_folder(tmp_path, labels=labels)).labels) == 30
    labels[0] |= {"label": 10}
    with pytest.raises(DataError, match=r"labels\.jsonl: version 8f3a11c09b2e: a class beyond the 10 there are"):
        read_history(write_folder(tmp_path, labels=labels))


def test_other_damaged_files_are_refused(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "live.json").write_text(json.dumps({"num": 1, "correct": 1, "accuracy": 1.2, "low": 0, "high": 1}))
    with pytest.raises(DataError, match=r"live\.json: accuracy"):
        read_history(folder)
    (folder / "live.json").unlink()
    (folder / "labels.jsonl").write_text("\x00\n")
    with pytest.raises(DataError, match=r"labels\.jsonl:1: "):
        read_history(folder)
    (folder / "labels.jsonl").unlink()
    (folder / "windows.jsonl").unlink()
    (folder / "windows.jsonl").mkdir()
    with pytest.raises(DataError, match=r"windows\.jsonl: cannot be read: Is a directory"):
        read_history(folder)
