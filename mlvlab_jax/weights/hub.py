"""Weights on the Hugging Face hub, fetched only where an id says so."""

import contextlib
import json
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
    errors, download = _import_hub(source)

    def fetch(file: str) -> Path:
        return Path(download(repo_id=name, filename=file, revision=revision or None))

    for file in _FILES:
        try:
            path = fetch(file)
            for shard in _list_shards(path):
                fetch(shard)
            with contextlib.suppress(errors.EntryNotFoundError):
                fetch("config.json")  # which names the classes
        except errors.LocalEntryNotFoundError:
            raise _offline(source, "it is not in the cache") from None
        except errors.EntryNotFoundError:
            continue
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError):
            raise DataError(
                f"{source}: the hub has no such repository or revision, or hides it; check the id, or log in"
            ) from None
        except (errors.HfHubHTTPError, OSError) as error:
            raise _offline(source, str(error)) from None
        return path
    raise DataError(f"{source}: holds none of {', '.join(_FILES)}; expected safetensors; name another repository")


def _import_hub(source: str) -> tuple[Any, Any]:
    """Its errors, and its function that fetches a file."""
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError as error:
        raise ConfigError(
            f"{source!r}: huggingface_hub is not installed ({error}); expected it for weights of the hub; "
            "pip install 'mlvlab_jax[hub]', or fetch the file yourself and name its path"
        ) from None
    return errors, hf_hub_download


def _list_shards(path: Path) -> list[str]:
    """The files that `path` is the index of; none where it is weights itself."""
    if path.name != _FILES[1]:
        return []
    return sorted(set(json.loads(path.read_text())["weight_map"].values()))


def _offline(source: str, reason: str) -> DataError:
    return DataError(
        f"{source}: the hub cannot be reached ({' '.join(reason.split())}); expected a connection, or the file in the "
        "cache; fetch it where there is one, and name its path"
    )
