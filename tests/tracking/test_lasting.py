import errno
import os
import shutil

import pytest

from mlvlab_jax.tracking.lasting import LastingFile


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_deleted_file_is_put_back_with_all_it_held(what, tmp_path):
    path = tmp_path / "run" / "records"
    file = LastingFile(path)
    file.append(b"one\n")
    if what == "file":
        path.unlink()
    else:
        shutil.rmtree(path.parent)
    file.append(b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
    path.unlink()
    file.flush()
    file.close()
    assert path.read_bytes() == b"one\ntwo\n"


def test_a_file_that_was_replaced_is_gone_on_with(tmp_path):
    path = tmp_path / "records"
    file = LastingFile(path)
    file.append(b"one\ntwo\n")
    (tmp_path / "edited").write_bytes(b"two\n")
    (tmp_path / "edited").rename(path)
    file.append(b"three\n")
    file.close()
    assert path.read_bytes() == b"two\nthree\n"


def test_what_a_read_only_disk_refuses_is_written_later_in_order_and_both_are_said_once(tmp_path, monkeypatch, caplog):
    path = tmp_path / "records"
    file = LastingFile(path)
    file.append(b"0\n")
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:3]) if len(data) > 4 else refuse())
        for i in range(1, 6):
            file.append(f"{i * 111}\n".encode())
        assert path.read_bytes() == b"0\n111\n222\n333\n444\n55"
    file.append(b"6\n")
    assert path.read_text().split() == ["0", "111", "222", "333", "444", "555", "6"]
    file.close()
    assert [record.getMessage().split(" ", 1)[1][:20] for record in caplog.records] == [
        "cannot be written ([",
        "can be written again",
    ]


def refuse():
    raise OSError(errno.EROFS, "Read-only file system")


def test_a_file_that_cannot_be_made_yet_is_made_later(tmp_path):
    blocker = tmp_path / "folder"
    blocker.write_text("not a folder")
    file = LastingFile(blocker / "records")
    file.append(b"1\n")
    assert file.read(0, 9) == b""
    blocker.unlink()
    file.append(b"2\n")
    assert file.read(0, 9) == b"1\n2\n"
    file.close()


def test_what_waits_is_bounded_and_what_is_lost_is_said(tmp_path):
    blocker = tmp_path / "folder"
    blocker.write_text("not a folder")
    file = LastingFile(blocker / "records", max_waiting_bytes=8)
    for _ in range(6):
        file.append(b"abc\n")
    with pytest.raises(OSError, match=r"8 bytes and 4 records .* lost: .*Not a directory"):
        file.close()
