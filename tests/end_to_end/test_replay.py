"""Steps of real runs made again by the command, and what it says where they cannot be."""

import json
import math
import re
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

from mlvlab_jax.data.stream import train_stream
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.loop import run
from mlvlab_jax.engine.recovery import list_steps
from mlvlab_jax.errors import NonFiniteError
from mlvlab_jax.files import exclusive_writer
from mlvlab_jax.replay import main
from mlvlab_jax.tracking.jsonl import JsonlTracker
from tests.browsing import Document, text_of
from tests.conftest import merge, tiny_config
from tests.engine.test_integrity import flip
from tests.engine.test_replay import CHANGES
from tests.engine.test_updates import several

CONFIG = several(1, **merge(CHANGES, {"checkpoint": {"every_steps": 3, "keep_last": 9}, "compile_cache": False}))


def train(config, folder, **options):
    return run(config, workdir=folder, tracker=JsonlTracker(folder / "metrics.jsonl"), **options)


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """A run stopped at step 6, with a record of step 4."""
    folder = tmp_path_factory.mktemp("runs") / "cut"
    train(CONFIG, folder, stop_requested=lambda step: step == 6)
    return folder


@pytest.fixture(scope="module")
def resumed(cut):
    """The same gone on with to its end, step 14; the last record is of step 12."""
    folder = shutil.copytree(cut, cut.parent / "resumed")
    train(CONFIG, folder)
    return folder


@pytest.fixture
def copy(resumed, tmp_path):
    return shutil.copytree(resumed, tmp_path / "copy")


