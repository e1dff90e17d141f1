"""`mlvlab train` on disks that fill up, refuse or have another writer: an exit code and a message, never a traceback."""

import json
import os
import re
import socket
import subprocess
import sys
import time

import pytest

from mlvlab_jax.engine.recovery import list_steps
from tests.conftest import ROOT
from tests.end_to_end.test_verify_resume import CONFIG
from tests.engine.disks import ReadOnly, broken, fill, small_disk


def start(folder, workdir, *overrides, **environment):
    (folder / "tiny.yaml").write_text(CONFIG.read_text())
    command = [sys.executable, "-m", "mlvlab_jax.train", "--config", "tiny.yaml", "--workdir", str(workdir), *overrides]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(
        command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(child):
    out, err = child.communicate(timeout=300)
    return child.returncode, out + err


def wait_for(condition, child):
    stop = time.monotonic() + 200
    while not condition() and child.poll() is None and time.monotonic() < stop:
        time.sleep(0.02)
    assert condition()


def test_a_disk_that_fills_under_a_run_ends_it_with_74_and_the_same_command_goes_on(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        workdir = disk / "run"
        child = start(tmp_path, workdir, "training.num_epochs=3", MLVLAB_FAULTS="evaluate:2=sleep:5")
        wait_for(lambda: len(list_steps(workdir / "checkpoints")) >= 2, child)
        fill(disk)
        code, said = end(child)
        assert code == 74, said
        assert "Traceback" not in said
        assert re.search(r"error: .*/checkpoints: [1-3] saves in a row failed, .*MB free.*; free some space", said)
        assert list_steps(workdir / "checkpoints")
        (disk / "filling").unlink()
        code, said = end(start(tmp_path, workdir, "training.num_epochs=3"))
        assert code == 0, said
        steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(steps)
        assert not (workdir / "crash.json").exists()


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_run_that_has_no_disk_to_begin_on_says_so(kind, tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        if kind == "full":
            fill(disk)
            code, said = end(start(tmp_path, disk / "run"))
        else:
            with broken(ReadOnly(), disk):
                code, said = end(start(tmp_path, disk / "run"))
    assert code == 74, said
    assert "Traceback" not in said
    assert re.search(r"error: .*/disk/run.*(No space left on device|Read-only file system)", said)


def test_a_second_trainer_is_told_who_writes_the_folder(tmp_path):
    with start(tmp_path, tmp_path / "run", MLVLAB_FAULTS="import:2=sleep:60") as first:
        try:
            wait_for(
                lambda: (tmp_path / "run" / "run.lock").is_file() and (tmp_path / "run" / "run.lock").read_text(), first
            )
            code, said = end(start(tmp_path, tmp_path / "run"))
        finally:
            first.kill()
    assert code == 73
    assert f"the folder is being written by pid {first.pid} on {socket.gethostname()}; expected no other" in said
    code, said = end(start(tmp_path, tmp_path / "run", "training.num_epochs=1"))  # its death let the folder go
    assert code == 0, said
