"""Is this folder a whole, unaltered package? Answered without jax, and without loading anything."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from mlvlab_jax.errors import PackageError
from mlvlab_jax.files import sha256_file
from mlvlab_jax.package.arrays import check_header
from mlvlab_jax.package.documents import read_documents
from mlvlab_jax.package.manifest import Manifest, read_manifest
from mlvlab_jax.package.members import FOLDERS, MANIFEST, MEMBERS, OPTIONAL, check_member


def verify_files(folder: Path) -> Manifest:
    """Checks that the package in `folder` has all its files, no other, and each with the bytes of its manifest.

    Returns:
        The manifest.

    Raises:
        PackageError: The first thing that is not as it should be.
    """
    manifest = check_listing(folder)
    for name, record in manifest.files.items():
        found = sha256_file(folder / name)
        if found != record.sha256:
            raise PackageError(
                f"{folder / name}: was altered: its SHA-256 is {found}; expected {record.sha256} (manifest.json); "
                "fetch the package again"
            )
    for name in manifest.files:
        if name.endswith(".safetensors"):
            check_header(folder / name)
    read_documents(folder)
    return manifest


def check_listing(folder: Path) -> Manifest:
    """Names, kinds and lengths of all files, against the manifest; their bytes are not read.

    Raises:
        PackageError: As in `verify_files`.
    """
    if not folder.is_dir():
        raise PackageError(f"{folder}: no such folder; expected a model package; check the path")
    lengths = dict(_list_files(folder))
    if MANIFEST not in lengths:
        raise PackageError(f"{folder}: has no {MANIFEST}, so it is no model package; check the path")
    manifest = read_manifest(folder)
    present, listed = lengths.keys() - {MANIFEST}, manifest.files.keys()
    missing = (MEMBERS.keys() - OPTIONAL - {MANIFEST} - present) | (listed - present)
    if missing:
        raise PackageError(
            f"{folder}: lacks {sorted(missing)}; expected a whole package; fetch it again, or package the run again"
        )
    if present - listed:
        raise PackageError(f"{folder}: holds {sorted(present - listed)}, not in its manifest; fetch the package again")
    for name, record in manifest.files.items():
        if lengths[name] != record.bytes:
            raise PackageError(
                f"{folder / name}: {lengths[name]} bytes; expected {record.bytes} (manifest.json); fetch it again"
            )
    return manifest


def _list_files(folder: Path, prefix: str = "") -> Iterator[tuple[str, int]]:
    """(path in the package, length) of every file below `folder`; nothing is followed, anything odd is refused."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            name, status = prefix + entry.name, entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode) and name in FOLDERS:
                yield from _list_files(Path(entry.path), f"{name}/")
                continue
            if not stat.S_ISREG(status.st_mode):
                raise PackageError(
                    f"{entry.path}: is {_kind(status.st_mode)}; a package holds plain files, and the folders "
                    f"{sorted(FOLDERS)}; take it out, or fetch the package again"
                )
            check_member(name, status.st_size, place=str(folder))
            yield name, status.st_size


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "a device file")
