import shutil
import sqlite3

import pytest

from mlvlab_jax.tracking.mlflow_store import import_mlflow


@pytest.fixture(scope="session")
def migrated(tmp_path_factory):
    """An MLflow database without runs; making one takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    import_mlflow().MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def database(migrated, tmp_path):
    """A database of the test's own, in a folder that no tracker writes."""
    path = tmp_path / "store" / "mlflow.db"
    path.parent.mkdir()
    shutil.copyfile(migrated, path)
    return path


class Client:
    """Reads a database as it is on disk now, by whatever connection."""

    def __init__(self, database):
        self._database = database

    def rows(self, query):
        with sqlite3.connect(f"file:{self._database}?mode=ro", uri=True) as connection:
            found = connection.execute(query).fetchall()
        connection.close()
        return found

    def history(self, key):
        return self.rows(f"SELECT step, value FROM metrics WHERE key = '{key}' ORDER BY timestamp, step")

    def pairs(self, table):
        return dict(self.rows(f"SELECT key, value FROM {table}"))


@pytest.fixture
def stored(database):
    return Client(database)


@pytest.fixture
def mlflow_client(database):
    return import_mlflow().MlflowClient(f"sqlite:///{database}")
