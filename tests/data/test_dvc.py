"""Against DVC itself: `pip install dvc` in an environment of its own, on PATH or named by the variable DVC."""

import gzip
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from mlvlab_jax.data.md5 import read_listing
from mlvlab_jax.data.versions import read_version, verify_version
from mlvlab_jax.errors import DataError
from tests.conftest import ROOT

DVC = shutil.which(os.environ.get("DVC", "dvc"))
pytestmark = pytest.mark.skipif(DVC is None, reason="no dvc on PATH and no variable DVC that names it")

NESTED = {
    "a.png": b"\x89PNG",
    "two words/b.txt": b"x\r\ny\r\n",
    "two words/tief/größe 画.bin": bytes(range(256)) * 8192,
    "Z": b"",
}


def dvc(folder, *args, check=True):
    env = {**os.environ, "DVC_NO_ANALYTICS": "1", "PYTHONPATH": str(ROOT)}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    done = subprocess.run([DVC, *args], cwd=folder, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done


def git(folder, *args):
    identity = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    subprocess.run(["git", *identity, *args], cwd=folder, check=True, capture_output=True)


def start(folder):
    """A repository with the project's own pipeline and ignored paths, DVC on, and a remote beside it."""
    folder.mkdir()
    git(folder, "init", "-q")
    for name in (".gitignore", "dvc.yaml"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("scripts", "configs"):
        shutil.copytree(ROOT / name, folder / name)
    dvc(folder, "init", "-q")
    dvc(folder, "remote", "add", "-q", "-d", "storage", str(folder.parent / "remote"))


def test_the_guides_commands_give_versions_equal_to_ours_and_half_a_pull_is_found(tmp_path):
    repo = tmp_path / "repo"
    start(repo)
    for name, content in NESTED.items():
        (repo / "data" / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (repo / "data" / "raw" / name).write_bytes(content)
    for folder in ("processed", "more"):
        (repo / "data" / folder).mkdir()
        (repo / "data" / folder / "one.npz").write_bytes(b"single file")
    (repo / ".dvcignore").write_text("*.tmp\n")
    (repo / "data" / "raw" / "two words" / "hidden.tmp").write_bytes(b"h")
    dvc(repo, "add", "-q", "data/raw")
    dvc(repo, "add", "-q", "data/processed")
    dvc(repo, "add", "-q", "data/more/one.npz")
    dvc(repo, "push", "-q")
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "data")

    raw, processed, one = (read_version(repo / "data" / name) for name in ("raw", "processed", "more/one.npz"))
    assert (raw.num_files, raw.size_bytes) == (4, sum(map(len, NESTED.values())))
    assert (one.num_files, one.size_bytes, raw.dirty, one.dirty) == (1, 11, False, False)
    assert len(raw.revision) == 40
    digests = read_listing(raw.path, raw.md5)
    assert digests.keys() == NESTED.keys()
    assert verify_version(raw) == verify_version(processed) == verify_version(one) == []
    shutil.rmtree(repo / ".dvc" / "cache")
    assert verify_version(raw) == []  # from the files alone

    shutil.rmtree(repo / "data" / "raw")
    dvc(repo, "pull", "-q", "data/raw.dvc")
    changed = repo / "data" / "raw" / "two words" / "tief" / "größe 画.bin"
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.chmod(0o644)
    changed.unlink()
    changed.write_bytes(content)
    assert verify_version(raw) == ["two words/tief/größe 画.bin"]
    dvc(repo, "checkout", "-q", "-f", "data/raw.dvc")
    assert verify_version(raw) == []

    shutil.rmtree(repo / "data" / "raw")
    shutil.rmtree(repo / ".dvc" / "cache")
    lost = stored(tmp_path / "remote", digests["two words/b.txt"])
    lost.rename(tmp_path / "kept")
    assert dvc(repo, "pull", "-q", "data/raw.dvc", check=False).returncode != 0
    with pytest.raises(DataError, match="dvc pull .*data/raw"):
        verify_version(raw)
    (tmp_path / "kept").rename(lost)
    dvc(repo, "pull", "-q", "data/raw.dvc")
    changed.parent.with_name("b.txt").unlink()
    with pytest.raises(DataError, match=r"1 of 4 files are missing, first two words/b\.txt.*dvc pull"):
        verify_version(raw)


def stored(remote, md5):
    """Where a remote keeps the bytes with this digest."""
    return remote / "files" / "md5" / md5[:2] / md5[2:]


def write_idx(path, shape):
    header = struct.pack(f">BBBB{len(shape)}i", 0, 0, 8, len(shape), *shape)
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header)
        for _ in range(shape[0] // 1000):
            file.write(bytes(1000 * (784 if len(shape) == 3 else 1)))


def test_the_fetch_stage_of_the_shipped_pipeline_runs_and_its_output_has_a_version(tmp_path):
    source, repo = tmp_path / "idx", tmp_path / "repo"
    source.mkdir()
    for stem, count in (("train", 60_000), ("t10k", 10_000)):
        write_idx(source / f"{stem}-images-idx3-ubyte.gz", (count, 28, 28))
        write_idx(source / f"{stem}-labels-idx1-ubyte.gz", (count,))
    start(repo)
    pipeline = (repo / "dvc.yaml").read_text()
    assert "/usr/share/datasets/fashion-mnist" in pipeline
    (repo / "dvc.yaml").write_text(pipeline.replace("/usr/share/datasets/fashion-mnist", str(source)))
    dvc(repo, "repro", "-q", "fetch")
    version = read_version(repo / "data" / "fashion_mnist" / "raw")
    assert (version.path, version.num_files) == (repo / "data" / "fashion_mnist" / "raw", 4)
    assert verify_version(version) == []
    drawn = dvc(repo, "dag", "--dot").stdout
    assert '"fetch" -> "validate"' in drawn
    assert '"validate" -> "pack"' in drawn
