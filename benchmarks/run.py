"""`make bench`: runs every benchmark in a process of its own and writes benchmarks/results/NAME.json.

Each result holds the machine, the versions, the command and all repeats; ratios are of medians from alternating order
(A B B A), measured in one process.
"""

import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from mlvlab_jax.malloc import with_tunables

HERE = Path(__file__).parent
BENCHMARKS = (
    *(
        "step_time",
        "time_to_accuracy",
        "trainer_overhead",
        "telemetry_cost",
        "steps_per_dispatch",
        "compile_time",
        "checkpoint",
    ),
    *("startup", "memory", "data_loading", "tracker_down"),
    *("serving", "serving_latency", "watching_cost", "drift"),
    *("plan", "scaling"),
    "faults",
)
#: Those that train in their own process, which has the settings of malloc that `mlvlab train` gives itself.
TRAINING = ("trainer_overhead", "telemetry_cost", "steps_per_dispatch", "compile_time", "checkpoint")
VERSIONS = ("jax", "jaxlib", "flax", "optax", "grain", "orbax-checkpoint", "numpy", "pillow", "simplejpeg")


def describe_machine() -> dict[str, object]:
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    return {
        "cpu": cpu,
        "num_cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in VERSIONS},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of {', '.join(BENCHMARKS)}; default all")
    parser.add_argument("--arguments", nargs="+", default=[], help="what the one benchmark named is given")
    parsed = parser.parse_args(arguments)
    names, given = parsed.names, parsed.arguments
    if given and len(names) != 1:
        parser.error(f"--arguments are for one benchmark; {len(names)} are named")
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        parser.error(f"there is no benchmark {', '.join(unknown)}; expected some of {', '.join(BENCHMARKS)}")
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    for name in names or BENCHMARKS:
        command = [sys.executable, str(HERE / f"{name}.py"), *given]
        # This checkout is measured, whatever is installed.
        paths = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        environment = {**os.environ, "PYTHONPATH": paths}
        if name in TRAINING:
            environment = with_tunables(environment) or environment
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            cwd=HERE.parent,
        )
        if done.returncode:
            raise SystemExit(f"{done.stderr}\n{name}: exit code {done.returncode}; what it said is above")
        measured = json.loads(done.stdout.splitlines()[-1])
        if "skipped" in measured["summary"]:
            print(f"{name}: {measured['summary']['skipped']}")
            continue
        words = [name, *(["--arguments", *given] if given else [])]
        report = {"command": f"python benchmarks/run.py {shlex.join(words)}", **describe_machine(), **measured}
        (results / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
        print(json.dumps(measured["summary"], indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
