"""What is left behind by a run that ends by an exception, and taken away by one that goes on."""

import json
import math

import pytest

from mlvlab_jax.engine.attempt import AttemptLog
from mlvlab_jax.engine.crash import find_exit_code, write_crash
from mlvlab_jax.engine.loop import run
from mlvlab_jax.errors import CheckpointError, DiskError
from tests.conftest import RecordingTracker, tiny_config
from tests.engine.disks import Full, broken, small_disk


def test_a_crash_is_written_down_and_taken_away_by_the_attempt_that_goes_on(tmp_path):
    def fail(step):
        if step == 7:
            raise ZeroDivisionError("of a test")
        return False

    with pytest.raises(ZeroDivisionError):
        run(tiny_config(), workdir=tmp_path, tracker=RecordingTracker(), stop_requested=fail)
    crash = json.loads((tmp_path / "crash.json").read_text())
    assert crash["error"] == {"kind": "ZeroDivisionError", "message": "of a test", "exit_code": 70}
    assert (crash["step"], crash["process"]) == (7, {"index": 0, "count": 1})
    assert crash["metrics"]["train/loss"] > 0
    assert crash["metrics"]["images_per_second"] > 0
    assert crash["versions"]["jax"]
    assert "ZeroDivisionError: of a test" in crash["traceback"]
    assert any(
        "heartbeat" in name and any("_beat" in line for line in lines) for name, lines in crash["threads"].items()
    )
    run(tiny_config(), workdir=tmp_path, tracker=RecordingTracker())
    assert not (tmp_path / "crash.json").exists()


def test_the_phase_is_the_one_that_the_error_was_raised_in(tmp_path):
    (tmp_path / "config.yaml").touch()
    attempt = AttemptLog(tmp_path)
    with pytest.raises(KeyError), attempt.clock.phase("evaluate"):
        raise KeyError
    with pytest.raises(CheckpointError), attempt, attempt.clock.phase("checkpoint"), attempt.clock.phase("input"):
        raise CheckpointError("none")
    crash = json.loads((tmp_path / "crash.json").read_text())
    assert (crash["phase"], crash["error"]["exit_code"]) == ("input", 66)


def test_each_process_of_several_writes_its_own(tmp_path):
    (tmp_path / "config.yaml").touch()
    given = {"phase": "train", "step": 3, "metrics": {"train/loss": math.nan}}
    write_crash(tmp_path, ValueError("no"), process=(1, 2), **given)
    crash = json.loads((tmp_path / "crash-1.json").read_text(), parse_constant=pytest.fail)
    assert crash["metrics"] == {"train/loss": "nan"}
    assert not (tmp_path / "crash.json").exists()


def test_a_folder_that_is_no_runs_yet_gets_none(tmp_path):
    with pytest.raises(ValueError, match="early"), AttemptLog(tmp_path):
        raise ValueError("early")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_does_not_hide_the_error(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        (disk / "config.yaml").touch()
        with broken(Full(), disk), pytest.raises(KeyError, match="the cause"), AttemptLog(disk):
            raise KeyError("the cause")
        assert not list(disk.glob("*crash*"))


def test_an_exit_code_is_the_one_the_command_ends_with():
    assert find_exit_code(DiskError("full")) == 74
    assert find_exit_code(OSError(28, "No space left on device")) == 74
    assert find_exit_code(FileNotFoundError(2, "No such file")) == 70
    assert find_exit_code(KeyboardInterrupt()) == 130
