"""Pointers by hand; the digests in them are those DVC 3.67.1 printed for these files."""

import dataclasses
import json
import subprocess

import pytest

from mlvlab_jax.data.md5 import compute_folder_md5, list_files
from mlvlab_jax.data.sources.arrays import ArraysParams
from mlvlab_jax.data.versions import check_versions, describe_git, read_version, read_versions, verify_version
from mlvlab_jax.errors import DataError
from mlvlab_jax.plugins import SOURCES, Spec

FILES = {
    ".hidden": b"h",
    "B.txt": b"x",
    "a.txt": b"hello",
    "link": b"out",
    "sub dir/b c.csv": b"line\r\ntwo\r\n",
    "sub dir/tief/größe 画.bin": b"\0\1\2",
    "zero": b"",
}
LISTING = (
    '[{"md5": "2510c39011c5be704182423e3a695e91", "relpath": ".hidden"}, '
    '{"md5": "9dd4e461268c8034f5c8564e155c67a6", "relpath": "B.txt"}, '
    '{"md5": "5d41402abc4b2a76b9719d911017c592", "relpath": "a.txt"}, '
    '{"md5": "c68271a63ddbc431c307beb7d2918275", "relpath": "link"}, '
    '{"md5": "014f046517a6d6304a4aeca6edbd1582", "relpath": "sub dir/b c.csv"}, '
    '{"md5": "b95f67f61ebb03619622d798f45fc2d3", "relpath": "sub dir/tief/gr\\u00f6\\u00dfe \\u753b.bin"}, '
    '{"md5": "d41d8cd98f00b204e9800998ecf8427e", "relpath": "zero"}]'
)
FOLDER_MD5 = "a81929402ef7e189f16b3ab3ede354b3.dir"
FOLDER_POINTER = f"outs:\n- md5: {FOLDER_MD5}\n  size: 24\n  nfiles: 7\n  hash: md5\n  path: raw\n"
FILE_POINTER = "outs:\n- md5: e4e08b4aa15b47d7156dc8d205d13def\n  size: 11\n  hash: md5\n  path: one.npz\n"
LOCK = """schema: '2.0'
stages:
  fetch:
    cmd: echo
    deps:
    - path: one.npz
      hash: md5
      md5: e4e08b4aa15b47d7156dc8d205d13def
      size: 11
    outs:
    - path: out/raw
      hash: md5
      md5: a81929402ef7e189f16b3ab3ede354b3.dir
      size: 24
      nfiles: 7
  each@a:
    cmd: echo a > a.txt
    outs:
    - path: a.txt
      hash: md5
      md5: 60b725f10c9c85c70d97880dfe8191b3
      size: 2
"""


