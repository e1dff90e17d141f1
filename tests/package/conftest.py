"""One small trained run and its package, made once: batch statistics, a moving average, eight devices."""

import datetime

import pytest

from mlvlab_jax.engine.loop import run
from mlvlab_jax.package.build import write_package
from tests.conftest import RecordingTracker, tiny_config

TODAY = datetime.date(2026, 11, 23)


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    config = tiny_config(
        model={"name": "cnn", "params": {"widths": [8, 16], "norm": "batch"}},
        training={"ema_decay": 0.9, "num_epochs": 2},
        compile_cache=False,
    )
    run(config, workdir=folder, tracker=RecordingTracker())
    return folder


@pytest.fixture(scope="session")
def made(workdir):
    """The package as it was made; tests that change it take `package`."""
    return write_package(workdir, today=TODAY)


@pytest.fixture
def package(made, tmp_path):
    import shutil

    return shutil.copytree(made, tmp_path / "package")
