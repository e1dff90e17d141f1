"""Real runs, really killed: each ends bit for bit as the one that was never touched."""

import json
import shutil

import numpy as np
import pytest

from mlvlab_jax.engine.outcome import list_differences, read_outcome
from mlvlab_jax.verify_resume import main
from tests.conftest import ROOT

CONFIG = ROOT / "benchmarks" / "faults.yaml"


def verify(tmp_path, monkeypatch, *arguments, kills):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return main(["--config", str(CONFIG), "--kills", str(kills), "--workdir", "proof", "--seed", "1", *arguments])


@pytest.mark.parametrize("kills", [6, pytest.param(30, marks=pytest.mark.slow)])
def test_killed_runs_end_bit_for_bit_as_the_unbroken_one(kills, tmp_path, monkeypatch, capsys):
    assert verify(tmp_path, monkeypatch, kills=kills) == 0, capsys.readouterr().out
    certificate = json.loads((tmp_path / "proof" / "certificate.json").read_text())
    assert certificate["equal"]
    assert len(certificate["kills"]) == kills
    assert {kill["signal"] for kill in certificate["kills"]} == {"SIGKILL", "SIGTERM"}
    assert {"compile", "evaluate", "save"} <= set(certificate["phases"])
    assert sum(certificate["phases"].values()) == kills
    assert certificate["steps"] > 100
    shown = capsys.readouterr().out
    assert f"{kills} kills: equal" in shown
    check_that_differences_are_seen(tmp_path / "proof")


def check_that_differences_are_seen(folder):
    expected = read_outcome(folder / "unbroken")
    copy = shutil.copytree(folder / "unbroken", folder / "copy")
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join([*lines[:4], *lines[3:]]))
    found = list_differences(expected, read_outcome(copy))
    step = json.loads(lines[3])["step"]
    records = f"metrics.jsonl: {len(lines) + 1} records, expected {len(lines)}; too often [{step}], missing []"
    assert found[0] == records
    assert found[1].startswith("TensorBoard, ")
    assert found[1].endswith(f": too often [], missing [{step}]")
    name = "variables/params/head/bias"
    digests = {**expected.digests, name: "0" * 64}
    assert list_differences(expected, expected._replace(digests=digests)) == [f"state {name}: other bits"]
    progress = {**expected.progress, "step": np.inf}
    assert len(list_differences(expected, expected._replace(progress=progress))) == 1
    progress = {**expected.progress, "examples": 1}
    assert list_differences(expected, expected._replace(progress=progress)) == [
        "examples: the steps were given others, or in another order"
    ]


@pytest.mark.slow
def test_runs_that_go_on_on_other_meshes_lose_nothing_and_end_the_same_up_to_rounding(tmp_path, monkeypatch, capsys):
    meshes = ["--mesh", "data=4", "--mesh", "data=2,fsdp=2"]
    assert verify(tmp_path, monkeypatch, *meshes, kills=1) == 0, capsys.readouterr().out
    certificate = json.loads((tmp_path / "proof" / "certificate.json").read_text())
    assert {"data=8", "data=4", "data=2,fsdp=2"} == set(certificate["meshes"]["steps"])
    assert all(number > 0 for number in certificate["meshes"]["steps"].values())
    assert {kill["mesh"] for kill in certificate["kills"]} == {"as configured", "data=4", "data=2,fsdp=2"}
    assert 0 < max(certificate["meshes"]["measured"].values()) <= certificate["meshes"]["tolerance"] == 1e-4


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--kills", "0"], "--kills 0: expected 1 or more"),
        (["--workdir", "."], ".: is there already; expected a new folder"),
        (["--mesh", "fdsp=2"], "override 'mesh.fdsp=2': mesh.fdsp: unknown key; did you mean 'fsdp'?"),
        (["--mesh", "fsdp=2,data=-1"], "--mesh fsdp=2,data=-1: data is -1; expected a number of devices"),
    ],
)
def test_what_cannot_be_verified_is_refused_before_anything_runs(arguments, expected, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["--config", "configs/digits.yaml", *arguments]) == 64
    assert expected in capsys.readouterr().err
