import dataclasses
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.load import compute_hash, load_config
from mlvlab_jax.errors import ConfigError, MlvlabError, RunFolderError
from mlvlab_jax.files import exclusive_writer
from mlvlab_jax.sweeps.folder import Sweep
from mlvlab_jax.sweeps.results import make_table
from mlvlab_jax.sweeps.runner import run_sweep
from mlvlab_jax.sweeps.space import SweepSpace, configure
from mlvlab_jax.sweeps.study import open_study, unfinished_trials
from tests.conftest import ROOT, tiny_config
from tests.sweeps.fake_trainer import FAILS, HANGS, NUM_EVALUATIONS, SLOW, planted_accuracy

FAKE = Path(__file__).with_name("fake_trainer.py")
TRAINER = (sys.executable, "-S", str(FAKE))
RATES = (5, 1, 4, 2, 3, 6)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("mlvlab_jax.sweeps.runner._POLL_S", 0.02)


def make_sweep(folder, *, rates=RATES, sampler="grid", behaviour=None, **changes):
    """A sweep over planted qualities, in the random order of its grid."""
    space = {"training.learning_rate": {"values": list(rates)}}
    if behaviour is not None:
        space["training.label_smoothing"] = {"values": [behaviour]}
    tree = {"sampler": {"name": sampler, "seed": 1}, "pruner": {"name": "none"}, "space": space, **changes}
    return Sweep(folder, tiny_config(), params_from(SweepSpace, tree))


def run(sweep, num_trials=None, **kwargs):
    return run_sweep(sweep, num_trials=sweep.space.num_trials(num_trials), trainer=TRAINER, **kwargs)


def rate_of(trial):
    return trial.params["training.learning_rate"]


def timeless(result):
    return [{**vars(trial), "seconds": 0, "params": rate_of(trial)} for trial in result.trials]


def test_every_trial_is_run_once_and_the_best_is_written_down(tmp_path):
    sweep = make_sweep(tmp_path / "s")
    notes = []
    result = run(sweep, note=notes.append)
    assert result.ended == "finished"
    assert sorted(map(rate_of, result.trials)) == sorted(RATES)
    for trial in result.trials:
        curve = [planted_accuracy(rate_of(trial), i) for i in range(1, NUM_EVALUATIONS + 1)]
        assert (trial.state, trial.evaluations, trial.value, trial.step) == ("complete", curve, curve[-1], 40)
    assert (rate_of(result.best), result.best.value) == (6, 0.1)
    best = load_config([tmp_path / "s" / "best.yaml"]).config
    assert best == configure(sweep.base, result.best.params)
    assert best.training.learning_rate == 6
    tree = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert (tree["schema"], tree["ended"], len(tree["trials"])) == (1, "finished", 6)
    assert tree["best"]["config_hash"] == compute_hash(best)
    assert notes[0] == f"trial 0: training.learning_rate={rate_of(result.trials[0])}"
    assert notes[1].startswith(f"trial 0: complete {result.trials[0].value:.4f} at step 40 in ")


def test_lower_is_better_where_the_space_says_so(tmp_path):
    result = run(make_sweep(tmp_path, mode="min"))
    assert rate_of(result.best) == 1
    assert [rate_of(trial) for trial in result.ranked()] == sorted(RATES)


def test_a_trial_below_the_median_is_given_up_there(tmp_path):
    warmup = {"name": "median", "warmup_trials": 2, "warmup_evaluations": 2}
    result = run(make_sweep(tmp_path, pruner=warmup))
    completed = []
    for trial in result.trials:
        rate = rate_of(trial)
        worse = len(completed) >= 2 and rate < statistics.median(completed)
        num = 2 if worse else NUM_EVALUATIONS
        assert (trial.state, len(trial.evaluations)) == ("pruned" if worse else "complete", num)
        assert (trial.step, trial.value) == (10 * num, planted_accuracy(rate, num))
        if not worse:
            completed.append(rate)
    assert len(completed) < len(RATES)
    assert [trial.state for trial in result.ranked()] == ["complete"] * len(completed) + ["pruned"] * (
        6 - len(completed)
    )


