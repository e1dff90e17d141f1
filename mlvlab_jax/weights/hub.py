"""Weights on the Hugging Face hub, fetched only where an id says so."""

import importlib
from pathlib import Path
from typing import Any

from mlvlab_jax.errors import ConfigError, DataError

_FILES = ("model.safetensors", "model.safetensors.index.json")


def fetch_weights(source: str) -> Path:
    """The file of `hf:owner/name[@revision]`, from the hub's own cache where it is there.

    Raises:
        ConfigError: Not such an id, or huggingface_hub is not installed.
        DataError: The hub cannot be reached, or has no such weights.
    """
    name, _, revision = source.removeprefix("hf:").partition("@")
    if len(name.split("/")) != 2 or not all(name.split("/")):
        raise ConfigError(
            f"{source!r}: expected hf:owner/name or hf:owner/name@revision, such as hf:timm/resnet18.a1_in1k"
        )
    try:
        hub: Any = importlib.import_module("huggingface_hub")
    except ImportError:
        raise ConfigError(
            f"{source!r}: huggingface_hub is not installed; expected it for weights of the hub; "
            "pip install 'mlvlab_jax[hub]', or fetch the file yourself and name its path"
        ) from None
    errors = importlib.import_module("huggingface_hub.errors")
    for file in _FILES:
        try:
            path = _fetch(hub, name, file, revision or None)
            if file == _FILES[1]:
                _fetch_shards(hub, name, path, revision or None)
            _fetch_labels(hub, errors, name, revision or None)
        except errors.LocalEntryNotFoundError:
            raise _offline(source, "it is not in the cache") from None
        except errors.EntryNotFoundError:
            continue
        except errors.RepositoryNotFoundError:
            raise DataError(f"{source}: the hub has no such repository, or hides it; check the id, or log in") from None
        except OSError as error:
            raise _offline(source, str(error)) from None
        return path
    raise DataError(f"{source}: holds none of {', '.join(_FILES)}; expected safetensors; name another repository")


def _fetch(hub: Any, name: str, file: str, revision: str | None) -> Path:
    return Path(hub.hf_hub_download(repo_id=name, filename=file, revision=revision))


def _fetch_shards(hub: Any, name: str, index: Path, revision: str | None) -> None:
    import json

    for shard in sorted(set(json.loads(index.read_text())["weight_map"].values())):
        _fetch(hub, name, shard, revision)


def _fetch_labels(hub: Any, errors: Any, name: str, revision: str | None) -> None:
    """The document that names the classes, where there is one."""
    try:
        _fetch(hub, name, "config.json", revision)
    except (errors.EntryNotFoundError, errors.LocalEntryNotFoundError):
        return


def _offline(source: str, reason: str) -> DataError:
    return DataError(
        f"{source}: the hub cannot be reached ({' '.join(reason.split())}); expected a connection, or the file in the "
        "cache; fetch it where there is one, and name its path"
    )
