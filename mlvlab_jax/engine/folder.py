"""The run folder: one writer, a configuration that does not change under a run, and a record of what made it."""

import contextlib
import datetime
import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from mlvlab_jax.config.load import compute_hash, config_from_tree, diff_identity, flatten, to_yaml
from mlvlab_jax.config.schema import Config
from mlvlab_jax.data.versions import describe_git
from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.files import exclusive_writer, sha256_file, write_atomic, write_json

_RECORDED = ("mlvlab_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "clu", "numpy")
#: How the names of the environment variables begin that change what XLA and JAX do.
_FLAGS = ("JAX_", "XLA_", "LIBTPU_", "TPU_")


@contextlib.contextmanager
def open_run_folder(folder: Path, config: Config) -> Iterator[None]:
    """Holds the folder for this process; a folder that got nothing but the lock is taken away again.

    Raises:
        ConfigError: It holds something other than a run, or a run of another configuration; the message has the diff.
        RunFolderError: Another live process writes it.
    """
    check_run_folder(folder, config)
    with exclusive_writer(folder):
        try:
            yield
        finally:
            if [entry.name for entry in folder.iterdir()] == ["run.lock"]:
                (folder / "run.lock").unlink()
                folder.rmdir()


def check_run_folder(folder: Path, config: Config) -> None:
    """Refuses a folder in which `config` could not be started or gone on with; another mesh is no hindrance.

    Raises:
        ConfigError: As in `open_run_folder`.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: is a file; expected a folder; give another --workdir")
    if not (folder / "config.yaml").exists():
        foreign = [e.name for e in folder.iterdir() if e.name != "run.lock"] if folder.exists() else []
        if foreign:
            raise ConfigError(
                f"{folder}: holds {sorted(foreign)[:3]} but no run; expected an empty folder, a new one, or a run's; "
                "give another --workdir"
            )
        return
    # The mesh says where, not what: a run may go on wherever it fits, and the manifest names each place.
    changes = [line for line in diff_identity(read_config(folder), config) if not line.startswith("mesh.")]
    if changes:
        listed = "\n".join(f"  {line}" for line in changes)
        raise ConfigError(
            f"{folder}: holds a run of another configuration (there -> here):\n{listed}\n"
            "go on with the old one, or give another --workdir"
        )


def read_config(folder: Path) -> Config:
    """The resolved configuration of the run in `folder`.

    Raises:
        ConfigError: There is no run.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{folder}: no config.yaml, so no run; check --workdir")
    return config_from_tree(yaml.safe_load(path.read_text()))


def write_start(
    folder: Path,
    config: Config,
    *,
    data_identity: dict[str, str],
    data_version: Sequence[dict[str, Any]] = (),
    weights: dict[str, Any] | None = None,
    teacher: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Writes config.yaml and manifest.json; on resume the manifest gains a session and keeps the others.

    Args:
        folder: Of the run.
        config: What it does.
        data_identity: Digests of its data.
        data_version: What DVC recorded of them.
        weights: Where those are from that it began with; None: of chance, or noted before.
        teacher: What it learns from beside the labels: package and sha256 of its weights.

    Returns:
        The manifest.

    Raises:
        DataError: The run in the folder was started on other data, or with another teacher.
    """
    path = folder / "manifest.json"
    earlier: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"sessions": [], "data": data_identity}
    if earlier["data"] != data_identity:
        raise DataError(
            f"{folder}: the run was started on other data: {earlier['data']} there, {data_identity} now; "
            "bring the old data back, or give another --workdir"
        )
    if teacher and earlier.get("teacher", teacher)["sha256"] != teacher["sha256"]:
        raise DataError(
            f"{teacher['package']}: SHA-256 {teacher['sha256']}; the run in {folder} was taught by "
            f"{earlier['teacher']['sha256']}; bring that package back, or give another --workdir"
        )
    write_atomic(folder / "config.yaml", to_yaml(config).encode())
    manifest = {
        "config_hash": compute_hash(config),
        "seed": config.seed,
        "data": data_identity,
        "data_version": list(data_version),
        "sessions": [*earlier["sessions"], describe_session(config)],
    }
    if noted := weights or earlier.get("weights"):
        manifest["weights"] = noted
    if teacher:
        manifest["teacher"] = teacher
    write_json(path, manifest)
    return manifest


def describe_tags(manifest: dict[str, Any]) -> dict[str, str]:
    """What made the run, of its newest session, flat and as text: {"seed": "0", "git.commit": ...}."""
    listed = {name: value for name, value in manifest.items() if name != "sessions"} | manifest["sessions"][-1]
    return {name: str(value) for name, value in flatten(listed).items()}


def describe_move(manifest: dict[str, Any]) -> list[str]:
    """A line for the person watching where the newest session runs otherwise than the one before it; else none."""
    places = [(session.get("mesh"), session["num_processes"]) for session in manifest["sessions"][-2:]]
    if len(places) < 2 or places[0] == places[1]:
        return []
    before, now = (f"mesh {mesh}, {number} process{'es' * (number > 1)}" for mesh, number in places)
    return [f"now on {now}, before on {before}: the numbers are the same up to rounding, no longer bit for bit"]


def describe_session(config: Config) -> dict[str, Any]:
    """What manifest.json says of one start of a run: when, by which command, with what and on what."""
    import jax

    from mlvlab_jax.engine.mesh import make_mesh

    git = describe_git(Path.cwd())
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": list_versions(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "devices": [f"{d.platform}:{d.id} {d.device_kind}" for d in jax.devices()],
        "num_processes": jax.process_count(),
        "mesh": dict(make_mesh(config.mesh).shape),
        "flags": {name: value for name, value in sorted(os.environ.items()) if name.startswith(_FLAGS)},
        "git": git._asdict() if git else None,
        "lock": _describe_lock(),
    }


def list_versions() -> dict[str, str | None]:
    """Versions of what a run is made with, by the names of the packages; None of one that is not installed."""
    return {name: _version(name) for name in _RECORDED}


def _describe_lock() -> dict[str, str]:
    """Digest of requirements.lock in the folder of the project, or of what is installed where there is none."""
    lock = Path("requirements.lock")
    if lock.is_file():
        return {"of": lock.name, "sha256": sha256_file(lock)}
    installed = sorted({f"{found.name}=={found.version}" for found in metadata.distributions()})
    return {"of": "installed packages", "sha256": hashlib.sha256("\n".join(installed).encode()).hexdigest()}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