def test_a_given_up_trial_is_told_to_stop(tmp_path):
    pruner = {"name": "median", "warmup_trials": 1, "warmup_evaluations": 2}
    kept, given_up = run(make_sweep(tmp_path, rates=(2, 1), behaviour=HANGS, pruner=pruner)).trials
    assert (kept.state, rate_of(kept), given_up.state) == ("complete", 2, "pruned")
    assert len((tmp_path / given_up.workdir / "metrics.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / given_up.workdir / "summary.json").exists()


def test_a_failed_trial_is_recorded_and_the_sweep_goes_on(tmp_path):
    values = {"training.learning_rate": {"values": [1, 2]}, "training.label_smoothing": {"values": [0.0, FAILS]}}
    result = run(make_sweep(tmp_path, space=values))
    assert sorted(trial.state for trial in result.trials) == ["complete", "complete", "failed", "failed"]
    failed = next(trial for trial in result.trials if trial.state == "failed")
    assert failed.params["training.label_smoothing"] == FAILS
    assert (failed.exit_code, failed.error, failed.value) == (65, "exit code 65: out of paper", None)
    assert rate_of(result.best) == 2
    assert len(run(make_sweep(tmp_path, space=values)).trials) == 4  # failed ones are not tried again


def test_a_sweep_whose_first_trials_all_fail_stops(tmp_path):
    with pytest.raises(MlvlabError, match="no trial was completed and 3 failed; trial 2: exit code 65: out of paper"):
        run(make_sweep(tmp_path, behaviour=FAILS))
    assert len(json.loads((tmp_path / "sweep.json").read_text())["trials"]) == 3


@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_more_trials_later_are_the_trials_of_one_long_sweep(sampler, tmp_path):
    rules = {"sampler": sampler, "pruner": {"name": "median", "warmup_trials": 2}}
    whole = run(make_sweep(tmp_path / "a", **rules), 6)
    run(make_sweep(tmp_path / "b", **rules), 2)
    parts = run(make_sweep(tmp_path / "b", trials=4, **rules), 6)
    assert timeless(parts) == timeless(whole)
    assert (tmp_path / "a" / "best.yaml").read_bytes() == (tmp_path / "b" / "best.yaml").read_bytes()
    for trial in parts.trials:
        assert (tmp_path / "b" / trial.workdir / "starts").read_text() == "start\n"
        assert (tmp_path / "b" / trial.workdir / "memory").read_text() == "all"


def test_a_stopped_sweep_goes_on_with_its_trial(tmp_path):
    sweep = make_sweep(tmp_path / "s", behaviour=HANGS, rates=(1, 2))
    second = tmp_path / "s" / "trials" / "0001" / "metrics.jsonl"
    notes = []
    stopped = run(sweep, stop_requested=second.exists, note=notes.append)
    assert notes[-1] == "trial 1: stopped, to be gone on with"
    assert stopped.ended == "interrupted"
    assert [trial.state for trial in stopped.trials] == ["complete", "unfinished"]
    assert len(second.read_text().splitlines()) <= 2
    (left,) = unfinished_trials(open_study(tmp_path / "s", sweep.space), sweep.space)
    assert left.user_attrs["seconds"] == stopped.trials[1].seconds
    left.set_user_attr("seconds", 1000.0)
    again = run(sweep)
    assert again.ended == "finished"
    assert timeless(again) == timeless(run(make_sweep(tmp_path / "whole", rates=(1, 2), behaviour=0.0)))
    assert (second.parent / "starts").read_text() == "start\n" * 2
    assert again.trials[1].seconds > 1000


DRIVER = """
import sys
from pathlib import Path
from tests.sweeps.test_runner import make_sweep, run
run(make_sweep(Path(sys.argv[1]), behaviour=0.25, rates=(1, 2)))
"""


def test_a_killed_sweep_goes_on_with_its_trial_and_counts_nothing_twice(tmp_path):
    sweep = make_sweep(tmp_path / "s", behaviour=HANGS, rates=(1, 2))
    second = tmp_path / "s" / "trials" / "0001"
    with subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path / "s")], cwd=ROOT) as driver:
        deadline = time.monotonic() + 60
        while not (second / "metrics.jsonl").exists() and driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        driver.kill()
        os.kill(int((second / "pid").read_text()), signal.SIGKILL)
    result = run(sweep)
    assert [trial.state for trial in result.trials] == ["complete", "complete"]
    assert timeless(result) == timeless(run(make_sweep(tmp_path / "whole", rates=(1, 2), behaviour=0.0)))
    starts = [(tmp_path / "s" / trial.workdir / "starts").read_text().count("start") for trial in result.trials]
    assert starts == [1, 2]


