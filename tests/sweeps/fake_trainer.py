"""Stands in for `mlvlab train`: its accuracy is a planted function of the learning rate and the evaluation.

The learning rate is the quality; label smoothing makes it misbehave. Goes on where its metrics.jsonl ends.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

NUM_EVALUATIONS = 4
#: Label smoothing that makes it take a second; wait in trial 1 after two evaluations until told to stop; fail.
SLOW, HANGS, FAILS = 0.125, 0.25, 0.5


def planted_accuracy(learning_rate: float, evaluation: int) -> float:
    return (learning_rate + evaluation) / 100


def main() -> None:
    workdir = Path(sys.argv[sys.argv.index("--workdir") + 1])
    values = {k: json.loads(v) for k, _, v in (a.partition("=") for a in sys.argv[1:] if "=" in a)}
    rate = values["training.learning_rate"]
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "pid").write_text(str(os.getpid()))
    (workdir / "memory").write_text(os.environ.get("XLA_CLIENT_MEM_FRACTION", "all"))
    with (workdir / "starts").open("a") as file:
        file.write("start\n")
    behaviour = values.get("training.label_smoothing", 0.0)
    hangs = workdir.name == "0001" and (workdir / "starts").read_text() == "start\n"
    if behaviour == FAILS:
        print("out of paper", file=sys.stderr)
        sys.exit(65)
    metrics = workdir / "metrics.jsonl"
    done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    for evaluation in range(done + 1, NUM_EVALUATIONS + 1):
        if behaviour == SLOW:
            time.sleep(0.3)
        with metrics.open("a") as file:
            record = {"step": 10 * evaluation, "validation/accuracy": planted_accuracy(rate, evaluation)}
            file.write(json.dumps(record) + "\n")
        deadline = time.monotonic() + 60
        while behaviour == HANGS and hangs and evaluation == 2 and not asked and time.monotonic() < deadline:
            time.sleep(0.01)
        if asked:
            sys.exit(75)
    best = {"step": 10 * NUM_EVALUATIONS, "validation/accuracy": planted_accuracy(rate, NUM_EVALUATIONS)}
    (workdir / "summary.json").write_text(json.dumps({"ended": "finished", "best": best}))


if __name__ == "__main__":
    main()
