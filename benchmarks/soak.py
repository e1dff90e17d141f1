"""Does a long run of two processes stay as it is? What it compiles, and its memory, files and threads over the minutes.

`python benchmarks/soak.py --minutes 10 --out benchmarks/results/soak.json` trains a small network as two processes of
two fake devices each (gloo), with an evaluation and a save every 490 steps (some four a minute on two cores), and fits
a line to the resident memory of each process in the second half. Open files and threads come and go with each save; of
their numbers the medians of the last two quarters are compared. TensorStore's Python binding (0.1.86, Python 3.13)
keeps some 65 KB of every save, so that memory grows with the number of saves, whatever is trained.
"""

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

NUM_PROCESSES, NUM_DEVICES = 2, 2
BATCH_SIZE, STEPS_PER_EPOCH, EPOCHS_PER_EVALUATION, ASK_EVERY_STEPS = 32, 50, 10, 20
WARM_UP_FRACTION, SAMPLE_S = 0.5, 1.0


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "soak.json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.worker is not None:
        _work(json.loads(parsed.worker), parsed.minutes)
        return
    result = soak(parsed.minutes)
    parsed.out.parent.mkdir(parents=True, exist_ok=True)
    parsed.out.write_text(json.dumps(result, indent=2) + "\n")
    shown = [{k: v for k, v in process.items() if k != "rss_mib"} for process in result["processes"]]
    print(json.dumps(shown, indent=2))


def soak(minutes: float) -> dict[str, Any]:
    """Runs both processes to their end and gives what they measured."""
    flags = f"--xla_force_host_platform_device_count={NUM_DEVICES}"
    # glibc keeps free memory for each thread that ever saved; with one arena what is left is what the run holds.
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "MALLOC_ARENA_MAX": "1"}
    with socket.create_server(("127.0.0.1", 0)) as server:
        coordinator = f"127.0.0.1:{server.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for process_id in range(NUM_PROCESSES):
            place = {"coordinator": coordinator, "process_id": process_id, "folder": folder}
            command = [sys.executable, __file__, "--minutes", str(minutes), "--worker", json.dumps(place)]
            children.append(subprocess.Popen(command, env=environment))
        codes = [child.wait() for child in children]
        if any(codes):
            raise SystemExit(f"exit codes {codes}")
        processes = [json.loads((Path(folder) / f"{i}.json").read_text()) for i in range(NUM_PROCESSES)]
    return {
        "command": f"python benchmarks/soak.py --minutes {minutes:g}",
        "machine": {"cpu_count": os.cpu_count(), "machine": platform.machine()},
        "num_processes": NUM_PROCESSES,
        "devices_per_process": NUM_DEVICES,
        "processes": processes,
    }


class _Watch:
    """A tracker that looks at its own process: resident memory by time, and what was compiled after which step."""

    def __init__(self) -> None:
        import jax

        self.started = time.monotonic()
        self.samples: list[tuple[float, float]] = []
        self.counts: list[tuple[float, int, int]] = []
        self.compilations: list[tuple[int, str]] = []
        self.step = self.num_evaluations = 0
        self.settled_at: int | None = None
        jax.monitoring.register_event_duration_secs_listener(self._note_compilation)

    def _note_compilation(self, event: str, seconds: float, **what: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.compilations.append((self.step, str(what.get("fun_name", ""))))

    def progress(self, step: int, loss: float | None) -> None:
        self.step = step
        now = time.monotonic() - self.started
        if not self.samples or now - self.samples[-1][0] >= SAMPLE_S:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.samples.append((now, pages * os.sysconf("SC_PAGE_SIZE") / 2**20))
            self.counts.append((now, _count("fd"), _count("task")))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        if "validation/loss" in values:
            self.num_evaluations += 1
            # By the second evaluation everything that a run does has been done once, saving included.
            self.settled_at = step if self.num_evaluations == 2 else self.settled_at

    def start(self, info: Any) -> None: ...
    def images(self, step: int, values: Any) -> None: ...
    def histograms(self, step: int, values: Any) -> None: ...
    def note(self, text: str) -> None: ...
    def summary(self, values: Any) -> None: ...
    def finish(self) -> None: ...

    def describe(self, minutes: float) -> dict[str, Any]:
        """What is asserted and what is drawn."""
        settled = self.settled_at or sys.maxsize
        t, rss = np.array([s for s in self.samples if s[0] > WARM_UP_FRACTION * minutes * 60]).T
        *_, files, threads = np.array([c for c in self.counts if c[0] > WARM_UP_FRACTION * minutes * 60]).T
        return {
            "num_steps": self.step,
            "num_evaluations": self.num_evaluations,
            "num_compilations": len(self.compilations),
            "train_step_compiled_after_steps": [step for step, name in self.compilations if "train_step" in name],
            "settled_at_step": self.settled_at,
            "compiled_after_settling": [name for step, name in self.compilations if step > settled],
            "rss_first_mib": round(float(rss[0]), 2),
            "rss_last_mib": round(float(rss[-1]), 2),
            "rss_slope_mib_per_minute": round(float(np.polyfit(t / 60, rss, 1)[0]), 4),
            "files_median": _halves(files),
            "threads_median": _halves(threads),
            "rss_mib": [[round(x, 1), round(y, 2)] for x, y in self.samples[:: max(1, len(self.samples) // 300)]],
        }


def _count(kind: str) -> int:
    """Open files ("fd") or threads ("task") of this process."""
    return len(list(Path(f"/proc/self/{kind}").iterdir()))


def _halves(counts: np.ndarray) -> list[float]:
    """Medians of the first and the second half."""
    return [float(np.median(half)) for half in np.array_split(counts, 2)]


def _work(place: dict[str, Any], minutes: float) -> None:
    from mlvlab_jax.config.load import config_from_tree
    from mlvlab_jax.engine.distributed import from_first, join, parse_place
    from mlvlab_jax.engine.loop import run

    folder, process_id = Path(place["folder"]), place["process_id"]
    where = parse_place(place["coordinator"], num_processes=NUM_PROCESSES, process_id=process_id)
    join(where, timeout_s=300)
    num_train = BATCH_SIZE * STEPS_PER_EPOCH
    images = {"num_train": num_train, "num_test": 256, "height": 8, "width": 8, "channels": 1}
    config = config_from_tree(
        {
            "model": {"name": "cnn", "params": {"widths": [8, 16], "dropout": 0.1}},
            "data": {"name": "synthetic", "params": images},
            "pipeline": {"validation_fraction": 0.02, "augment": {"crop_padding": 1}},
            "evaluation": {"every_epochs": EPOCHS_PER_EVALUATION},
            "training": {"batch_size": BATCH_SIZE, "num_epochs": 10_000, "ema_decay": 0.99},
            "compile_cache": False,
        }
    )
    watch = _Watch()

    def time_is_up(step: int) -> bool:
        return step % ASK_EVERY_STEPS == 0 and from_first(lambda: time.monotonic() - watch.started > minutes * 60)

    run(config, workdir=folder / "run", tracker=watch, stop_requested=time_is_up)
    (folder / f"{process_id}.json").write_text(json.dumps(watch.describe(minutes)))


if __name__ == "__main__":
    main()
