"""What watching costs a training step on the host: the clock's phases, step times, ledger and profiler.

Everything the engine does for it in one step, over many steps in which nothing else happens, with the heartbeat going;
and once a window, reading the rates. The goal is below 20 us a step: under one per cent of a step of 2 ms.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from mlvlab_jax.config.load import config_from_tree
from mlvlab_jax.engine.attempt import AttemptLog
from mlvlab_jax.engine.telemetry import Rate

REPEATS, STEPS, WINDOW = 11, 20_000, 50


def microseconds_a_step(attempt: AttemptLog, rate: Rate, *, steps: int) -> float:
    started = time.perf_counter()
    for step in range(1, steps + 1):
        with attempt.clock.phase("train"), attempt.step(step, step, settle=lambda: None):
            with attempt.clock.phase("input"):
                pass
            rate.arrive(64.0)
            if step % WINDOW == 0:
                rate.read()
    return 1e6 * (time.perf_counter() - started) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"in each repeat; default {STEPS}")
    steps = parser.parse_args().steps
    config = config_from_tree({"model": {"name": "cnn"}})
    with tempfile.TemporaryDirectory() as folder, AttemptLog(Path(folder)) as attempt:
        attempt.begin(config, in_memory=True, first_step=0, note=print)
        rate = Rate(attempt.clock)
        results = [microseconds_a_step(attempt, rate, steps=steps) for _ in range(REPEATS)]
    summary = {"us_a_step": round(statistics.median(results), 2), "steps": steps}
    print(json.dumps({"results": {"us_a_step": results}, "summary": summary}))


if __name__ == "__main__":
    sys.exit(main())
