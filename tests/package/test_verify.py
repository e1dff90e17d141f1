import hashlib
import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest

from mlvlab_jax.errors import PackageError
from mlvlab_jax.package.documents import render
from mlvlab_jax.package.load import verify_files
from mlvlab_jax.package.manifest import read_manifest
from mlvlab_jax.package.members import MANIFEST, MEMBERS, OPTIONAL
from tests.package.folders import make_folder, rewrite, sign_again


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "package")


def assert_refused(folder, expected):
    with pytest.raises(PackageError, match=expected) as caught:
        verify_files(folder)
    assert caught.value.exit_code == 65
    assert "\n" not in str(caught.value)


def test_a_whole_package_is_accepted_and_its_manifest_given_back(folder):
    manifest = verify_files(folder)
    assert manifest == read_manifest(folder)
    assert (manifest.name, manifest.run.step, manifest.metrics) == (
        "digits",
        18,
        {"test/accuracy": 0.99, "test/loss": None},
    )
    assert manifest.sha256 == json.loads((folder / MANIFEST).read_text())["sha256"]


def test_verifying_takes_no_jax(folder):
    code = (
        "import sys, pathlib; from mlvlab_jax.package.load import verify_files;"
        f"verify_files(pathlib.Path({str(folder)!r})); sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", MEMBERS)
def test_one_flipped_bit_anywhere_in_a_file_is_refused(name, folder):
    path = folder / name
    whole = path.read_bytes()
    places = range(len(whole)) if len(whole) < 200 else np.linspace(0, len(whole) - 1, 200).astype(int)
    for at in places:
        for bit in (0, 5):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
            with pytest.raises(PackageError):
                verify_files(folder)
    path.write_bytes(whole)
    verify_files(folder)


def test_a_byte_of_the_manifest_that_changes_nothing_it_says_is_refused(folder):
    whole = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(whole.replace(",\n", ", ", 1))
    assert_refused(folder, "manifest.json: was altered")


@pytest.mark.parametrize("name", sorted(MEMBERS.keys() - {MANIFEST}))
def test_a_missing_file_is_refused_though_the_manifest_were_written_anew(name, folder):
    (folder / name).unlink()
    assert_refused(folder, f"lacks .*{name}")
    sign_again(folder)
    if name in OPTIONAL:
        verify_files(folder)
    else:
        assert_refused(folder, f"lacks .*{name}")


@pytest.mark.parametrize(
    "name", ["model.pkl", "loader.py", "weights.npy", "export/run.so", ".hidden", "evaluation/a.json", "LABELS.JSON"]
)
def test_an_extra_file_is_refused_though_the_manifest_were_written_anew(name, folder):
    (folder / name).write_bytes(b"import os")
    sign_again(folder)
    assert_refused(folder, "expected nothing but")


def test_odd_things_in_the_folder_are_refused(folder, tmp_path):
    (folder / "code").mkdir()
    assert_refused(folder, "code: is a folder")
    (folder / "code").rmdir()
    (folder / "README.md").unlink()
    os.mkfifo(folder / "README.md")
    assert_refused(folder, "README.md: is a pipe")
    (folder / "README.md").unlink()
    (tmp_path / "elsewhere").write_text("contents of README.md\n")
    (folder / "README.md").symlink_to(tmp_path / "elsewhere")
    assert_refused(folder, "README.md: is a symbolic link")


def test_a_link_in_place_of_a_folder_is_refused(folder, tmp_path):
    (folder / "export").rename(tmp_path / "elsewhere")
    (folder / "export").symlink_to(tmp_path / "elsewhere")
    assert_refused(folder, "export: is a symbolic link")


@pytest.mark.parametrize("name", ["../outside.json", "/etc/passwd", "export/../../x"])
def test_a_path_outside_in_the_manifest_is_refused(name, folder):
    tree = json.loads((folder / MANIFEST).read_text())
    tree["files"][name] = {"sha256": "0" * 64, "bytes": 3}
    rewrite_manifest(folder, tree)
    assert_refused(folder, "lacks .*" + name)


