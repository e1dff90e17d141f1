"""One small trained run and its package, made once: batch statistics, a moving average, eight devices."""

import shutil

import pytest

from mlvlab_jax.package.build import write_package
from tests.package.trained import TODAY, train_tiny


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    return train_tiny(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="session")
def made(workdir):
    """The package as it was made; tests that change it take `package`."""
    return write_package(workdir, today=TODAY)


@pytest.fixture
def package(made, tmp_path):
    return shutil.copytree(made, tmp_path / "package")
