"""Goal C9: seconds to the first step with a cold and a warm compile cache, to `--help` and to a
configuration error.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPEATS = 5
TRAIN = [sys.executable, "-m", "mlvlab_jax.train", "--config", "configs/digits.yaml"]


def first_step_seconds(cache: str) -> float:
    """Seconds of a run's phases up to its first update: opening data, initialising, compiling. Imports come on top."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*TRAIN, "--workdir", f"{folder}/run", "training.num_epochs=0.001"]
        environment = {**os.environ, "XDG_CACHE_HOME": cache}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        seconds = json.loads(Path(f"{folder}/run/summary.json").read_text())["seconds"]
        return seconds["setup"] + seconds["compile"]


def wall_seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, check=False)
    return time.perf_counter() - started


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    cold, warm = [], []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(first_step_seconds(cache))
            warm.append(first_step_seconds(cache))
    helps = [wall_seconds([*TRAIN[:3], "--help"]) for _ in range(REPEATS)]
    errors = [wall_seconds([*TRAIN, "training.lr=1"]) for _ in range(REPEATS)]
    results = {"cold_s": cold, "warm_s": warm, "help_s": helps, "config_error_s": errors}
    medians = {name: round(statistics.median(values), 3) for name, values in results.items()}
    summary = {**medians, "warm_over_cold": round(medians["warm_s"] / medians["cold_s"], 3)}
    print(json.dumps({"results": results, "summary": summary}))


if __name__ == "__main__":
    sys.exit(main())
