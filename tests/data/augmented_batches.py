"""Prints ids and a digest of the augmented pixels of three batches, as one of several processes of one run.

Called as: augmented_batches.py ADDRESS NUM_PROCESSES PROCESS DEVICES_EACH
"""

import hashlib
import json
import os
import sys

address, num_processes, process, num_devices = sys.argv[1], *map(int, sys.argv[2:])
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={num_devices}"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

if num_processes > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, num_processes, process)

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.schema import MeshConfig, PipelineConfig
from mlvlab_jax.data.device import double_buffer
from mlvlab_jax.data.open import open_data
from mlvlab_jax.data.stream import Readers, Shard, train_stream
from mlvlab_jax.engine.mesh import batch_sharding, make_mesh, replicated
from mlvlab_jax.engine.step import augment_batch
from mlvlab_jax.plugins import SOURCES, Spec

PIPELINE = {
    "augment": {
        "random_resized_crop": {},
        "horizontal_flip": True,
        "color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4},
    }
}


def main() -> None:
    mesh = make_mesh(MeshConfig())
    pipeline = params_from(PipelineConfig, PIPELINE)
    source = Spec("synthetic", params_from(SOURCES.entry("synthetic").params, {"num_train": 50, "num_test": 8}))
    data = open_data(source, pipeline, seed=7)
    shard = Shard(jax.process_index(), jax.process_count())
    stream = train_stream(data.train, batch_size=16, num_steps=3, seed=7, shard=shard, readers=Readers.of(pipeline))
    key = jax.device_put(np.asarray(jax.random.key_data(jax.random.key(7))), replicated(mesh))
    change = jax.jit(
        lambda key, batch: (augment_batch(key, batch, pipeline.augment), batch["example_id"]),
        out_shardings=replicated(mesh),
    )
    ids, digest = [], hashlib.sha256()
    for batch in double_buffer(stream, batch_sharding(mesh)):
        pixels, example_ids = change(key, batch)
        ids.append(np.asarray(example_ids).tolist())
        digest.update(np.asarray(pixels).tobytes())
    print(json.dumps({"ids": ids, "pixels": digest.hexdigest(), "devices": jax.device_count()}))


main()
