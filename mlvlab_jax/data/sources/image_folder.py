"""A folder of images: one folder a class, or one a split with the classes in it."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import Field

from mlvlab_jax.config.fields import OPERATIONAL, configclass
from mlvlab_jax.data.records import FileRecords
from mlvlab_jax.data.source import OpenedData, compute_index_digest
from mlvlab_jax.data.versions import pull_hint
from mlvlab_jax.errors import DataError
from mlvlab_jax.plugins import SOURCES

#: Endings of the files that are taken for images, in any case; others are left alone.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
#: Names of split folders, and the split each is read as.
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


@configclass
class ImageFolderParams:
    """Where the images are."""

    path: str = Field(json_schema_extra=OPERATIONAL)
    """Folder with one folder a class, or with the folders train, and validation and test where there are, and the
    classes in each of them."""
    class_names: tuple[str, ...] | None = None
    """Folder names in the order of the labels; null takes the training split's folders in alphabetical order."""


@SOURCES.register("image_folder", ImageFolderParams)
def open_image_folder(params: ImageFolderParams) -> OpenedData:
    """Lists the files of every split; nothing is decoded.

    Raises:
        DataError: No such folder, no images, fewer than two classes, a class unknown to the training split, a name that
            is not UTF-8, or a link that leads back into its own folder.
    """
    root = Path(params.path).expanduser()
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder; set data.params.path to a folder with one folder of images a "
            f"class{pull_hint(root)}"
        )
    folders = _split_folders(root)
    class_names = params.class_names or tuple(_subfolders(folders["train"]))
    if len(class_names) < 2:
        raise DataError(
            f"{folders['train']}: holds {len(class_names)} class folders {list(class_names)}; expected at least two; "
            "put the images of each class into a folder named after it"
        )
    splits = {name: _list_split(root, folder, class_names) for name, folder in folders.items()}
    rows = (
        f"{name}\t{path}\t{label}\t{(root / path).stat().st_size if (root / path).exists() else 'missing'}"
        for name, records in splits.items()
        for path, label in zip(records.paths, records.labels, strict=True)
    )
    return OpenedData(splits, class_names, {"origin": root.name, "index": compute_index_digest(rows)}, None, (root,))


def _split_folders(root: Path) -> dict[str, Path]:
    """Split -> folder; the whole folder is the training split where there is no folder called train."""
    found = {name: SPLIT_FOLDERS[name.lower()] for name in _subfolders(root) if name.lower() in SPLIT_FOLDERS}
    if "train" not in found.values():
        return {"train": root}
    folders: dict[str, Path] = {}
    for name, split in found.items():
        if split in folders:
            raise DataError(f"{root}: {folders[split].name!r} and {name!r} both mean the {split} split; keep one")
        folders[split] = root / name
    return folders


def _subfolders(folder: Path) -> list[str]:
    names = [e.name for e in _list_folder(folder) if _is_folder(e) and not e.name.startswith(".")]
    return sorted(_check_name(folder, name) for name in names)


def _list_folder(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}; make it readable, or remove it") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Also of a link; one that leads nowhere or back to itself is none, and shows when it is read."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _check_name(folder: Path, name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(name)
        raise DataError(f"{folder}: the name {shown!r} is not UTF-8; rename it (convmv -f latin1 -t utf8)") from None
    return name


def _list_split(root: Path, folder: Path, class_names: tuple[str, ...]) -> FileRecords:
    label_of = {name: label for label, name in enumerate(class_names)}
    unknown = [name for name in _subfolders(folder) if name not in label_of]
    if unknown:
        raise DataError(
            f"{folder}: class folders {unknown[:5]} are not among the {len(class_names)} classes "
            f"{list(class_names)[:10]}; rename or remove them, or name them in data.params.class_names"
        )
    paths: list[str] = []
    labels: list[int] = []
    for name, label in label_of.items():
        inside = sorted(_image_files(folder / name, above=())) if (folder / name).is_dir() else []
        paths += [str(path.relative_to(root)) for path in inside]
        labels += [label] * len(inside)
    if not paths:
        raise DataError(f"{folder}: no images; expected files ending in {', '.join(EXTENSIONS)} in a folder a class")
    return FileRecords(root, paths, np.asarray(labels, np.int64))


def _image_files(folder: Path, *, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """Image files in `folder` and below; `above` are the identities of the folders that lead here."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise DataError(f"{folder}: leads back to a folder it lies in; remove the link")
    for entry in _list_folder(folder):
        name = _check_name(folder, entry.name)
        if name.startswith("."):
            continue
        if _is_folder(entry):
            yield from _image_files(folder / name, above=(*above, here))
        elif name.lower().endswith(EXTENSIONS):
            yield folder / name
