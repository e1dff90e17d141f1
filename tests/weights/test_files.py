import io
import json
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.weights.files import read_weights

ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float16)}


@pytest.fixture
def path(tmp_path) -> Path:
    safetensors.numpy.save_file(ARRAYS, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


class Bomb:
    def __reduce__(self):
        return Path("/dev/null").with_name, ("never",)


def torch_zip() -> bytes:
    """What torch.save writes: a zip of a pickle and the bytes of the tensors."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
        archive.writestr("archive/data/0", b"0000")
    return buffer.getvalue()


def object_npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.array([Bomb()], dtype=object))
    return buffer.getvalue()


def test_a_file_and_the_folder_it_lies_in_are_the_same(path):
    named, inside = read_weights(str(path)), read_weights(str(path.parent))
    assert named.sha256 == inside.sha256
    assert named.arrays["b"].dtype == np.float16
    np.testing.assert_array_equal(named.arrays["a.weight"], ARRAYS["a.weight"])


def test_bfloat16_is_read(tmp_path):
    import ml_dtypes

    safetensors.numpy.save_file({"a": np.array([1.5, -2], ml_dtypes.bfloat16)}, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(
        read_weights(str(tmp_path / "a.safetensors")).arrays["a"].astype(np.float32), [1.5, -2]
    )


def test_a_header_that_begins_as_a_pickle_does_is_none(tmp_path):
    path = tmp_path / "a.bin"
    for number in range(60, 100):
        data = safetensors.numpy.save({"a" * number: np.ones(2, np.float32), "b" * 200: np.ones(2, np.float32)})
        if data[:2] == b"\x80\x01":
            break
    assert data[:2] == b"\x80\x01"
    path.write_bytes(data)
    assert len(read_weights(str(path)).arrays) == 2


def test_shards_are_put_together(tmp_path):
    for number, name in enumerate(ARRAYS):
        safetensors.numpy.save_file({name: ARRAYS[name]}, tmp_path / f"{number}.safetensors")
    index = {"weight_map": {name: f"{number}.safetensors" for number, name in enumerate(ARRAYS)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_weights(str(tmp_path)).arrays.keys() == ARRAYS.keys()
    (tmp_path / "1.safetensors").unlink()
    with pytest.raises(DataError, match=r"names '1\.safetensors', which is not beside it"):
        read_weights(str(tmp_path))


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd"])
def test_an_index_leads_nowhere_else(tmp_path, path, name):
    folder = tmp_path / "inner"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(DataError, match="which is not beside it"):
        read_weights(str(folder))


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "weights.npz", "weights"])
@pytest.mark.parametrize("data", [pickle.dumps(Bomb()), pickle.dumps(Bomb(), protocol=0), torch_zip(), object_npz()])
def test_a_pickle_is_refused_whatever_it_is_called(tmp_path, name, data, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a pickle was read")

    for reader in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, reader, refuse)
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"pickle|not a whole safetensors file") as caught:
        read_weights(str(path))
    if data[:1] == b"\x80" or b"data.pkl" in data:
        assert "save_file" in str(caught.value)
        assert str(path) in str(caught.value)


def test_a_file_that_is_cut_off_is_named(path):
    data = path.read_bytes()
    for length in (4, 20, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match="not a whole safetensors file.*fetch it again"):
            read_weights(str(path))


def test_an_npz_that_is_cut_off_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"not an \.npz of arrays"):
        read_weights(str(tmp_path / "a.npz"))


def test_what_is_empty_or_not_there_is_named(tmp_path):
    (tmp_path / "empty.safetensors").touch()
    safetensors.numpy.save_file({}, tmp_path / "nothing.safetensors")
    for name, message in (
        ("empty.safetensors", "an empty file"),
        ("nothing.safetensors", "holds no arrays"),
        ("other.safetensors", "no such file"),
        (".", "a folder without weights"),
    ):
        with pytest.raises(DataError, match=message):
            read_weights(str(tmp_path / name))


def test_weights_of_a_package_are_those_of_its_manifest(path):
    (path.parent / "manifest.json").write_text(json.dumps({"files": {path.name: {"sha256": "0" * 64}}}))
    with pytest.raises(DataError, match="the manifest beside it says 0000"):
        read_weights(str(path))


def test_class_names_of_transformers_are_read_and_placeholders_are_none(path):
    config = path.parent / "config.json"
    config.write_text(json.dumps({"id2label": {"0": "cat", "1": "dog"}}))
    assert read_weights(str(path)).class_names == ("cat", "dog")
    config.write_text(json.dumps({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}))
    assert read_weights(str(path)).class_names is None


def test_a_hub_id_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'mlvlab_jax\[hub\]'"):
        read_weights("hf:timm/resnet18.a1_in1k")
    with pytest.raises(ConfigError, match="expected hf:owner/name"):
        read_weights("hf:resnet18")


@pytest.fixture
def hub(monkeypatch, path):
    """A hub that has one repository; `reached` is what was asked of it."""
    errors = types.ModuleType("huggingface_hub.errors")
    errors.EntryNotFoundError = type("EntryNotFoundError", (Exception,), {})
    errors.LocalEntryNotFoundError = type("LocalEntryNotFoundError", (FileNotFoundError, errors.EntryNotFoundError), {})
    errors.HfHubHTTPError = type("HfHubHTTPError", (Exception,), {})
    errors.RepositoryNotFoundError = type("RepositoryNotFoundError", (errors.HfHubHTTPError,), {})
    errors.RevisionNotFoundError = type("RevisionNotFoundError", (errors.HfHubHTTPError,), {})
    errors.HFValidationError = type("HFValidationError", (ValueError,), {})
    module = types.ModuleType("huggingface_hub")
    module.reached = []

    def download(*, repo_id, filename, revision):
        module.reached.append((repo_id, filename, revision))
        if repo_id == "who/offline":
            raise errors.LocalEntryNotFoundError
        if repo_id == "who/broken":
            raise errors.HfHubHTTPError("500")
        if repo_id == "who/gone":
            raise errors.RepositoryNotFoundError
        if filename != path.name or repo_id != "who/resnet":
            raise errors.EntryNotFoundError
        return str(path)

    module.hf_hub_download, module.errors = download, errors
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return module


def test_a_hub_id_is_fetched_at_its_revision(hub):
    assert read_weights("hf:who/resnet@v2").arrays.keys() == ARRAYS.keys()
    assert hub.reached[0] == ("who/resnet", "model.safetensors", "v2")


def test_nothing_is_fetched_for_a_path(hub, tmp_path):
    with pytest.raises(DataError):
        read_weights(str(tmp_path / "who/resnet"))
    assert hub.reached == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("offline", "the hub cannot be reached"),
        ("broken", r"cannot be reached \(500\)"),
        ("gone", "has no such repository"),
        ("pickles", "holds none of"),
    ],
)
def test_what_the_hub_cannot_give_is_said(hub, name, message):
    with pytest.raises(DataError, match=message):
        read_weights(f"hf:who/{name}")