def git(folder, *args):
    identity = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    done = subprocess.run(["git", *identity, *args], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def write_files(folder):
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.fixture
def repo(tmp_path):
    """A repository with a tracked folder, a tracked file, and DVC's listing of the folder."""
    (tmp_path / ".dvc" / "cache" / "files" / "md5" / FOLDER_MD5[:2]).mkdir(parents=True)
    write_files(tmp_path / "data" / "raw")
    (tmp_path / "data" / "raw.dvc").write_text(FOLDER_POINTER)
    (tmp_path / "one.npz").write_bytes(b"single file")
    (tmp_path / "one.npz.dvc").write_text(FILE_POINTER)
    listing_path(tmp_path).write_text(LISTING)
    return tmp_path


def listing_path(repo):
    return repo / ".dvc" / "cache" / "files" / "md5" / FOLDER_MD5[:2] / FOLDER_MD5[2:]


def test_a_pointer_beside_its_file_or_folder_is_read(repo):
    folder, file = read_version(repo / "data" / "raw"), read_version(repo / "one.npz")
    assert (folder.path, folder.md5, folder.size_bytes, folder.num_files) == (repo / "data" / "raw", FOLDER_MD5, 24, 7)
    assert (file.md5, file.size_bytes, file.num_files) == ("e4e08b4aa15b47d7156dc8d205d13def", 11, 1)
    assert (folder.revision, folder.dirty) == (None, False)
    assert verify_version(folder) == verify_version(file) == []


def test_what_lies_in_a_tracked_folder_has_the_version_of_the_folder(repo, monkeypatch):
    whole = read_version(repo / "data" / "raw")
    assert read_version(repo / "data" / "raw" / "sub dir" / "b c.csv") == whole
    assert read_version(repo / "data" / "other" / ".." / "raw" / "sub dir") == whole
    monkeypatch.chdir(repo / "data" / "raw" / "sub dir")
    assert str(read_version(repo.__class__("b c.csv")).path) == ".."
    assert read_versions([repo / "data" / "raw" / name for name in FILES]) == (whole,)


def test_nothing_is_found_above_the_repository_or_where_nothing_tracks(repo):
    assert read_version(repo / "data") is None
    assert read_version(repo / "data" / "rawer") is None
    inner = repo / "data" / "raw" / "inner"
    (inner / ".git").mkdir(parents=True)
    assert read_version(inner / "x.npz") is None


def test_a_lock_file_is_read_with_the_working_folders_of_its_stages(repo):
    (repo / "dvc.lock").write_text(LOCK)
    (repo / "dvc.yaml").write_text(
        "stages:\n  each:\n    foreach: [a]\n    do: {wdir: w, cmd: x, outs: ['${item}.txt']}\n"
    )
    write_files(repo / "out" / "raw")
    version = read_version(repo / "out" / "raw" / "zero")
    assert (version.path, version.md5, version.num_files) == (repo / "out" / "raw", FOLDER_MD5, 7)
    assert verify_version(version) == []
    assert read_version(repo / "w" / "a.txt").size_bytes == 2
    assert read_version(repo / "a.txt") is None
    (repo / "dvc.yaml").unlink()
    assert read_version(repo / "a.txt").size_bytes == 2


def test_a_changed_byte_is_found_and_named(repo):
    folder, file = read_version(repo / "data" / "raw"), read_version(repo / "one.npz")
    (repo / "data" / "raw" / "sub dir" / "tief" / "größe 画.bin").write_bytes(b"\0\1\3")
    (repo / "data" / "raw" / "new").write_bytes(b"")
    (repo / "one.npz").write_bytes(b"single_file")
    assert verify_version(folder) == ["new", "sub dir/tief/größe 画.bin"]
    assert verify_version(file) == ["one.npz"]


@pytest.mark.parametrize("content", [None, "[]"], ids=["gone", "damaged"])
def test_without_its_listing_a_changed_folder_is_named_as_a_whole(repo, content):
    version = read_version(repo / "data" / "raw")
    listing_path(repo).unlink()
    if content is not None:
        listing_path(repo).write_text(content)
    assert verify_version(version) == []
    (repo / "data" / "raw" / "a.txt").write_bytes(b"hallo")
    assert verify_version(version) == ["raw/"]


def test_a_cache_moved_elsewhere_is_found(repo):
    shared = repo.parent / f"{repo.name}-shared"
    (repo / ".dvc" / "cache").rename(shared)
    (repo / ".dvc" / "config").write_text(f"[core]\n    analytics = false\n[cache]\n    dir = ../../{shared.name}\n")
    (repo / "data" / "raw" / "a.txt").write_bytes(b"hallo")
    assert verify_version(read_version(repo / "data" / "raw")) == ["a.txt"]


def test_a_folders_digest_does_not_depend_on_the_order_its_files_are_met_in():
    digests = {entry["relpath"]: entry["md5"] for entry in json.loads(LISTING)}
    assert compute_folder_md5(digests) == compute_folder_md5(dict(reversed(digests.items()))) == FOLDER_MD5


def test_what_dvc_leaves_out_is_left_out(repo):
    raw = repo / "data" / "raw"
    (raw / "empty").mkdir()
    (raw / ".git").mkdir()
    (raw / ".git" / "HEAD").write_text("x")
    (raw / "elsewhere").symlink_to(repo, target_is_directory=True)
    (raw / "link").unlink()
    (repo / "outside").write_bytes(b"out")
    (raw / "link").symlink_to(repo / "outside")
    assert list_files(raw) == sorted(FILES)
    assert verify_version(read_version(raw)) == []


def test_what_dvcignore_hides_is_left_out(repo):
    raw = repo / "data" / "raw"
    for name in ("Thumbs.db", "sub dir/größe.tmp", "sub dir/kept.tmp", "cache/x", "sub dir/cache"):
        (raw / name).parent.mkdir(exist_ok=True)
        (raw / name).write_bytes(b"y")
    git(repo, "init", "-q")
    (repo / ".gitignore").write_text("/data/raw\n")  # as dvc add writes it
    (repo / ".dvcignore").write_text("# of the system\nThumbs.db\ncache/\n*.tmp\n")
    (repo / "data" / ".dvcignore").write_text("!kept.tmp\n")
    assert list_files(raw) == sorted([*FILES, "sub dir/cache", "sub dir/kept.tmp"])
    assert verify_version(read_version(raw)) == ["sub dir/cache", "sub dir/kept.tmp"]


@pytest.mark.parametrize(
    ("with_listing", "expected"), [(True, "2 of 7 files are missing, first a.txt"), (False, "2 of 7")]
)
def test_half_a_pull_is_refused_with_the_command(repo, with_listing, expected):
    for name in ("a.txt", "zero"):
        (repo / "data" / "raw" / name).unlink()
    if not with_listing:
        listing_path(repo).unlink()
    with pytest.raises(DataError, match=rf"{expected}.*dvc pull {repo}/data/raw"):
        verify_version(read_version(repo / "data" / "raw"))


def test_data_not_pulled_at_all_is_refused_with_the_command(repo):
    (repo / "one.npz").unlink()
    with pytest.raises(DataError, match=f"not there; run: dvc pull {repo}/one.npz"):
        verify_version(read_version(repo / "one.npz"))
    with pytest.raises(DataError, match=f"no such file or folder.*dvc pull {repo}/one.npz"):
        SOURCES.build(Spec("arrays", ArraysParams(path=str(repo / "one.npz"))))
    with pytest.raises(DataError, match=f"holds neither.*dvc pull {repo}/data/raw"):
        SOURCES.build(Spec("arrays", ArraysParams(path=str(repo / "data" / "raw"))))


def test_an_unreadable_file_is_refused_by_name(repo):
    (repo / "data" / "raw" / "a.txt").unlink()
    (repo / "data" / "raw" / "a.txt").symlink_to(repo / "gone")
    with pytest.raises(DataError, match=r"a\.txt: cannot be read"):
        verify_version(read_version(repo / "data" / "raw"))


BAD_POINTERS = {
    "conflict": (
        "<<<<<<< HEAD\n" + FILE_POINTER + "=======\n" + FILE_POINTER + ">>>>>>> b\n",
        "merge conflict; keep one",
    ),
    "no YAML": ("outs: [", "is not YAML"),
    "empty": ("", "is not a mapping"),
    "a list": ("- a\n", "is not a mapping"),
    "no outs": ("deps: []\n", "has no 'outs"),
    "not text": (b"\xff\xfe\x00", "cannot be read"),
    "no md5": ("outs:\n- size: 11\n  hash: md5\n  path: one.npz\n", r"md5 of 'one.npz' is None.*dvc commit .*one\.npz"),
    "short md5": (FILE_POINTER.replace("e4e08b", ""), "expected 32 hex digits"),
    "of DVC 2": (FILE_POINTER.replace("  hash: md5\n", ""), "dvc cache migrate --dvc-files"),
}


@pytest.mark.parametrize("name", BAD_POINTERS)
def test_a_bad_pointer_is_refused_by_name_with_a_fix(repo, name):
    content, expected = BAD_POINTERS[name]
    pointer = repo / "one.npz.dvc"
    pointer.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=expected) as caught:
        read_version(repo / "one.npz")
    assert str(caught.value).startswith(f"{pointer}: ")


