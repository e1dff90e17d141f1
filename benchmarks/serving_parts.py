"""What serving.py serves and how: packages of models that were trained for one step, and servers in processes."""

import contextlib
import datetime
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
#: Name -> model, and side of its square grey images. tiny: overhead alone. wide: one token, so that reading the 21
#: million weights of a ViT-S for each batch takes longer than computing with them, as on an accelerator. vit: four
#: tokens; from four images on, two cores do nothing but compute. slow: it computes for so long that eight times its
#: load can be made and refused beside it. vit_s: a ViT-S/16 on photographs.
MODELS = {
    "tiny": ({"name": "cnn", "params": {"widths": [8, 16]}}, 8),
    "wide": ({"name": "vision_transformer", "params": {"variant": "S", "patch_size": 16, "pool": "gap"}}, 16),
    "vit": ({"name": "vision_transformer", "params": {"variant": "S", "patch_size": 8, "pool": "gap"}}, 16),
    "slow": ({"name": "vision_transformer", "params": {"variant": "S", "patch_size": 8, "pool": "gap"}}, 128),
    "vit_s": ({"name": "vision_transformer", "params": {"variant": "S", "patch_size": 16}}, 224),
}


class _Silent:
    """A tracker that writes nothing."""

    def __getattr__(self, name: str) -> object:
        return lambda *arguments, **options: None


def make_package(folder: Path, model: str, *, seed: int = 0, num_train: int = 8) -> Path:
    """A package of one of `MODELS`, of synthetic images; a tenth of `num_train` is its reference."""
    from mlvlab_jax.config.load import config_from_tree
    from mlvlab_jax.engine.loop import run
    from mlvlab_jax.package.build import write_package

    network, side = MODELS[model]
    data = {"num_train": num_train, "num_test": 4, "height": side, "width": side, "channels": 1}
    tree = {
        "seed": seed,
        "model": network,
        "data": {"name": "synthetic", "params": data},
        "training": {"batch_size": 2, "num_epochs": 2 / num_train},
    }
    workdir = folder / f"{model}-{seed}"
    run(config_from_tree(tree), workdir=workdir, tracker=_Silent())
    return write_package(workdir, name=model, today=datetime.datetime.now(datetime.UTC).date())


def write_picture(path: Path, model: str) -> Path:
    """A noisy PNG of the size that the model takes."""
    import numpy as np
    from PIL import Image

    side = MODELS[model][1]
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)).save(path)
    return path


class Server(NamedTuple):
    """A running server. seconds_to_ready: from the start of the process. log: what it wrote on standard error."""

    process: subprocess.Popen[str]
    port: int
    seconds_to_ready: float
    log: Path

    def rss_mib(self, what: str = "VmRSS") -> float:
        """Memory in use; of "VmHWM" the most there was."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return round(int(re.search(rf"{what}:\s+(\d+) kB", status)[1]) / 1024, 1)

    def metric(self, name: str) -> float:
        """Value of a metric without labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as reply:
            return float(re.search(rf"^{name} (\S+)$", reply.read().decode(), re.MULTILINE)[1])


@contextlib.contextmanager
def serving(
    folder: Path, *arguments: str, environment: dict[str, str] | None = None, prelude: str = ""
) -> Iterator[Server]:
    """`mlvlab serve` with these arguments on a free port, until the block ends; `prelude` is Python run before."""
    log = folder / f"server-{len(list(folder.glob('server-*')))}.log"
    start = f"{prelude}\nimport sys\nfrom mlvlab_jax.serve import main\nsys.exit(main())"
    command = [sys.executable, "-c", start, *arguments, "--port", "0"]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
        )
    try:
        port, ready = 0, None
        while ready is None:
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"{' '.join(command)}: it ended: {log.read_text()[-2000:]}")
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/", line):
                port = int(found[1])
            ready = re.match(r"ready after (\S+) s", line)
        yield Server(process, port, float(ready[1]), log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
