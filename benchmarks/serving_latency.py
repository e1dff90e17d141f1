"""Goal C12: seconds from one image's pixels to its answer, ViT-Ti/16 at 224, beside ONNX Runtime; and memory of ViT-S.

Both have the same weights (scripts/export_onnx.py) and two threads on the same two cores; they take turns, A B B A.
"predictor_rss_mb": resident memory of a process with a predictor for ViT-S/16 with programs for up to 32 images, each
run, and the most it had on the way. The networks are those of runs of a few steps on synthetic images.

C12 needs an interpreter with what scripts/requirements-onnx.txt lists: --onnx-python PATH or ONNX_PYTHON.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mlvlab_jax.serving.predictor import Predictor

REPEATS, NUM_CALLS, NUM_CORES, MAX_BATCH = 10, 40, 2, 32
ROOT = Path(__file__).parents[1]
PEER = Path(__file__).parent / "onnx_latency.py"
CONFIG = """
model: {{name: vision_transformer, params: {{variant: {variant}, patch_size: 16}}}}
data: {{name: synthetic, params: {{num_train: 20, num_test: 10, height: 224, width: 224, channels: 3}}}}
training: {{batch_size: 8, num_epochs: 1}}
evaluation: {{batch_size: 8}}
"""


def make_package(folder: Path, variant: str) -> Path:
    config, run, package = (folder / f"{variant}{end}" for end in (".yaml", "-run", "-package"))
    config.write_text(CONFIG.format(variant=variant))
    train = [sys.executable, "-m", "mlvlab_jax.train", "--config", str(config), "--workdir", str(run)]
    subprocess.run(train, stdout=subprocess.DEVNULL, check=True, cwd=ROOT)
    pack = [sys.executable, "-m", "mlvlab_jax.package_model", "--workdir", str(run), "--out", str(package)]
    subprocess.run([*pack, "--name", variant], stdout=subprocess.DEVNULL, check=True, cwd=ROOT)
    return package


class Peer:
    """ONNX Runtime in a process of its own: told how often, it answers with the seconds of each call."""

    def __init__(self, python: str, package: Path, folder: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        export = [python, str(ROOT / "scripts/export_onnx.py"), str(package), str(folder / "model.onnx")]
        subprocess.run(export, env=environment, stdout=subprocess.DEVNULL, check=True)
        command = [python, str(PEER), str(folder / "model.onnx"), str(folder / "image.npy"), str(NUM_CORES)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, num_calls: int) -> list[float]:
        """Seconds of each of so many calls."""
        self._process.stdin.write(f"{num_calls}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait(30)


def our_seconds(predictor: Predictor, image: np.ndarray, num_calls: int) -> list[float]:
    found = []
    for _ in range(num_calls):
        started = time.perf_counter()
        predictor.predict(image)
        found.append(time.perf_counter() - started)
    return found


def measure_latency(python: str, folder: Path) -> dict[str, list[float]]:
    """Median milliseconds of a call, for each turn."""
    package = make_package(folder, "Ti")
    image = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    np.save(folder / "image.npy", image)
    peer, predictor = Peer(python, package, folder), Predictor.open(package, max_batch=1, compile_cache=False)
    turns = {"ours": lambda: our_seconds(predictor, image, NUM_CALLS), "onnxruntime": lambda: peer.ask(NUM_CALLS)}
    found: dict[str, list[float]] = {name: [] for name in turns}
    for repeat in range(-1, REPEATS):
        for name in turns if repeat % 2 == 0 else reversed(turns):
            time.sleep(0.2)  # onnxruntime's threads go on spinning for a while
            milliseconds = 1e3 * statistics.median(turns[name]())
            if repeat >= 0:
                found[name].append(round(milliseconds, 3))
    peer.close()
    return found


def measure_memory(package: Path) -> dict[str, float]:
    predictor = Predictor.open(package, max_batch=MAX_BATCH, compile_cache=False)
    predictor.predict(np.zeros((MAX_BATCH, *predictor.image), np.uint8))
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"rss": pages * resource.getpagesize() / 1e6, "peak": peak / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--onnx-python", default=os.environ.get("ONNX_PYTHON"), help="interpreter with onnxruntime")
    parser.add_argument("--memory", type=Path, metavar="PACKAGE", help="measure this process, and nothing else")
    parsed = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:NUM_CORES])
    if parsed.memory:
        print(json.dumps(measure_memory(parsed.memory)))
        return
    results: dict[str, object] = {}
    summary: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if parsed.onnx_python:
            results["latency_ms"] = found = measure_latency(parsed.onnx_python, folder)
            summary |= {f"{name}_ms": round(statistics.median(values), 2) for name, values in found.items()}
            ratios = [a / b for a, b in zip(found["ours"], found["onnxruntime"], strict=True)]
            summary["c12_ours_over_onnxruntime"] = round(statistics.median(ratios), 3)
            summary["c12_spread"] = [round(min(ratios), 3), round(max(ratios), 3)]
        command = [sys.executable, __file__, "--memory", str(make_package(folder, "S"))]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
        results["memory_mb"] = memory = json.loads(done.stdout.splitlines()[-1])
    summary |= {"predictor_rss_mb": round(memory["rss"]), "predictor_peak_rss_mb": round(memory["peak"])}
    print(json.dumps({"results": results, "summary": summary}))


if __name__ == "__main__":
    sys.exit(main())
