"""Bits that flip in a run of two processes: both end with what is wrong and where, and the run goes on from the last
checkpoint as if nothing had happened."""

import re
import socket

import pytest

from mlvlab_jax.engine import faults
from mlvlab_jax.engine.integrity import find_damage
from mlvlab_jax.engine.outcome import list_differences, read_outcome
from mlvlab_jax.engine.recovery import list_steps
from tests.end_to_end.test_processes import processes, start

ARGUMENTS = ["--config", "configs/digits.yaml", "model.params.widths=[4]", "model.params.convs_per_stage=1"]
ARGUMENTS += ["training.num_epochs=1", "evaluation.every_epochs=1", "checkpoint.every_steps=5", "mesh.data=4"]
COMPARE, REPLAY = "training.integrity.compare_replicas_every_steps=2", "training.integrity.replay_every_steps=4"


def train_together(workdir, *arguments, fault=None):
    """Both processes of a run, two devices each: exit codes, and what they said on standard error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(faults.VARIABLE, raising=False)
        if fault:
            patch.setenv(faults.VARIABLE, fault)
        together = [*ARGUMENTS, *arguments, "--workdir", str(workdir), "--join-timeout-s", "600"]
        children = [start(*together, *place, num_devices=2) for place in processes(2, of=2)]
        outputs = [child.communicate(timeout=600) for child in children]
    return [child.returncode for child in children], [errors for _, errors in outputs]


def check_flip(workdir):
    """A flip in step 9 on the last device, of process 1, found after step 10 by both; the checkpoint of step 5 stays."""
    # Steps 4 and 8 are made twice, so step 9 is the eleventh that is made.
    codes, errors = train_together(workdir, COMPARE, REPLAY, fault="update:11=do:flip:1:3:20")
    assert codes == [70, 70], errors
    pattern = r"error: step 10: copies .* differ .*?: (variables/params/\S+) on \S+ \(process 1, ([^)]+)\);"
    found = [re.search(pattern, text) for text in errors]
    assert all(found), errors
    assert [match[2] for match in found] == [socket.gethostname()] * 2
    assert list_steps(workdir / "checkpoints") == [5]
    assert find_damage(workdir / "checkpoints" / "5") == []


def test_a_flip_on_one_process_ends_both_and_leaves_the_last_checkpoint(tmp_path):
    check_flip(tmp_path / "run")


@pytest.mark.slow
def test_a_run_that_was_corrupted_twice_ends_bit_for_bit_as_one_that_was_not(tmp_path):
    codes, errors = train_together(tmp_path / "whole")
    assert codes == [0, 0], errors
    check_flip(tmp_path / "run")
    # Steps 6 and 7 are made once, step 8 twice.
    codes, errors = train_together(tmp_path / "run", REPLAY, fault="update:4=do:flip:2:0:28")
    assert codes == [70, 70], errors
    for text in errors:
        assert re.search(r"error: step 8: the update was computed twice, .* on \S+ \(process 0, ", text), text
    codes, errors = train_together(tmp_path / "run", COMPARE, REPLAY)
    assert codes == [0, 0], errors
    assert list_differences(read_outcome(tmp_path / "whole"), read_outcome(tmp_path / "run")) == []
