"""MD5 digests of files and folders, as DVC 3 computes them."""

import configparser
import contextlib
import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlvlab_jax.errors import DataError

#: Never part of a tracked folder.
_FOREIGN = frozenset({".git", ".hg", ".dvc"})


def compute_file_md5(path: Path) -> str:
    """Hex MD5 of a file's bytes, read in pieces.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a readable file") from None


def compute_md5s(folder: Path, names: list[str]) -> dict[str, str]:
    """MD5 of each file by its name in `folder`; by all cores, as hashing runs outside Python's lock.

    Raises:
        DataError: One cannot be read.
    """
    size = len(names) // 256 + 1
    tasks = [names[start : start + size] for start in range(0, len(names), size)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = pool.map(lambda task: [compute_file_md5(folder / name) for name in task], tasks)
        digests = [digest for part in parts for digest in part]
    return dict(zip(names, digests, strict=True))


def compute_folder_md5(digests: Mapping[str, str]) -> str:
    """DVC's digest of a folder from those of its files: the MD5 of their listing as JSON, and ".dir"."""
    listing = [{"md5": digests[name], "relpath": name} for name in sorted(digests)]
    return f"{hashlib.md5(json.dumps(listing).encode(), usedforsecurity=False).hexdigest()}.dir"


def list_files(folder: Path) -> list[str]:
    """Names below `folder` with forward slashes, sorted; links to files are files, links to folders are not entered.

    What a `.dvcignore` above hides is left out.
    """
    names, hidden = [], _list_hidden(folder)
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _FOREIGN]
        below = Path(root).relative_to(folder)
        names += [(below / name).as_posix() for name in files if name != ".git"]
    return sorted(name for name in names if name not in hidden)


def _list_hidden(folder: Path) -> set[str]:
    """Names below `folder` that a `.dvcignore` hides, whose patterns are git's, so git reads them; without git none."""
    listing = ["ls-files", "-z", "--others", "--ignored", "--exclude-per-directory=.dvcignore"]
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *listing], capture_output=True, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return set()
    return {os.fsdecode(name) for name in done.stdout.split(b"\0")}


def read_listing(folder: Path, md5: str) -> dict[str, str] | None:
    """MD5 by name of the files in the version `md5` of `folder`, from the DVC cache around it; None if not there."""
    for parent in Path(os.path.abspath(folder)).parents:  # noqa: PTH100
        path = _find_cache(parent / ".dvc") / "files" / "md5" / md5[:2] / md5[2:]
        if path.is_file():
            data = path.read_bytes()
            if f"{hashlib.md5(data, usedforsecurity=False).hexdigest()}.dir" != md5:
                return None
            return {entry["relpath"]: entry["md5"] for entry in json.loads(data)}
    return None


def _find_cache(dvc_folder: Path) -> Path:
    """Where the repository with this `.dvc` folder keeps its cache: inside, unless `dvc cache dir` moved it."""
    settings = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(configparser.Error):
        settings.read([dvc_folder / "config", dvc_folder / "config.local"])
    return dvc_folder / settings.get("cache", "dir", fallback="cache")
