"""One small package, made once, and what answers from it."""

import dataclasses

import pytest

from mlvlab_jax.package.load import load_package
from mlvlab_jax.serving.predictor import Predictor
from tests.package.trained import make_tiny_package
from tests.serving.fakes import close_all, make_serving


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Folder of a package of a network for 8 x 8 colour images."""
    return make_tiny_package(tmp_path_factory.mktemp("runs") / "tiny", channels=3)


@pytest.fixture(scope="session")
def package(made):
    """The package in it, as if a temperature had been fitted."""
    return dataclasses.replace(load_package(made), temperature=2.5)


@pytest.fixture(scope="session")
def predictor(package):
    return Predictor(package, max_batch=6)


@pytest.fixture(autouse=True)
def closed():
    """Ends the threads of the fakes a test made."""
    yield
    close_all()


@pytest.fixture
def serving():
    """An application around a fake model, and what its observers were told."""
    return make_serving()
