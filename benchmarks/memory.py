"""Peak resident memory of whole training processes: digits as shipped, and the start of a Fashion-MNIST run.

The Fashion-MNIST run makes half an epoch, with its evaluations, checkpoints and test.
It needs the prepared data set in the folder TFDS_DATA_DIR names (default ~/tensorflow_datasets), else it is left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPEATS = 3
RUNS = {"digits": [], "fashion_mnist_cnn": ["training.num_epochs=0.5", "evaluation.every_epochs=0.25"]}


def peak_rss_mb(config: str, overrides: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mlvlab_jax.train", "--config", f"configs/{config}.yaml"]
        process = subprocess.Popen(
            [*command, "--workdir", f"{folder}/run", *overrides], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{config}: ended with exit code {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss * 1024 / 1e6


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    data_dir = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    results = {}
    for config, overrides in RUNS.items():
        if config.startswith("fashion") and not (data_dir / "fashion_mnist").exists():
            continue
        place = [f"data.params.data_dir={data_dir}"] if config.startswith("fashion") else []
        results[config] = [peak_rss_mb(config, [*overrides, *place]) for _ in range(REPEATS)]
    summary = {f"{name}_peak_rss_mb": round(statistics.median(values)) for name, values in results.items()}
    print(json.dumps({"results": results, "summary": summary}))


if __name__ == "__main__":
    sys.exit(main())
