"""Means of runs: what is computed, what is left out, what is refused, and that the result is a run."""

import json

import jax
import numpy as np
import pytest

from mlvlab_jax.cli import main as mlvlab
from mlvlab_jax.config.load import to_yaml
from mlvlab_jax.engine.checkpoint import CheckpointStore
from mlvlab_jax.engine.loop import run
from mlvlab_jax.evaluation.soup import Ingredient, average, cook
from mlvlab_jax.models.nets.api import Variables
from mlvlab_jax.package.load import load_package
from tests.conftest import RecordingTracker, tiny_config


def train(folder, name, **changes):
    config = tiny_config(training={"num_epochs": 2, "ema_decay": 0.8, **changes.pop("training", {})}, **changes)
    run(config, workdir=folder / name, tracker=RecordingTracker())
    return folder / name


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three that differ in how they were trained; the last has not learnt anything."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        train(folder, "a"),
        train(folder, "b", training={"learning_rate": 0.005}, schedule={"name": "cosine"}),
        train(folder, "c", training={"learning_rate": 1e-6}),
    ]


def read(workdir, step=None):
    config = tiny_config()
    with CheckpointStore(workdir / "checkpoints", config.checkpoint, mode="min", read_only=True) as store:
        return store.read_arrays(store.resolve(step or "best"))


def test_the_mean_is_that_of_the_evaluated_weights(runs, tmp_path, capsys):
    out = tmp_path / "soup"
    assert mlvlab(["soup", *map(str, runs), "--workdir", str(out)]) == 0
    told = capsys.readouterr().out
    assert "mean of 3: validation loss " in told
    made, parts = read(out), [read(workdir) for workdir in runs]
    for name in [name for name in made if name.startswith("ema/")]:
        np.testing.assert_allclose(made[name], np.mean([part[name] for part in parts], axis=0), rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(made[name], made[name.replace("ema/", "variables/")])
    noted = json.loads((out / "manifest.json").read_text())["weights"]["soup"]
    assert {each["run"] for each in noted} == set(map(str, runs))


def test_it_can_be_evaluated_and_packaged_and_is_finished(runs, tmp_path, capsys):
    out = tmp_path / "soup"
    assert mlvlab(["soup", *map(str, runs[:2]), "--workdir", str(out)]) == 0
    assert mlvlab(["evaluate", "--workdir", str(out), "--split", "validation", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    summary = json.loads((out / "summary.json").read_text())
    assert measured["step"] == summary["best"]["step"]
    assert mlvlab(["package", "--workdir", str(out)]) == 0
    assert "mean of 2 runs" in (out / "package" / "README.md").read_text()
    assert len(load_package(out / "package").manifest.weights["soup"]) == 2


def test_greedily_what_makes_it_worse_is_left_out(runs, tmp_path, capsys):
    out = tmp_path / "soup"
    assert mlvlab(["soup", *map(str, runs), "--workdir", str(out), "--greedy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    values = [float(line.split("validation loss ")[1].split()[0]) for line in lines[:4]]
    assert lines[2].endswith("left out")
    assert values[3] <= min(values[:3])


def test_greedy_order_and_ties():
    def ingredient(name, value, level):
        return Ingredient(name, 1, Variables({"w": np.full(2, level, np.float32)}, {}), value)

    def measure(variables):
        return float(-abs(variables.params["w"][0] - 2.0))

    best, far, near = ingredient("best", -0.5, 1.5), ingredient("far", -6.0, 8.0), ingredient("near", -0.8, 2.8)
    soup = cook([far, near, best], measure, greedy=True, higher=True)
    assert [each.workdir for each in soup.used] == ["best", "near"]
    np.testing.assert_allclose(soup.variables.params["w"], 2.15)
    assert soup.value == pytest.approx(-0.15)
    whole = cook([far, near, best], measure, greedy=False, higher=True)
    np.testing.assert_allclose(whole.variables.params["w"], (8.0 + 2.8 + 1.5) / 3)
    counts = Variables({}, {"n": np.int32(3)})
    assert average([counts, Variables({}, {"n": np.int32(5)})]).state["n"] == 3


def test_others_are_refused(runs, tmp_path, capsys):
    other = train(tmp_path, "seed", seed=4)
    adapted = tmp_path / "adapted"
    adapted.mkdir()
    lora = tiny_config(training={"lora": {"kernels": "kernel"}})
    (adapted / "config.yaml").write_text(to_yaml(lora))
    out = tmp_path / "out"
    for words, given in {
        f"{other}: seed: 0 -> 4": [runs[0], other],
        "was trained with adapters": [runs[0], adapted],
        "no config.yaml, so no run": [runs[0], tmp_path / "none"],
    }.items():
        assert mlvlab(["soup", *map(str, given), "--workdir", str(out)]) == 64
        assert words in capsys.readouterr().err
        assert not out.exists()
    assert mlvlab(["soup", *map(str, runs[:2]), "--workdir", str(runs[0])]) == 64
    assert "holds a run; expected a new folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        mlvlab(["soup", str(runs[0]), "--workdir", str(out)])
    assert "1 run; expected two or more" in capsys.readouterr().err
    assert jax.device_count() == 8
