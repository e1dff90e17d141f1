"""Answers of a model that never was: dim or bright images of noise, three classes, embeddings of the brightness."""

import json
import time
from pathlib import Path

import numpy as np

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.monitoring import MonitoringConfig
from mlvlab_jax.monitoring.observation import Observation
from mlvlab_jax.package.reference import make_reference, measure_values

CLASS_NAMES = ("cat", "dog", "7")
#: The cheapest detector: one test of one dimension.
TESTS = [{"name": "kolmogorov_smirnov"}]


def draw(rng, num, *, dim=1.0):
    """Images (num 8 8 1), probabilities (num 3) and embeddings (num 4); all of them change with `dim`."""
    level = rng.normal(120, 15, (num, 1, 1, 1)) * dim
    images = np.clip(level + rng.normal(0, 10, (num, 8, 8, 1)), 0, 255).astype(np.uint8)
    probabilities = rng.dirichlet((8, 2, 1), num).astype(np.float32)
    embedding = rng.normal(0, 1, (num, 4)) + np.array([1.0, 0, 0, 0]) * (level.reshape(num, 1) / 15 - 8)
    return images, probabilities, embedding.astype(np.float32)


def draw_reference(num=1500, seed=0):
    images, probabilities, embedding = draw(np.random.default_rng(seed), num)
    values = measure_values(images, sizes_px=np.full((num, 2), 8), probabilities=probabilities)
    prediction = probabilities.argmax(1)
    return make_reference(split="test", values=values, prediction=prediction, label=prediction, embedding=embedding)


def draw_observations(seed, num=500, *, dim=1.0, version="v1"):
    images, probabilities, embedding = draw(np.random.default_rng(seed), num, dim=dim)
    return [
        Observation(f"r{seed}-{i}", 0, images[i], (8, 8), probabilities[i], embedding[i], 0.01, version, 1e9 + i)
        for i in range(num)
    ]


def make_config(folder=None, **changes):
    tree = {"folder": str(folder) if folder else None, "num_worst_images": 3, "drift": {"tests": TESTS}}
    return params_from(MonitoringConfig, tree | changes)


def read_lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def wait_until(done, *, timeout_s=60.0):
    """Waits for another thread; a test that waits in vain fails."""
    end = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
