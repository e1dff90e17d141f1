import os

import numpy as np
import pytest
from PIL import Image

from mlvlab_jax.data.sources.image_folder import ImageFolderParams, open_image_folder
from mlvlab_jax.errors import DataError


def image(*parts):
    path = parts[0].joinpath(*parts[1:])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path, format="PNG")
    return path


def open_folder(root, **params):
    return open_image_folder(ImageFolderParams(path=str(root), **params))


@pytest.fixture
def root(tmp_path):
    """Two classes with an image each."""
    image(tmp_path, "set", "cat", "0.png")
    image(tmp_path, "set", "dog", "0.png")
    return tmp_path / "set"


def test_endings_count_in_any_case_and_other_files_are_left_alone(root):
    for name in ("1.PNG", "2.JpEg", "deeper/3.WebP", ".hidden.png", "notes.txt", "4.png.part"):
        image(root, "cat", name)
    split = open_folder(root).splits["train"]
    assert split.paths == ["cat/0.png", "cat/1.PNG", "cat/2.JpEg", "cat/deeper/3.WebP", "dog/0.png"]
    assert split.labels.tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize(("validation", "train"), [("val", "train"), ("valid", "Training"), ("VALIDATION", "TRAIN")])
def test_split_folders_are_known_by_their_usual_names(tmp_path, validation, train):
    for split in (train, validation, "test"):
        image(tmp_path, split, "cat", "0.png")
        image(tmp_path, split, "dog", "0.png")
    assert {name: len(split) for name, split in open_folder(tmp_path).splits.items()} == {
        "train": 2,
        "validation": 2,
        "test": 2,
    }


def make_missing(root):
    return root / "gone", {}, r"gone: no such folder; set data\.params\.path"


def make_a_file(root):
    return image(root, "a.png"), {}, r"a\.png: no such folder; set data\.params\.path"


def make_empty(root):
    (root / "none").mkdir()
    return root / "none", {}, r"none: holds 0 class folders \[\]; expected at least two; put the images"


def make_images_without_classes(root):
    image(root, "flat", "a.png")
    return root / "flat", {}, r"flat: holds 0 class folders"


def make_one_class(root):
    image(root, "one", "cat", "a.png")
    return root / "one", {}, r"one: holds 1 class folders \['cat'\]; expected at least two"


def make_classes_without_images(root):
    for name in ("cat", "dog"):
        (root / "bare" / name).mkdir(parents=True)
        (root / "bare" / name / "notes.txt").write_text("")
    return root / "bare", {}, r"bare: no images; expected files ending in \.jpg, "


def make_two_validation_splits(root):
    for split in ("train", "val", "valid"):
        for name in ("cat", "dog"):
            image(root, "two", split, name, "a.png")
    return root / "two", {}, r"two: 'val(id)?' and 'val(id)?' both mean the validation split; keep one"


def make_a_class_unknown_to_training(root):
    for path in ("train/cat", "train/dog", "test/cat", "test/dgo"):
        image(root, "odd", path, "a.png")
    return root / "odd", {}, r"odd/test: class folders \['dgo'\] are not among the 2 classes .*; rename or remove"


def make_a_class_not_listed(root):
    return root, {"class_names": ("cat", "horse")}, r"set: class folders \['dog'\] are not among .*class_names"


def make_a_loop(root):
    (root / "cat" / "again").symlink_to("..")
    return root, {}, r"set/cat.*: leads back to a folder it lies in; remove the link"


def make_a_file_name_in_latin_1(root):
    (root / "cat" / os.fsdecode(b"k\xe4se.png")).write_bytes(b"")
    return root, {}, r"cat: the name b'k\\xe4se\.png' is not UTF-8; rename it"


def make_a_class_name_in_latin_1(root):
    (root / os.fsdecode(b"k\xe4se")).mkdir()
    return root, {}, r"set: the name b'k\\xe4se' is not UTF-8; rename it"


BAD_FOLDERS = [value for name, value in sorted(globals().items()) if name.startswith("make_")]


@pytest.mark.parametrize("make", BAD_FOLDERS, ids=lambda make: make.__name__)
def test_a_bad_folder_is_refused_with_place_and_fix(make, root):
    path, params, expected = make(root)
    with pytest.raises(DataError, match=expected):
        open_folder(path, **params)


def test_links_are_followed_and_dangling_ones_are_named_when_read(root, tmp_path):
    other = image(tmp_path, "elsewhere", "x.png").parent
    (root / "cat" / "linked").symlink_to(other)
    (root / "dog" / "copy.png").symlink_to(root / "cat" / "0.png")
    (root / "dog" / "lost.png").symlink_to("gone.png")
    (root / "dog" / "self.png").symlink_to("self.png")
    split = open_folder(root).splits["train"]
    assert split.paths[:4] == ["cat/0.png", "cat/linked/x.png", "dog/0.png", "dog/copy.png"]
    assert split.paths[4:] == ["dog/lost.png", "dog/self.png"]
    problems = [record.problem for record in split.read(np.arange(6))]
    assert problems == ["", "", "", "", "No such file or directory", "Too many levels of symbolic links"]


def test_a_changed_file_or_a_moved_label_is_other_data_and_another_place_is_not(root, tmp_path):
    before = open_folder(root).identity
    moved = tmp_path / "moved" / "set"
    moved.parent.mkdir()
    root.rename(moved)
    assert open_folder(moved).identity == before
    (moved / "cat" / "0.png").rename(moved / "dog" / "1.png")
    assert open_folder(moved).identity != before
