"""Eight fake CPU devices, rank promotion an error, shapes and types of the package checked at run time."""

import os
import tempfile

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

from jaxtyping import install_import_hook

install_import_hook(
    ["mlvlab_jax.data.augment", "mlvlab_jax.engine.losses", "mlvlab_jax.models.nets"], "beartype.beartype"
)

from pathlib import Path

import jax
import pytest

from mlvlab_jax.config.load import config_from_tree
from mlvlab_jax.config.schema import Config
from mlvlab_jax.types import RunInfo

jax.config.update("jax_numpy_rank_promotion", "raise")
# Many tests compile the same small programs; they share them for this session.
jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp(prefix="mlvlab-test-xla-"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

ROOT = Path(__file__).parents[1]


class RecordingTracker:
    """Keeps everything it is told."""

    def __init__(self):
        self.info: RunInfo | None = None
        self.records: list[tuple[int, dict]] = []
        self.shown: dict = {}
        self.notes: list[str] = []
        self.finished = 0

    def start(self, info):
        self.info = info

    def scalars(self, step, values):
        self.records.append((step, dict(values)))

    def images(self, step, values):
        self.shown |= values

    def histograms(self, step, values):
        self.shown |= values

    def progress(self, step, loss):
        pass

    def note(self, text):
        self.notes.append(text)

    def summary(self, values):
        self.summed_up = values

    def finish(self):
        self.finished += 1


@pytest.fixture
def tracker():
    return RecordingTracker()


def merge(tree: dict, changes: dict) -> dict:
    merged = dict(tree)
    if changes.get("name", tree.get("name")) != tree.get("name"):
        merged.pop("params", None)  # as the loader does: another plugin, other parameters
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


TINY = {
    "model": {"name": "cnn", "params": {"widths": [8, 16], "dropout": 0.2}},
    "data": {"name": "synthetic", "params": {"num_train": 80, "num_test": 20, "height": 8, "width": 8, "channels": 1}},
    "pipeline": {"augment": {"crop_padding": 1, "horizontal_flip": True}},
    "training": {"batch_size": 16, "num_epochs": 4, "learning_rate": 0.01},
    "tracking": {"log_every_steps": 3},
    "mesh": {"data": 8},
}


def tiny_config(**changes) -> Config:
    """A run of a few seconds: 18 steps (4 epochs of 72) of 16 on synthetic images."""
    return config_from_tree(merge(TINY, changes))
