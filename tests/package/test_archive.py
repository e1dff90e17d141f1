import io
import os
import tarfile
import zipfile

import pytest

from mlvlab_jax.errors import PackageError
from mlvlab_jax.package.archive import extract_archive, open_folder, write_archive
from mlvlab_jax.package.load import verify_files
from tests.package.folders import make_folder


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "package")


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where archives are extracted to."""
    place = tmp_path / "scratch"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


def tar_of(path, folder, *members, mode="w"):
    """A tar of the package with members of harm behind it: (name, changes of its header, data)."""
    with tarfile.open(path, mode) as archive:
        archive.add(folder, "digits")
        for name, changes, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in changes.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(data))
    return path


def assert_refused(path, expected, scratch):
    with pytest.raises(PackageError, match=expected) as caught, open_folder(path):
        pass
    assert caught.value.exit_code == 65
    assert "\n" not in str(caught.value)
    assert list(scratch.iterdir()) == []


def test_a_tar_holds_the_package_and_is_the_same_each_time(folder, tmp_path, scratch):
    write_archive(folder, tmp_path / "a.tar")
    with open_folder(tmp_path / "a.tar") as opened:
        assert verify_files(opened) == verify_files(folder)
        assert opened.name == "a"
    assert list(scratch.iterdir()) == []
    os.utime(folder / "README.md", (1, 1))
    (folder / "README.md").chmod(0o777)
    (tmp_path / "other").mkdir()
    write_archive(folder, tmp_path / "other" / "a.tar")
    assert (tmp_path / "other" / "a.tar").read_bytes() == (tmp_path / "a.tar").read_bytes()


@pytest.mark.parametrize("top", ["digits", "."])
def test_a_tar_of_another_maker_is_read(top, folder, tmp_path, scratch):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(folder, top)
    with open_folder(tmp_path / "x.tar") as opened:
        assert verify_files(opened).name == "digits"


HOSTILE = {
    "slip": (("../evil.json", {}, b"{}"), "'../evil.json' points outside"),
    "inner slip": (("digits/export/../../../evil", {}, b"{}"), "points outside"),
    "absolute": (("/tmp/evil.json", {}, b"{}"), "'/tmp/evil.json' points outside"),
    "link": (
        ("digits/README.md", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, b""),
        "is there twice|of tar type",
    ),
    "new link": (("digits/export/link", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, b""), "of tar type b'2'"),
    "hard link": (("digits/evil", {"type": tarfile.LNKTYPE, "linkname": "digits/README.md"}, b""), "of tar type b'1'"),
    "device": (("digits/null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, b""), "of tar type b'3'"),
    "pipe": (("digits/pipe", {"type": tarfile.FIFOTYPE}, b""), "of tar type b'6'"),
    "twice": (("digits/README.md", {}, b"other"), "'digits/README.md' is there twice"),
    "twice by another spelling": (("digits/./README.md", {}, b"other"), "is there twice"),
    "code": (("digits/loader.py", {}, b"import os"), "holds 'loader.py'; expected nothing but"),
    "pickle": (("digits/model.pkl", {}, b"cos\nsystem\n."), "holds 'model.pkl'"),
    "beside it": (("other/README.md", {}, b"x"), "holds 'other/README.md'"),
    "folder": (("digits/code", {"type": tarfile.DIRTYPE}, b""), "holds folder 'digits/code'"),
    "second package": (("other/manifest.json", {}, b"{}"), "2 files manifest.json"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_tar_with_a_member_of_harm_is_refused_before_anything_is_written(name, folder, tmp_path, scratch):
    member, expected = HOSTILE[name]
    assert_refused(tar_of(tmp_path / "x.tar", folder, member), expected, scratch)
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(PackageError):
        extract_archive(tmp_path / "x.tar", into)
    assert list(into.iterdir()) == []
    assert not (tmp_path / "evil.json").exists()


def test_a_tar_of_very_many_members_is_refused(folder, tmp_path, scratch):
    many = [(f"digits/{i}", {"type": tarfile.DIRTYPE}, b"") for i in range(1000)]
    assert_refused(tar_of(tmp_path / "x.tar", folder, *many), "over 18 members", scratch)


def test_a_sparse_member_is_refused(folder, tmp_path, scratch):
    # 1 TiB by its header, nothing in the file: GNU's format of holes.
    header = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": str(2**40),
        "GNU.sparse.name": "digits/README.md",
    }
    member = ("digits/x", {"pax_headers": header}, b"0\n".ljust(512, b"\0"))
    (folder / "README.md").unlink()
    assert_refused(tar_of(tmp_path / "x.tar", folder, member), "of tar type|twice", scratch)


def test_what_is_no_plain_tar_is_refused(folder, tmp_path, scratch):
    tar_of(tmp_path / "x.tar.gz", folder, mode="w:gz")
    assert_refused(tmp_path / "x.tar.gz", "not an uncompressed tar", scratch)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("../../evil.json", "{}")
    assert_refused(tmp_path / "x.zip", "not an uncompressed tar", scratch)
    (tmp_path / "empty.tar").write_bytes(b"")
    assert_refused(tmp_path / "empty.tar", "not an uncompressed tar|0 files manifest", scratch)
    assert_refused(tmp_path / "gone.tar", "no such folder or file", scratch)


def test_a_tar_that_ends_early_is_refused(folder, tmp_path, scratch):
    write_archive(folder, tmp_path / "whole.tar")
    whole = (tmp_path / "whole.tar").read_bytes().rstrip(b"\0")
    for share in (0.1, 0.5, 0.99):
        (tmp_path / "x.tar").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(PackageError), open_folder(tmp_path / "x.tar") as opened:
            verify_files(opened)
        assert list(scratch.iterdir()) == []


def test_a_failed_write_leaves_nothing(folder, tmp_path, monkeypatch):
    from mlvlab_jax.errors import DiskError

    def full(self, member, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(DiskError, match="No space left"):
        write_archive(folder, tmp_path / "a.tar")
    assert {path.name for path in tmp_path.iterdir()} == {"package"}
