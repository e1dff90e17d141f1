"""Traps of the libraries below, kept as tests so that a bad release is noticed."""

import subprocess
import sys

import jax
import jax.numpy as jnp


def test_small_matrix_products_are_right_when_vmapped():
    # Wrong in jaxlib 0.10.2 on CPU (jax#39103).
    i = jnp.arange(32769, dtype=jnp.float32)
    x = jnp.stack((i, 0 * i, 0 * i), 1)
    result = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(x)
    assert result[-1] == 32768.0**2


def test_clu_writers_and_tfds_leave_tensorflow_alone():
    code = (
        "import sys; from mlvlab_jax.tracking.clu_bridge import import_metric_writers as w; writers = w();"
        "import clu.periodic_actions, tensorflow_datasets; "
        "assert writers.SummaryWriter.__module__ == 'mlvlab_jax.tracking.clu_bridge';"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_configuration_and_its_errors_leave_jax_alone():
    code = (
        "import sys; from mlvlab_jax.train import main; "
        "code = main(['--config', 'configs/digits.yaml', 'model.params.width=3']);"
        "sys.exit(code != 64 or 'jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
