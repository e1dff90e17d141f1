"""Small trained runs and their packages, made in seconds."""

import datetime

from mlvlab_jax.engine.loop import run
from mlvlab_jax.package.build import write_package
from tests.conftest import RecordingTracker, merge, tiny_config

TODAY = datetime.date(2026, 11, 23)


def train_tiny(folder, *, size=(8, 8), channels=1, **changes):
    """The folder of a run of 9 steps on synthetic images of ten classes: batch statistics, a moving average."""
    height, width = size
    small = {
        "model": {"name": "cnn", "params": {"widths": [8, 16], "norm": "batch"}},
        "data": {"params": {"height": height, "width": width, "channels": channels}},
        "training": {"ema_decay": 0.9, "num_epochs": 2},
        "compile_cache": False,
    }
    run(tiny_config(**merge(small, changes)), workdir=folder, tracker=RecordingTracker())
    return folder


def make_tiny_package(folder, *, name="tiny", size=(8, 8), channels=1, **changes):
    """The package of such a run, at `folder`/package; `changes` are of its configuration."""
    train_tiny(folder, size=size, channels=channels, **changes)
    return write_package(folder, name=name, today=TODAY)