def test_several_trials_run_at_a_time(tmp_path):
    result = run(make_sweep(tmp_path, behaviour=SLOW, rates=(1, 2, 3)), num_jobs=3)
    assert sorted(map(rate_of, result.trials)) == [1, 2, 3]
    starts = [(tmp_path / trial.workdir / "pid").stat().st_mtime for trial in result.trials]
    ends = [(tmp_path / trial.workdir / "summary.json").stat().st_mtime for trial in result.trials]
    assert max(starts) < min(ends)
    assert {(tmp_path / trial.workdir / "memory").read_text() for trial in result.trials} == {"0.30"}


CHANGES = {
    "values": ({"rates": (1, 2)}, {}, r"space\.training\.learning_rate\.values: \[5, 1, 4, 2, 3, 6\] -> \[1, 2\]"),
    "pruner": ({"pruner": {"name": "median"}}, {}, "pruner.name: 'none' -> 'median'"),
    "configuration": ({}, {"seed": 9}, "seed: 0 -> 9"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_space_or_configuration_in_the_folder_is_refused(name, tmp_path):
    space, config, expected = CHANGES[name]
    run(make_sweep(tmp_path), 1)
    changed = dataclasses.replace(make_sweep(tmp_path, **space), base=tiny_config(**config))
    with pytest.raises(ConfigError, match=expected):
        run(changed)


def test_a_folder_of_something_else_or_of_a_live_sweep_is_refused(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").touch()
    with pytest.raises(ConfigError, match=r"holds \['config.yaml'\] but no sweep"):
        run(make_sweep(tmp_path / "other"))
    with exclusive_writer(tmp_path / "held"), pytest.raises(RunFolderError, match="is being written by pid"):
        run(make_sweep(tmp_path / "held"))


def test_a_metric_that_no_run_measures_stops_the_sweep(tmp_path):
    with pytest.raises(ConfigError, match="'validation/acuracy' is not measured; did you mean 'validation/accuracy'"):
        run(make_sweep(tmp_path, metric="validation/acuracy"))


def test_a_trial_another_process_still_writes_stops_the_sweep(tmp_path):
    busy = (
        sys.executable,
        "-c",
        "import sys; sys.exit('written by pid 7') if False else (print('written by pid 7'), sys.exit(73))",
    )
    sweep = make_sweep(tmp_path)
    with pytest.raises(RunFolderError, match="trial 0: written by pid 7"):
        run_sweep(sweep, num_trials=1, trainer=busy)
    assert run(sweep, 1).trials[0].state == "complete"


def test_the_table_is_sorted_by_the_metric(tmp_path):
    result = run(make_sweep(tmp_path), 3)
    console = Console(width=100, file=io.StringIO())
    console.print(make_table(result))
    rows = [line.split() for line in console.file.getvalue().splitlines() if "complete" in line]
    assert [float(row[2]) for row in rows] == sorted((trial.value for trial in result.trials), reverse=True)
    assert [int(row[0]) for row in rows] == [trial.number for trial in result.ranked()]
    assert [row[4] for row in rows] == [str(rate_of(trial)) for trial in result.ranked()]