@pytest.mark.parametrize("content", ["stages: [a]\n", "stages: {a: b}\n", LOCK.replace("path: out/raw", "paths: x")])
def test_a_bad_lock_file_is_refused(repo, content):
    (repo / "dvc.lock").write_text(content)
    with pytest.raises(DataError, match=r"dvc\.lock: .*dvc repro"):
        read_version(repo / "out" / "raw")


def test_values_that_look_like_numbers_or_dates_stay_text(repo):
    digits = "12345678901234567890123456789012"
    (repo / "no.dvc").write_text(f"outs:\n- md5: {digits}\n  size: 3\n  hash: md5\n  path: no\n")
    assert read_version(repo / "no").md5 == digits


def test_revision_and_dirt_are_those_of_the_pointer_in_git(repo):
    git(repo, "init", "-q")
    (repo / ".gitignore").write_text("/one.npz\n/data/raw\n/.dvc\n")
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "one")
    before = {path: path.read_bytes() for path in repo.rglob("*") if path.is_file()}
    commit = git(repo, "rev-parse", "HEAD")
    (repo / "unrelated").write_text("x")
    version = read_version(repo / "one.npz")
    assert (version.revision, version.dirty) == (commit, False)
    assert describe_git(repo) == (commit, True)
    (repo / "unrelated").unlink()
    assert verify_version(version) == []
    assert {path: path.read_bytes() for path in repo.rglob("*") if path.is_file()} == before
    (repo / "one.npz.dvc").write_text(FILE_POINTER + "# \n")
    assert read_version(repo / "one.npz").dirty
    (repo / "zero.dvc").write_text(FILE_POINTER.replace("one.npz", "zero"))
    assert read_version(repo / "zero").dirty


def test_an_ignored_pointer_is_dirty_for_no_commit_has_it(repo):
    git(repo, "init", "-q")
    (repo / ".gitignore").write_text("/data/\n")
    git(repo, "add", ".gitignore")
    git(repo, "commit", "-qm", "one")
    assert read_version(repo / "data" / "raw").dirty


def test_checking_marks_warns_or_refuses(repo, caplog):
    versions = read_versions([repo / "one.npz", repo / "data" / "raw"])
    assert check_versions(versions, verify="strict") == versions
    for name in FILES:
        (repo / "data" / "raw" / name).write_bytes(b"other")
    assert check_versions(versions, verify="off") == versions
    assert not caplog.records
    marked = check_versions(versions, verify="warn")
    assert marked == (versions[0], dataclasses.replace(versions[1], dirty=True))
    expected = f"{repo}/data/raw: not the bytes of data version {FOLDER_MD5}; changed or added: .hidden, B.txt, a.txt"
    assert caplog.messages[0].startswith(expected)
    assert "(7 in all)" in caplog.messages[0]
    with pytest.raises(DataError, match=r"changed or added: \.hidden.*dvc checkout .*dvc commit"):
        check_versions(versions, verify="strict")
