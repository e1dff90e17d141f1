import os
import shutil

import pytest

from mlvlab_jax.registry.file_store import FileStore


@pytest.fixture(scope="session")
def migrated(tmp_path_factory):
    """An empty database of MLflow's, made once: making one takes seconds."""
    from mlvlab_jax.registry.mlflow_store import MLflowStore

    path = tmp_path_factory.mktemp("mlflow") / "registry.db"
    MLflowStore(f"sqlite:///{path}").names()
    return path


@pytest.fixture
def uri(migrated, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return f"sqlite:///{shutil.copy(migrated, tmp_path / 'registry.db')}"


@pytest.fixture(params=["files", "mlflow"])
def store(request, tmp_path):
    if request.param == "files":
        return FileStore(tmp_path / "registry")
    from mlvlab_jax.registry.mlflow_store import MLflowStore

    return MLflowStore(request.getfixturevalue("uri"))


@pytest.fixture(autouse=True)
def _mlflow_settings_stay_here():
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
