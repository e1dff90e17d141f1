"""Minutes of training as two processes: nothing is compiled again; memory, files and threads stay as they are.

MLVLAB_SOAK_MINUTES says for how long; 10 by default.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_two_processes_stay_as_they_are(tmp_path):
    minutes = float(os.environ.get("MLVLAB_SOAK_MINUTES", "10"))
    out = tmp_path / "soak.json"
    command = [sys.executable, ROOT / "benchmarks" / "soak.py", "--minutes", str(minutes), "--out", out]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60 * minutes + 300)
    for process in json.loads(out.read_text())["processes"]:
        assert process["train_step_compiled_after_steps"] == [0]
        assert process["num_evaluations"] > 2
        assert process["compiled_after_settling"] == []
        assert process["rss_slope_mib_per_minute"] <= 1
        for first, last in (process["files_median"], process["threads_median"]):
            assert 0 < last <= first + 1
