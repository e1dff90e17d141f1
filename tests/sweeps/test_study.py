import itertools

import pytest
from optuna.trial import TrialState

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.sweeps.space import SweepSpace
from mlvlab_jax.sweeps.study import _mend, check_optuna, next_trial, open_study, params_of, unfinished_trials

DIMENSIONS = {
    "training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "training.batch_size": {"low": 32, "high": 256, "step": 32},
    "model.params.widths": {"values": [[16], [16, 32]]},
}
GRID = {"training.batch_size": {"low": 32, "high": 96, "step": 32}, "model.params.widths": {"values": [[16], [16, 32]]}}


def space(sampler="tpe", dimensions=DIMENSIONS, **pruner):
    sampling = {"name": sampler, "seed": 3, "startup_trials": 3}
    return params_from(SweepSpace, {"sampler": sampling, "pruner": pruner, "space": dimensions})


def draw(folder, rules, num, *, sessions):
    """Parameters of `num` trials whose result is their batch size; the study is opened anew `sessions` times."""
    drawn = []
    for _ in range(sessions):
        study = open_study(folder, rules)
        for _ in range(num // sessions):
            trial = next_trial(study, rules)
            drawn.append(params_of(trial.params, rules))
            study.tell(trial, drawn[-1]["training.batch_size"])
    return drawn


@pytest.mark.parametrize(("sampler", "dimensions"), [("tpe", DIMENSIONS), ("random", DIMENSIONS), ("grid", GRID)])
def test_a_sweep_gone_on_with_draws_what_it_would_have(sampler, dimensions, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    rules = space(sampler, dimensions)
    at_once = draw(tmp_path / "a", rules, 6, sessions=1)
    assert draw(tmp_path / "b", rules, 6, sessions=6) == at_once
    texts = {str(params) for params in at_once}
    assert len(texts) == 6  # a sampler begun anew with one seed would draw one trial six times


def test_another_seed_draws_other_trials(tmp_path):
    other = params_from(SweepSpace, {"sampler": {"seed": 4}, "space": DIMENSIONS})
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert draw(tmp_path / "a", space(), 2, sessions=1) != draw(tmp_path / "b", other, 2, sessions=1)


def test_values_stay_in_their_ranges_and_keep_their_kinds(tmp_path):
    for params in draw(tmp_path, space("random"), 20, sessions=1):
        assert 1e-4 <= params["training.learning_rate"] <= 1e-2
        assert params["training.batch_size"] in range(32, 257, 32)
        assert type(params["training.batch_size"]) is int
        assert params["model.params.widths"] in ([16], [16, 32])


def test_a_grid_is_every_combination_once(tmp_path):
    drawn = draw(tmp_path, space("grid", GRID), 6, sessions=2)
    points = {(p["training.batch_size"], len(p["model.params.widths"])) for p in drawn}
    assert points == set(itertools.product((32, 64, 96), (1, 2)))


def test_trials_left_running_come_back_with_their_values(tmp_path):
    rules = space()
    left = next_trial(open_study(tmp_path, rules), rules)
    (found,) = unfinished_trials(open_study(tmp_path, rules), rules)
    assert (found.number, found.params) == (left.number, left.params)


def test_a_trial_half_drawn_is_drawn_to_the_end(tmp_path):
    rules = space()
    open_study(tmp_path, rules).ask()
    (found,) = unfinished_trials(open_study(tmp_path, rules), rules)
    assert found.params.keys() == DIMENSIONS.keys()


def test_a_torn_journal_and_a_left_lock_are_mended(tmp_path):
    rules = space()
    study = open_study(tmp_path, rules)
    study.tell(next_trial(study, rules), 0.5)
    with (tmp_path / "journal.log").open("ab") as file:
        file.write(b'{"op_code":5,"wor')
    lock = tmp_path / "journal.log.lock"
    lock.symlink_to("journal.log")
    _mend(tmp_path / "journal.log")
    assert not lock.is_symlink()
    study = open_study(tmp_path, rules)
    study.tell(next_trial(study, rules), 0.75)
    again = open_study(tmp_path, rules)
    assert [trial.value for trial in again.get_trials()] == [0.5, 0.75]


def test_halving_keeps_the_best_third(tmp_path):
    # Asynchronous: the n-th trial at a rung goes on if it is among the best n // 3, or the best of fewer than three.
    rules = space(name="halving")
    study = open_study(tmp_path, rules)
    kept = []
    for value in (0.5, 0.6, 0.4, 0.7, 0.65, 0.8, 0.75):
        trial = next_trial(study, rules)
        trial.report(value, 1)
        kept.append(not trial.should_prune())
        study.tell(trial, state=TrialState.PRUNED)
    assert kept == [True, True, False, True, False, True, True]


def test_without_optuna_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'mlvlab_jax\[sweep\]'"):
        check_optuna()
