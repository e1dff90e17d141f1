"""A copy of a package that is on the disk, byte for byte, before anyone can see it."""

import os
import shutil
from pathlib import Path

from mlvlab_jax.errors import PackageError
from mlvlab_jax.package.manifest import Manifest
from mlvlab_jax.package.members import MANIFEST
from mlvlab_jax.package.verify import check_listing, verify_files
from mlvlab_jax.registry.store import ModelVersion


def copy_package(source: Path, target: Path, record: ModelVersion) -> None:
    """Copies the package in `source` to the new folder `target`, read-only, and verifies the copy.

    Raises:
        PackageError: `source` is not whole, or is not the package of `record` any more.
    """
    for name in (MANIFEST, *check_listing(source).files):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name, follow_symlinks=False)
        (target / name).chmod((target / name).stat().st_mode & 0o444)
        sync(target / name)
    for folder in [target, *(path for path in target.rglob("*") if path.is_dir())]:
        sync(folder)
    verify_copy(target, record)


def verify_copy(folder: Path, record: ModelVersion) -> Manifest:
    """Checks that `folder` holds the package that was registered, whole.

    Raises:
        PackageError: It does not.
    """
    manifest = verify_files(folder)
    if manifest.sha256 != record.package_sha256:
        raise PackageError(
            f"{folder}: holds the package {manifest.sha256}; expected {record.package_sha256}, as registered for "
            f"{record.name} {record.version}; bring that one back, or register this one as a new version"
        )
    return manifest


def sync(path: Path) -> None:
    """Returns when the bytes of a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
