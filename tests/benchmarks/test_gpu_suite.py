import importlib
import json
import os
import subprocess
import sys
import time

import pytest

from tests.benchmarks.conftest import BENCHMARKS
from tests.conftest import ROOT

#: What a common CUDA image lacks.
LACKING = ("grain", "clu", "tensorflow_datasets", "array_record", "simplejpeg", "tensorboardX", "torch", "timm")
WITHOUT_THEM = f"""
import sys

class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {LACKING!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Lacking())
sys.path[:0] = {[str(BENCHMARKS), str(ROOT)]!r}
import gpu_suite, jax_steps
from gpu_parts import SMOKE_CASES
import dataclasses
jax_steps.make(dataclasses.asdict(SMOKE_CASES["vit_b"]), None)
print(jax_steps.prepare("ours", "ours", {{}})["updates"][0]["loss"])
print(jax_steps.run("ours", 1))
print(jax_steps.save(sys.argv[1], 1)["state_bytes"])
try:
    jax_steps.run_trainer(smoke=True)
except ModuleNotFoundError as error:
    print(error)
"""


@pytest.fixture
def suite():
    return importlib.import_module("gpu_suite")


@pytest.fixture
def parts():
    return importlib.import_module("gpu_parts")


def test_steps_and_saves_need_no_library_that_reads_data(tmp_path):
    command = [sys.executable, "-c", WITHOUT_THEM, str(tmp_path)]
    environment = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    loss, seconds, size, words = done.stdout.splitlines()[-4:]
    assert 0 < float(loss) < 10
    assert float(seconds) > 0
    assert int(size) > 100_000
    assert words.startswith("No module named")


class NoSuite:
    killed = closed = 0

    def kill(self):
        self.killed += 1

    def close(self):
        self.closed += 1


def run_fakes(suite, parts, monkeypatch, tmp_path, fakes: dict, *, budget_s: float):
    made = [NoSuite() for _ in range(3)]
    waiting = iter(made)
    monkeypatch.setattr(suite, "PARTS", fakes)
    report = suite.make_report(tmp_path / "out.json", ours={"device": "none", "versions": {}}, told="", smoke=True)
    report.started = time.monotonic()
    suite.run_parts(list(fakes), report, lambda: next(waiting), budget_s=budget_s)
    return report, made


def test_a_part_that_fails_or_has_no_time_is_left_out_in_words(suite, parts, monkeypatch, tmp_path):
    def fail(suite):
        raise importlib.import_module("turns").WorkerError("out of luck")

    def lack(suite):
        raise parts.LeftOut("nothing to measure with")

    row = parts.make_row("A", "what", 2.0, floor=1, goal=3)
    fakes = {
        "A": parts.Part(fail, lambda measured: [], 1),
        "B": parts.Part(lambda suite: {"left_out": {"B2": "half of it"}}, lambda measured: [row], 1),
        "C": parts.Part(lack, lambda measured: [], 1),
        "D": parts.Part(fail, lambda measured: [], 1000),
    }
    report, made = run_fakes(suite, parts, monkeypatch, tmp_path, fakes, budget_s=60)
    left_out = report.content["left_out"]
    assert left_out["A"] == "failed: out of luck"
    assert left_out["B2"] == "half of it"
    assert left_out["C"] == "nothing to measure with"
    assert left_out["D"].endswith("s were left, and it takes about 1000 s")
    assert report.content["rows"] == [row]
    assert (made[0].killed, made[1].killed, made[1].closed) == (1, 0, 1)


def test_what_was_measured_is_on_disk_when_the_next_part_is_cut_off(suite, parts, monkeypatch, tmp_path):
    def cut_off(suite):
        assert json.loads((tmp_path / "out.json").read_text())["parts"]["A"] == {"ms": 1}
        raise KeyboardInterrupt

    fakes = {
        "A": parts.Part(lambda suite: {"ms": 1}, lambda measured: [], 1),
        "B": parts.Part(cut_off, lambda measured: [], 1),
    }
    with pytest.raises(KeyboardInterrupt):
        run_fakes(suite, parts, monkeypatch, tmp_path, fakes, budget_s=60)


def test_verdicts_of_rows(parts):
    verdict = {value: parts.make_row("G", "x", value, floor=0.95, goal=1.1)["verdict"] for value in (0.9, 1.0, 1.1)}
    assert verdict == {0.9: "missed", 1.0: "floor met", 1.1: "goal met"}
    assert parts.make_row("G", "x", 1.5, floor=2, goal=1, lower=True)["verdict"] == "floor met"
    assert parts.make_row("G", "x", 1.5)["verdict"] == ""


def test_rows_of_a_measured_transformer(parts):
    measured = {
        "name": "vit_b",
        "peak_flops": 989.4e12,
        "batch_size": 256,
        "ms": {"ours": [64.0] * 3, "bare": [62.72] * 3, "xla_attention": [70.4] * 3, "torch_compile": [80.0] * 3},
        "saves": {"state_bytes": 1.04e9, "seconds": {"asynchronous": [0.096] * 3}},
    }
    rows = {row["what"]: row for row in parts.PARTS["G1"].rows(measured)}
    assert rows["ViT-B/16 at 224: our rate / timm's"]["value"] == 1.25
    assert rows["ViT-B/16 at 224: ours, images/s"]["value"] == 4000
    assert rows["ViT-B/16 at 224: MFU at 105.4 GFLOP an image"]["value"] == pytest.approx(
        4000 * 105.4 / 989400, rel=1e-3
    )
    assert rows["cuDNN attention / XLA attention, step rate, N = 197"]["value"] == 1.1
    assert rows["engine's step / bare step, rate (the loop: see G7 below)"]["value"] == 0.98
    assert rows["steps that a save of 1.04 GB blocks"]["value"] == 1.5


def test_without_a_gpu_it_says_so(suite, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("TORCH_PYTHON", "/no/such/python")
    assert suite.main(["--out", str(tmp_path / "out.json")]) == 64
    assert "no GPU: jax sees cpu" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


@pytest.mark.slow
def test_smoke_runs_end_to_end(tmp_path):
    """With timm where benchmarks/torch_python.py finds it, else ours alone."""
    command = [sys.executable, str(BENCHMARKS / "gpu_suite.py"), "--smoke", "--out", str(tmp_path / "out.json")]
    environment = {**os.environ, "XLA_FLAGS": "", "TORCH_COMPILE_DISABLE": "1"}
    done = subprocess.run(
        [*command, "--budget-s", "3000"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "out.json").read_text())
    assert not [words for words in found["left_out"].values() if words.startswith("failed")]
    assert {"G1", "G2", "G3", "G4", "G7"} <= set(found["parts"])
    assert "ViT-B/16 at 224: ours, images/s" in done.stdout
    if found["peer"].startswith("torch"):
        assert found["parts"]["G1"]["prepared"]["apart"]["loss"] < 1e-2
        assert "ViT-B/16 at 224: our rate / timm's" in done.stdout