def rewrite_manifest(folder, tree):
    """A manifest with a right digest of wrong contents."""
    tree.pop("sha256", None)
    tree["sha256"] = hashlib.sha256(render(tree)).hexdigest()
    (folder / MANIFEST).write_bytes(render(tree))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"loader_module": "evil"}, "loader_module: Unexpected keyword"),
        ({"schema": 2}, "schema: "),
        ({"name": "../up"}, "name: "),
        ({"files": []}, "files: "),
        ({"metrics": {"accuracy": "0.9"}}, "metrics.accuracy: "),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(change, expected, folder):
    rewrite_manifest(folder, json.loads((folder / MANIFEST).read_text()) | change)
    assert_refused(folder, expected)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000, "\xff"],
    ids=["empty", "list", "open", "nan", "twice", "deep", "latin"],
)
def test_a_manifest_that_is_no_json_object_is_refused(text, folder):
    (folder / MANIFEST).write_text(text, encoding="latin-1")
    assert_refused(folder, "manifest.json: ")


def test_a_file_over_its_bound_is_refused_before_it_is_read(folder):
    with (folder / "README.md").open("r+b") as file:
        file.truncate(2**33)
    assert_refused(folder, "README.md has 8589934592 bytes; expected at most 1048576")


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 100_000_000) + b" " * 1000,
        struct.pack("<Q", 2**23 + 8) + b'{"__metadata__":{"a":"' + b"x" * (2**23 - 17) + b'"}}',
        b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        b"",
        b"1234",
    ],
    ids=["huge", "longer than the file", "over the bound", "pickle", "empty", "short"],
)
def test_arrays_that_are_not_safetensors_are_refused_though_the_manifest_were_written_anew(data, folder):
    (folder / "model.safetensors").write_bytes(data)
    sign_again(folder)
    assert_refused(folder, "model.safetensors: not a safetensors file")


def test_a_folder_without_a_package_is_refused(tmp_path):
    assert_refused(tmp_path / "gone", "gone: no such folder")
    assert_refused(tmp_path, "has no manifest.json")


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("config.json", {"loader_module": "evil"}, "config.json: holds \\['loader_module'\\]"),
        ("config.json", {"plugins": "os"}, "config.json: plugins is 'os'"),
        ("config.json", {"plugins": None}, "config.json: plugins is None"),
        ("config.json", {"model": {"name": "cnn", "params": {"loader_module": "evil"}}}, "loader_module: unknown key"),
        ("config.json", {"pipeline": {"mean": [0.1]}}, "differ in mean or std"),
        ("preprocess.json", {"loader_module": "evil"}, "preprocess.json: loader_module: "),
        ("preprocess.json", {"image": [16, 16, 1]}, "preprocess.json: contradicts itself"),
        ("preprocess.json", {"sha256": "0" * 64}, "preprocess.json: contradicts itself"),
        ("labels.json", {"class_names": []}, "labels.json: class_names: "),
        (
            "labels.json",
            {"class_names": ["cat", "dog", "ox"]},
            "profile.json: of .classes, channels. .2, 1.; expected .3, 1.",
        ),
        ("calibration.json", {"temperature": 0.0}, "calibration.json: temperature: "),
        ("calibration.json", {"function": "f"}, "calibration.json: function: "),
        ("profile.json", {"format": 9}, "profile.json: data profile of format 9"),
    ],
)
def test_a_document_that_says_something_else_is_refused_though_signed(name, change, expected, folder):
    rewrite(folder, name, change)
    assert_refused(folder, expected)


def test_plugins_in_a_package_are_not_imported(folder, tmp_path, monkeypatch):
    (tmp_path / "never_imported.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    rewrite(folder, "config.json", {"plugins": ["never_imported"], "model": {"name": "theirs", "params": {}}})
    verify_files(folder)
    assert "never_imported" not in sys.modules
