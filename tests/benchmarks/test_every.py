"""Every benchmark imports and says what it takes; those that have a quick form run it."""

import importlib
import json
import os
import subprocess
import sys

import pytest

from tests.benchmarks.conftest import BENCHMARKS
from tests.conftest import ROOT

#: Need an interpreter with libraries that this project has not.
ELSEWHERE = ("onnx_latency", "torch_recipe", "torch_steps")
MODULES = sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem not in ELSEWHERE)


@pytest.mark.parametrize("name", MODULES)
def test_imports_and_explains_its_arguments(name, monkeypatch, capsys):
    module = importlib.import_module(name)
    assert module.__doc__
    if not hasattr(module, "main"):
        return
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_those_for_other_interpreters_are_python():
    for name in ELSEWHERE:
        compile((BENCHMARKS / f"{name}.py").read_text(), name, "exec")


def test_make_bench_runs_files_that_exist():
    run = importlib.import_module("run")
    assert set(run.BENCHMARKS) <= set(MODULES)


def run_quick(name: str, tmp_path, *arguments: str) -> dict:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    environment.pop("TORCH_PYTHON", None)
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_trainer_overhead_runs(tmp_path):
    found = run_quick("trainer_overhead", tmp_path)
    assert found["summary"]["digits"] == found["results"]["digits"]["ours_over_bare"][0] > 0
    assert 0 < found["results"]["digits"]["input_wait"] < 1


def test_checkpoint_runs(tmp_path):
    found = run_quick("checkpoint", tmp_path)
    assert found["results"]["state_bytes"] > 100_000
    assert 0 < found["summary"]["C10_blocked"] == found["results"]["ratios"]["C10_blocked"][0]


def test_step_time_runs_without_the_peer_and_says_so(tmp_path):
    found = run_quick("step_time", tmp_path, "C1_tiny")
    assert "no interpreter with PyTorch" in found["summary"]["torch"]
    measured = found["results"]["C1_tiny"]
    assert set(measured["milliseconds_a_step"]) == {"ours", "bare"}
    ours, bare = (measured["prepared"][kind]["updates"] for kind in ("ours", "bare"))
    assert ours[1]["loss"] == pytest.approx(bare[1]["loss"], rel=1e-4)
    assert ours[1]["loss"] < ours[0]["loss"]


def test_scaling_reads_what_is_sent_from_the_compiled_programs(tmp_path):
    found = run_quick("scaling", tmp_path)["results"]
    halves = found["data 2"]
    # All gradients once round the ring of two: half of them there, half of them back.
    assert halves["sent_bytes"] == pytest.approx(4 * halves["num_params"], rel=0.01)
    assert found["one device"]["sent_bytes"] == 0
    assert "all-gather" in found["fsdp 2"]["sent_by_kind"]
    for measured in (found["data 2"], found["fsdp 2"], found["tensor 2"]):
        assert 0 < measured["scaling"]["apart"] <= measured["scaling"]["overlapped"] <= 1.01


def test_faults_finds_every_bit_and_counts_what_was_killed(tmp_path, monkeypatch):
    found = run_quick("faults", tmp_path)
    assert found["results"]["counts"] == {"bits_found": "36/36"}
    assert found["summary"] == {"bits_found": 1.0}
    faults = importlib.import_module("faults")
    kills = [{"run": "killed-0"}, {"run": "killed-0"}, {"run": "killed-1"}]
    differences = {"unbroken": [], "killed-0": [], "killed-1": ["last step 3, expected 4"]}
    assert faults.count_identical({"kills": kills, "differences": differences}) == (2, 3)
    monkeypatch.setattr(faults, "find_damage", lambda folder: [])
    assert faults.flip_bits(faults.make_checkpoint(tmp_path)) == (0, 36)


def test_faults_counts_what_is_named_anew_and_keeps_the_rest(tmp_path, monkeypatch, capsys):
    faults = importlib.import_module("faults")
    monkeypatch.setattr(faults, "RESULTS", tmp_path / "faults.json")
    monkeypatch.setattr(faults, "run_test", lambda test: (9, 10))
    before = {"counts": {"kills_identical": "36/36", "hangs_ended": "1/10"}, "equal": True}
    faults.RESULTS.write_text(json.dumps({"results": before}))
    faults.main(["hangs_ended"])
    found = json.loads(capsys.readouterr().out)
    counts = {"kills_identical": "36/36", "hangs_ended": "9/10"}
    assert found == {
        "results": {"counts": counts, "equal": True},
        "summary": {"kills_identical": 1, "hangs_ended": 0.9},
    }
    with pytest.raises(SystemExit):
        faults.main(["hangs"])


def test_faults_names_tests_that_are_there_and_counts_those_that_pass(tmp_path):
    faults = importlib.import_module("faults")
    for test in faults.TESTS.values():
        path, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text()
    some = tmp_path / "test_some.py"
    some.write_text("import pytest\n@pytest.mark.parametrize('n', range(4))\ndef test_n(n):\n    assert n != 2\n")
    assert faults.run_test(str(some)) == (3, 4)
    with pytest.raises(SystemExit, match="no such test"):
        faults.run_test(f"{some}::test_none")
