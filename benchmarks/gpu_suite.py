"""Goals G1 to G8 and G10 on whatever GPU is here, in at most nine minutes: `python benchmarks/gpu_suite.py`.

Ours beside timm with torch.compile, channels_last, fused AdamW and the attention kernel that is fastest for the shape:
two processes that take turns, A B B A. Before that both train the same weights on the same batch, in bfloat16: losses
within 1 %, norms of the gradients within 10 %, losses after one update within 10 % (step_time.py compares in float32).

The result is written after each part, so that what was measured stays when the time is cut off; a table comes last.
Needs jax, flax, optax, orbax-checkpoint, jaxtyping, pydantic and PyYAML, and for the peer PyTorch and timm, all in one
interpreter or the peer's in --torch-python. What is not there is left out in words.
"""

import argparse
import dataclasses
import datetime
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpu_parts import CASES, PARTS, SMOKE_CASES, LeftOut, Suite
from pairs import start_jax, start_torch
from torch_python import find_torch_python
from turns import ROOT, Worker, WorkerError

#: Memory of the GPU that our process takes; the peer has the rest.
MEMORY_SHARE = "0.47"
#: Seconds kept back for the table and the processes' end.
RESERVE_S = 10.0


@dataclasses.dataclass
class Report:
    """The JSON result as far as it is known."""

    path: Path
    content: dict[str, Any]
    started: float

    def write(self) -> None:
        """Writes it whole, so that a cut-off leaves the last one."""
        self.content["seconds"] = round(time.monotonic() - self.started, 1)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.content, indent=2) + "\n")
        partial.replace(self.path)


def print_table(content: dict[str, Any]) -> None:
    """The short table, and what was left out."""
    print(f"\n{content['device']}  {content['date']}  {content['seconds']:.0f} s")
    print(f"{'':4} {'':62} {'measured':>10} {'floor':>10} {'goal':>10}")
    for row in content["rows"]:
        limits = [("" if row[name] is None else f"{row[name]:g}") for name in ("floor", "goal")]
        print(f"{row['id']:4} {row['what']:62} {row['value']:>10.5g} {limits[0]:>10} {limits[1]:>10}  {row['verdict']}")
    for name, words in content["left_out"].items():
        print(f"{name:4} left out: {words}")


def run_parts(names: Sequence[str], report: Report, start: Callable[[], Suite], *, budget_s: float) -> None:
    """Each part in turn, while there is time; one that fails leaves a reason and fresh processes."""
    suite: Suite | None = None
    for name in names:
        part = PARTS[name]
        left = budget_s - RESERVE_S - (time.monotonic() - report.started)
        if left < part.expected_s:
            report.content["left_out"][name] = f"{left:.0f} s were left, and it takes about {part.expected_s:.0f} s"
            continue
        began = time.monotonic()
        try:
            suite = suite or start()
            suite.timeout_s = min(left, 3 * part.expected_s)
            measured = part.measure(suite)
            report.content["left_out"] |= measured.pop("left_out", {})
            report.content["parts"][name] = measured
            report.content["rows"] += part.rows(measured)
        except LeftOut as reason:
            report.content["left_out"][name] = str(reason)
        except WorkerError as error:
            report.content["left_out"][name] = f"failed: {error}"
            if suite:
                suite.kill()
            suite = None
        report.content["part_seconds"][name] = round(time.monotonic() - began, 1)
        report.write()
        print(f"{name}: {report.content['part_seconds'][name]} s", file=sys.stderr, flush=True)
    if suite:
        suite.close()


def make_report(path: Path, *, ours: dict[str, Any], told: str, smoke: bool) -> Report:
    """An empty report with what is known before anything is measured."""
    content = {
        "command": "python benchmarks/gpu_suite.py" + (" --smoke" if smoke else ""),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": ours["device"],
        "versions": ours["versions"],
        "peer": told,
        "num_cores": os.cpu_count(),
        "rows": [],
        "left_out": {},
        "parts": {},
        "part_seconds": {},
    }
    return Report(path, content, time.monotonic())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ROOT / "benchmarks" / "results" / "gpu_suite.json"
    parser.add_argument("--out", type=Path, default=default, help="JSON file to write")
    parser.add_argument("--budget-s", type=float, default=530.0, help="seconds for all of it")
    parser.add_argument("--only", help=f"parts separated by commas, of {', '.join(PARTS)}; default all")
    parser.add_argument("--torch-python", help="interpreter with PyTorch and timm; default TORCH_PYTHON, or this one")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, on whatever there is: whether it runs")
    parsed = parser.parse_args(arguments)
    started = time.monotonic()
    python, told = find_torch_python(
        parsed.torch_python or os.environ.get("TORCH_PYTHON") or sys.executable, make=False
    )
    first = start_jax({"XLA_PYTHON_CLIENT_MEM_FRACTION": MEMORY_SHARE})
    ours = first.ask("describe", timeout_s=120)
    if ours["platform"] != "gpu" and not parsed.smoke:
        first.kill()
        print(f"no GPU: jax sees {ours['device']}; --smoke runs tiny shapes without one", file=sys.stderr)
        return 64
    report = make_report(parsed.out, ours=ours, told=told, smoke=parsed.smoke)
    report.started = started
    waiting: list[Worker] = [first]

    def start() -> Suite:
        worker = waiting.pop() if waiting else start_jax({"XLA_PYTHON_CLIENT_MEM_FRACTION": MEMORY_SHARE})
        peer = start_torch(python) if python else None
        return Suite(SMOKE_CASES if parsed.smoke else CASES, worker, peer, ours, smoke=parsed.smoke)

    names = parsed.only.split(",") if parsed.only else list(PARTS)
    run_parts(names, report, start, budget_s=parsed.budget_s)
    report.write()
    print_table(report.content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
