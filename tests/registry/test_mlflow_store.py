import json
import os
import socket
import threading

import pytest

from mlvlab_jax.errors import PackageError, RegistryError
from mlvlab_jax.registry import ModelRegistry
from mlvlab_jax.registry.mlflow_store import MLflowStore
from mlvlab_jax.registry.model_registry import open_store
from tests.registry.packages import make_package


class Model:
    pass


def test_what_mlflow_shows_of_a_version(uri, tmp_path):
    from mlflow import MlflowClient

    package = make_package(tmp_path / "package")
    registry = ModelRegistry(MLflowStore(uri))
    record = registry.register(name="digits", version="1.0.0", package=package, metadata={"note": "first"})
    registry.promote("digits", "1.0.0")

    client = MlflowClient(uri, uri)
    found = client.get_model_version_by_alias("digits", "champion")
    assert (found.tags["semver"], str(found.version)) == ("1.0.0", "1")
    assert json.loads(found.tags["mlvlab_record"]) == record.to_tree()
    assert found.source == f"{(tmp_path / 'registry.artifacts').as_uri()}/{found.run_id}/artifacts/package"
    assert {item.path for item in client.list_artifacts(found.run_id, "package/evaluation")} == {
        "package/evaluation/evaluation.json",
        "package/evaluation/predictions.parquet",
    }
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_package_is_fetched_once_and_the_server_is_what_is_verified(uri, tmp_path):
    registry = ModelRegistry(MLflowStore(uri))
    registry.register(name="m", version="1.0.0", package=make_package(tmp_path / "package"))
    fetched = registry.open_package("m", "1.0.0")
    assert fetched.is_relative_to(tmp_path / "cache" / "mlvlab_jax" / "packages")
    assert [path.name for path in fetched.parent.iterdir()] == [fetched.name]
    (kept,) = (tmp_path / "registry.artifacts").rglob("README.md")
    kept.write_text(kept.read_text().swapcase())
    assert registry.open_package("m", "1.0.0") == fetched
    with pytest.raises(PackageError, match="README.md: was altered"):
        registry.verify("m", "1.0.0")


def test_of_several_writers_of_a_version_exactly_one_wins(uri):
    said, barrier = [[] for _ in range(4)], threading.Barrier(4)

    def register(k):
        registry = ModelRegistry(MLflowStore(uri))
        for version in ("1.0.0", "1.1.0"):
            barrier.wait()
            try:
                registry.register(name="m", version=version, model_class=Model, metadata={"writer": k})
                said[k].append("registered")
            except RegistryError as error:
                said[k].append(str(error))

    threads = [threading.Thread(target=register, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    registry = ModelRegistry(MLflowStore(uri))
    assert [record.version for record in registry.list("m")] == ["1.0.0", "1.1.0"]
    for at, version in enumerate(("1.0.0", "1.1.0")):
        assert [k for k in range(4) if said[k][at] == "registered"] == [registry.get("m", version).metadata["writer"]]
        assert sum(f"m {version}: exists in" in texts[at] for texts in said) == 3, said


def test_of_two_versions_of_one_number_the_first_counts_and_the_second_writer_is_told(uri, monkeypatch):
    store = MLflowStore(uri)
    first = ModelRegistry(store).register(name="m", version="1.0.0", model_class=Model, metadata={"writer": 1})
    late = MLflowStore(uri)
    look, looked = late._numbered, []

    def blind_once(name):
        looked.append(name)
        return {} if len(looked) == 1 else look(name)

    monkeypatch.setattr(late, "_numbered", blind_once)
    with pytest.raises(RegistryError, match="m 1.0.0: exists"):
        ModelRegistry(late).register(name="m", version="1.0.0", model_class=Model, metadata={"writer": 2})
    assert store.get("m", "1.0.0") == first
    assert len(store._client.search_model_versions("name = 'm'")) == 1


def test_models_of_others_are_passed_over(uri):
    from mlflow import MlflowClient

    client = MlflowClient(uri, uri)
    client.create_registered_model("theirs")
    client.create_model_version("theirs", "/somewhere")
    client.set_registered_model_alias("theirs", "champion", "1")
    registry = ModelRegistry(MLflowStore(uri))
    assert registry.list() == ()
    with pytest.raises(RegistryError, match="no model 'theirs' is registered"):
        registry.get("theirs", "champion")
    registry.register(name="theirs", version="1.0.0", model_class=Model)
    assert [record.version for record in registry.list()] == ["1.0.0"]
    assert registry.aliases("theirs") == {}


def test_an_alias_that_was_moved_with_mlflows_own_tools_can_be_rolled_back(uri, tmp_path):
    from mlflow import MlflowClient

    registry = ModelRegistry(MLflowStore(uri))
    for k in range(2):
        registry.register(name="m", version=f"1.{k}.0", package=make_package(tmp_path / str(k)))
    registry.promote("m", "1.0.0")
    MlflowClient(uri, uri).set_registered_model_alias("m", "champion", "2")
    assert registry.get("m", "champion").version == "1.1.0"
    assert registry.rollback("m").version == "1.0.0"


def test_too_much_metadata_is_refused(uri):
    with pytest.raises(RegistryError, match="characters of metadata; expected 60000 at most"):
        ModelRegistry(MLflowStore(uri)).register(
            name="m", version="1.0.0", model_class=Model, metadata={"x": "y" * 60_000}
        )


def test_a_server_that_is_down_is_one_message(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"http://localhost:{free.getsockname()[1]}"
    registry = ModelRegistry(open_store(address))
    for call in (
        registry.list,
        lambda: registry.register(name="m", version="1.0.0", model_class=Model),
        lambda: registry.get("m", "champion"),
    ):
        with pytest.raises(RegistryError, match="MLflow says: .*; is the server up and the address right?") as caught:
            call()
        assert str(caught.value).startswith(address)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["nosuch://x", "file:///tmp/x"])
def test_an_address_mlflow_does_not_take_is_one_message(address):
    with pytest.raises(RegistryError, match=f"{address}: MLflow says"):
        ModelRegistry(open_store(address)).list()


def test_mlflow_not_installed_is_one_message(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(RegistryError, match=r"pip install 'mlvlab_jax\[track\]'"):
        open_store("http://localhost:5000")