@pytest.fixture
def replay(capsys):
    def call(folder, step, *arguments):
        code = main(["--workdir", str(folder), "--step", str(step), *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def list_files(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def check_equal(folder, out, *, record):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    logged = next(found for found in map(json.loads, lines) if found["step"] == record and "train/loss" in found)
    for name in ("train/loss", "train/accuracy", "train/grad_norm", "train/learning_rate"):
        assert re.search(
            rf"^{name} +{re.escape(f'{logged[name]!r}')} +{re.escape(f'{logged[name]!r}')} +equal$", out, re.M
        )
    assert "is equal, bit for bit" in out


@pytest.mark.parametrize(
    ("which", "step", "record"),
    [
        ("cut", 1, 4),
        ("cut", 4, 4),
        ("resumed", 1, 4),
        ("resumed", 7, 8),
        ("resumed", 12, 12),
    ],
)
def test_the_window_of_a_step_comes_out_as_logged_before_and_after_a_resume(which, step, record, cut, resumed, replay):
    folder = {"cut": cut, "resumed": resumed}[which]
    saved = [number for number in list_steps(folder / "checkpoints") if number < step]
    begin = f"the checkpoint of step {saved[-1]}" if saved else "the initial state"
    before = list_files(folder)
    code, out, err = replay(folder, step)
    assert (code, err) == (0, "")
    assert f"step {step}, made again from {begin}" in out
    check_equal(folder, out, record=record)
    experiment = make_experiment(CONFIG)
    options = {"batch_size": 16, "num_steps": step, "seed": 0, "first_step": step - 1}
    ids = next(train_stream(experiment.data.train, **options))["example_id"].tolist()
    assert f"examples {' '.join(map(str, ids))}\n" in out
    assert list_files(folder) == before


@pytest.mark.parametrize(("which", "step"), [("cut", 6), ("resumed", 14)])
def test_a_step_that_no_record_covers_is_made_all_the_same(which, step, cut, resumed, replay):
    code, out, _ = replay({"cut": cut, "resumed": resumed}[which], step)
    assert code == 0
    assert re.search(r"^loss [\d.]+  grad norm [\d.]+  learning rate [\d.e-]+$", out, re.M)
    assert f"no record in metrics.jsonl covers step {step}: the run stopped before" in out


def test_a_run_that_goes_on_is_read_without_its_lock(tmp_path, replay):
    said = []

    def look(step):
        if step == 10:
            # A thread of its own: the loop forbids transfers in its.
            thread = threading.Thread(target=lambda: said.append(replay(tmp_path, 7)))
            thread.start()
            thread.join()
        return False

    with exclusive_writer(tmp_path):
        assert train(CONFIG, tmp_path, stop_requested=look).progress.step == 14
    ((code, out, _),) = said
    assert code == 0
    check_equal(tmp_path, out, record=8)


def test_a_checkpoint_with_a_changed_bit_is_passed_over_and_left_where_it_is(copy, replay):
    saved = [step for step in list_steps(copy / "checkpoints") if step < 8]
    array = max((copy / "checkpoints" / str(saved[-1])).rglob("*"), key=lambda path: path.stat().st_size)
    flip(array, 4 * array.stat().st_size)
    files = list_files(copy)
    code, out, err = replay(copy, 8)
    assert code == 0
    assert re.search(rf"^note: passed over: .*/{saved[-1]}: the checkpoint is damaged: .*other bytes", err, re.M)
    assert f"made again from the checkpoint of step {saved[-2]}\n" in out
    check_equal(copy, out, record=8)
    assert list_files(copy) == files


def test_another_number_than_the_logged_one_ends_with_70_and_both(copy, replay):
    path = copy / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    record = next(record for record in records if record["step"] == 12 and "train/loss" in record)
    true = record["train/loss"]
    record["train/loss"] = math.nextafter(true, math.inf)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    code, out, _ = replay(copy, 11)
    assert code == 70
    assert re.search(
        rf"^train/loss +{re.escape(repr(record['train/loss']))} +{re.escape(repr(true))} +NOT EQUAL$", out, re.M
    )
    assert re.search(r"^train/accuracy .* equal$", out, re.M)
    assert "the log window that holds step 11 is not equal" in out


def test_what_may_change_bits_is_noted_and_other_data_are_refused(copy, replay):
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["sessions"][-1]["versions"]["jax"] = "0.0.1"
    manifest["sessions"][-1]["devices"] = ["tpu:0 TPU v6"]
    path.write_text(json.dumps(manifest))
    code, _, err = replay(copy, 12)
    assert code == 0
    assert re.search(r"^note: bits may differ: devices.*TPU v6", err, re.M)
    assert re.search(r"^note: bits may differ: versions.jax: 0.0.1 in the run, \d", err, re.M)
    manifest["data"]["train"] = "0" * 64
    path.write_text(json.dumps(manifest))
    code, out, err = replay(copy, 12)
    assert (code, out) == (65, "")
    assert "the run was made of other data" in err


@pytest.mark.parametrize(
    ("folder", "step", "expected"),
    [
        ("RUN", 0, "--step 0: expected 1 or more"),
        ("RUN", 15, "--step 15: the run in RUN went to step 14; expected one up to that"),
        ("none", 1, "none: no config.yaml, so no run; check --workdir"),
        ("..", 1, "no config.yaml, so no run"),
    ],
)
def test_what_cannot_be_made_again_is_said(folder, step, expected, resumed, replay, monkeypatch):
    monkeypatch.chdir(resumed)
    code, out, err = replay(str(resumed) if folder == "RUN" else folder, step)
    assert (code, out) == (64, "")
    assert expected.replace("RUN", str(resumed)) in err


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """A run on red and blue images, one of the blue ones among the red; and the last step that takes that."""
    folder, rng = tmp_path_factory.mktemp("poisoned"), np.random.default_rng(0)
    for k in range(64):
        name, is_red = ("blue", "red")[k % 2], k % 2 and k != 21
        file = folder / "images" / name / ("<b>odd.png" if k == 21 else f"{k}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 60, (8, 8, 3), np.uint8)
        pixels[..., 0 if is_red else 2] += np.uint8(180)
        Image.fromarray(pixels).save(file)
    changes = {
        "model": {"name": "cnn", "params": {"widths": [8], "convs_per_stage": 1, "dropout": 0.0}},
        "data": {"name": "image_folder", "params": {"path": str(folder / "images")}},
        "pipeline": {"preprocess": {"size": [8, 8]}, "validation_fraction": 0.0},
        "training": {"num_epochs": 8, "learning_rate": 0.03},
        "schedule": {"name": "constant"},
        "compile_cache": False,
    }
    config = tiny_config(**changes)
    train(config, folder / "run")
    data = make_experiment(config).data
    stream = train_stream(data.train, batch_size=16, num_steps=32, seed=0)
    odd = next(k for k in range(64) if data.train.source.name(k).endswith("odd.png"))
    steps = [step for step, batch in enumerate(stream, start=1) if odd in batch["example_id"].tolist()]
    return folder / "run", steps[-1], odd


def test_a_poisoned_example_is_found_on_top_with_its_name_and_images(poisoned, replay):
    folder, step, odd = poisoned
    code, out, _ = replay(folder, step, "--per-example")
    assert code == 0
    assert re.search(rf"^ 1 +{odd} .* red +red/<b>odd.png", out, re.M)
    written = json.loads((folder / "replay" / f"step-{step}" / "examples.json").read_text())
    rows = written["examples"]
    assert (written["step"], len(rows), rows[0]["id"], rows[0]["label"]) == (step, 16, odd, "red")
    assert rows[0]["name"].endswith("red/<b>odd.png")
    assert rows[0]["target"] == {"red": 1.0}
    norms = [row["grad_norm"] for row in rows]
    assert norms == sorted(norms, reverse=True)
    assert norms[0] > 2 * norms[1]
    loss = float(re.search(r"^loss ([\d.]+)", out, re.M)[1])
    np.testing.assert_allclose(np.mean([row["loss"] for row in rows]), loss, rtol=1e-4)
    page = (folder / "replay" / f"step-{step}" / "index.html").read_text()
    document = Document(page)
    assert (len(document.all("figure")), len(document.all("img"))) == (16, 32)
    assert all(each["src"].startswith("data:image/png;base64,") for each in document.all("img"))
    assert document.all("script") == document.all("link") == []
    assert "<b>odd" not in page
    first = text_of(re.search(r"<figure>.*?</figure>", page, re.S)[0])
    assert first.startswith("red #1 as given as stored gradient ")


def test_of_a_step_that_lost_its_loss_the_first_cause_is_named(tmp_path, replay):
    net = {"name": "cnn", "params": {"widths": [4], "convs_per_stage": 1}}
    config = tiny_config(model=net, training={"learning_rate": 1e30}, compile_cache=False)
    with pytest.raises(NonFiniteError, match="step 2: "):
        train(config, tmp_path)
    code, out, _ = replay(tmp_path, 2, "--per-example")
    assert code == 0
    assert "\nloss nan  grad norm nan" in out
    assert re.search(r"^  losses of 16 of 16 examples, first \d+ \(synthetic\S*\[\d+\]\)$", out, re.M)
    assert re.search(
        r"^  gradients of \d+ parameters, in forward order first stage0_0/kernel, last head/bias$", out, re.M
    )
    assert "before the step" not in out
    assert replay(tmp_path, 1)[1].count("nan") == 0
    page = (tmp_path / "replay" / "step-2" / "index.html").read_text()
    assert "Examples whose loss is not finite: 16; they come first." in page
