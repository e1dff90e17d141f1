"""The digest of a run's examples: of what the steps were fed, by numpy's account and on any mesh."""

import itertools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.config.schema import MeshConfig
from mlvlab_jax.data.stream import train_stream
from mlvlab_jax.engine.examples import append_batch, digest_batch
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.loop import run
from mlvlab_jax.engine.mesh import batch_sharding, make_mesh
from tests.conftest import RecordingTracker, tiny_config


def digest(ids, epochs):
    return float(digest_batch(jnp.asarray(ids, jnp.int32), jnp.asarray(epochs, jnp.int32)))


def by_numpy(ids, epochs):
    def mix(word):
        word = (word ^ word >> 16) * 0x85EBCA6B % 2**32
        word = (word ^ word >> 13) * 0xC2B2AE35 % 2**32
        return ((word ^ word >> 16) + 0x9E3779B9) % 2**32

    words = [mix(mix(mix(i) ^ e) ^ row) for row, (i, e) in enumerate(zip(ids.tolist(), epochs.tolist(), strict=True))]
    return float(sum(words) % 2**32 >> 8)


def test_every_other_batch_has_another_digest():
    ids, epochs = np.arange(0, 3200, 100), np.zeros(32, int)
    found = {digest(ids, epochs): "itself"}
    others = [(np.where(np.arange(32) == row, other, ids), epochs) for row in range(0, 32, 7) for other in (1, 3101)]
    others += [(ids[[b if i == a else a if i == b else i for i in range(32)]], epochs) for a, b in [(0, 1), (3, 19)]]
    others += [(ids, np.where(np.arange(32) == row, 1, 0)) for row in (0, 31)] + [(ids, epochs + 1), (ids + 1, epochs)]
    for batch in others:
        found.setdefault(digest(*batch), "another")
    assert len(found) == 1 + len(others)


def test_batches_lost_doubled_or_swapped_have_another_digest():
    def chain(batches):
        digest = 0
        for batch in batches:
            digest = append_batch(digest, float(batch))
        return digest

    batches = [5, 9, 2**24 - 1, 9]
    others = [*itertools.permutations(batches), batches[:-1], batches[1:], [*batches, 9], [5, 5, *batches[1:]]]
    assert sum(chain(other) == chain(batches) for other in others) == 2  # the two that are the same list
    assert chain(batches[:1]) == zlib.crc32(b"\x05\0\0\0")


@pytest.mark.parametrize("mesh", [MeshConfig(data=8), MeshConfig(data=2, fsdp=2, tensor=2)])
def test_the_digest_is_the_same_on_any_mesh(mesh):
    ids, epochs = np.random.default_rng(0).integers(0, 2**31, (2, 64)).astype(np.int32)
    placed = [jax.device_put(array, batch_sharding(make_mesh(mesh))) for array in (ids, epochs)]
    assert float(jax.jit(digest_batch)(*placed)) == by_numpy(ids, epochs)


@pytest.mark.parametrize("count", [1, 3])
def test_a_runs_digest_is_that_of_the_stream_whatever_interrupts_it(count, tmp_path):
    config = tiny_config(training={"steps_per_dispatch": count})
    experiment = make_experiment(config)
    expected = 0
    for batch in train_stream(experiment.data.train, batch_size=16, num_steps=18, seed=config.seed):
        expected = append_batch(expected, by_numpy(batch["example_id"], batch["epoch"]))
    run(config, workdir=tmp_path, tracker=RecordingTracker(), stop_requested=lambda step: step == 9)
    assert run(config, workdir=tmp_path, tracker=RecordingTracker()).progress.examples == expected
