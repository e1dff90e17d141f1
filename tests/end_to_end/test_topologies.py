"""The same run in one process or several, and gone on with in fewer: the same examples, the same losses."""

import json

import pytest

from mlvlab_jax.engine.outcome import list_gaps, read_outcome
from tests.conftest import ROOT
from tests.end_to_end.test_processes import processes, start, values

SIXTY = ["--config", str(ROOT / "benchmarks" / "faults.yaml"), "training.num_epochs=3", "tracking.log_every_steps=1"]


def train(workdir, *arguments, num_processes, num_devices):
    """One run to its end, or to the signal that it is sent; exit codes."""
    places = processes(num_processes, of=num_processes) if num_processes > 1 else [[]]
    arguments = [*SIXTY, *arguments, "--workdir", str(workdir), "--join-timeout-s", "300"]
    children = [start(*arguments, *place, num_devices=num_devices) for place in places]
    outputs = [child.communicate(timeout=900) for child in children]
    return [child.returncode for child in children], outputs


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "run"
    codes, outputs = train(folder, num_processes=1, num_devices=8)
    assert codes == [0], outputs
    return folder


def check_same(expected, found):
    assert list_gaps(read_outcome(expected), read_outcome(found)) == []
    losses, others = values(expected, "train/loss"), values(found, "train/loss")
    assert len(losses) == 60
    assert others[0] == pytest.approx(losses[0], rel=1e-6)
    assert others == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize("number", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_are_given_the_same_examples_and_have_the_same_losses(number, one_process, tmp_path):
    codes, outputs = train(tmp_path / "run", num_processes=number, num_devices=8 // number)
    assert codes == [0] * number, outputs
    check_same(one_process, tmp_path / "run")


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_in_one_on_one_device(one_process, tmp_path, monkeypatch):
    monkeypatch.setenv("MLVLAB_FAULTS", "train:25=signal:TERM")
    codes, outputs = train(tmp_path / "run", "mesh.fsdp=4", num_processes=2, num_devices=4)
    assert codes == [75, 75], outputs
    monkeypatch.delenv("MLVLAB_FAULTS")
    codes, outputs = train(tmp_path / "run", num_processes=1, num_devices=1)
    assert codes == [0], outputs
    assert "now on mesh {'data': 1, 'fsdp': 1, 'tensor': 1}, 1 process" in " ".join(outputs[0][0].split())
    sessions = json.loads((tmp_path / "run" / "manifest.json").read_text())["sessions"]
    assert [session["num_processes"] for session in sessions] == [2, 1]
    check_same(one_process, tmp_path / "run")
