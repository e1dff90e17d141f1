import json
import subprocess
import sys

import pytest

from mlvlab_jax.engine.folder import describe_move, describe_tags, open_run_folder, read_config, write_start
from mlvlab_jax.errors import ConfigError, DataError, RunFolderError
from tests.conftest import tiny_config


def test_a_second_writer_is_refused_by_name(tmp_path):
    code = (
        "import sys, pathlib; from mlvlab_jax.files import exclusive_writer\n"
        "with exclusive_writer(pathlib.Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(RunFolderError, match=f"written by pid {other.pid} on "),
            open_run_folder(tmp_path, tiny_config()),
        ):
            pass
        other.communicate("")
    with open_run_folder(tmp_path, tiny_config()):
        assert (tmp_path / "run.lock").exists()


def test_a_changed_configuration_is_refused_with_the_difference(tmp_path):
    write_start(tmp_path, tiny_config(), data_identity={"origin": "a"})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with (
        pytest.raises(ConfigError, match=r"training\.batch_size: 16 -> 32"),
        open_run_folder(tmp_path, tiny_config(training={"batch_size": 32})),
    ):
        pass
    with open_run_folder(tmp_path, tiny_config(tracking={"log_every_steps": 1}, checkpoint={"keep_last": 3})):
        pass
    (tmp_path / "run.lock").unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_run_may_go_on_on_another_mesh_which_is_noted_and_recorded(tmp_path):
    fsdp = tiny_config(mesh={"data": 2, "fsdp": 4, "rules": [["head/kernel", "whole"]]})
    assert describe_move(write_start(tmp_path, tiny_config(), data_identity={})) == []
    with open_run_folder(tmp_path, fsdp):
        (line,) = describe_move(write_start(tmp_path, fsdp, data_identity={}))
    assert line.startswith("now on mesh {'data': 2, 'fsdp': 4, 'tensor': 1}, 1 process, before on mesh {'data': 8, ")
    with open_run_folder(tmp_path, fsdp):
        again = write_start(tmp_path, fsdp, data_identity={})
    assert describe_move(again) == []
    assert [session["mesh"]["fsdp"] for session in again["sessions"]] == [1, 4, 4]
    with (
        pytest.raises(ConfigError, match=r"\n  seed: 0 -> 1\ngo on"),
        open_run_folder(tmp_path, tiny_config(seed=1)),
    ):
        pass


def test_other_data_under_the_same_configuration_is_refused(tmp_path):
    write_start(tmp_path, tiny_config(), data_identity={"origin": "a"})
    write_start(tmp_path, tiny_config(), data_identity={"origin": "a"})
    assert len(json.loads((tmp_path / "manifest.json").read_text())["sessions"]) == 2
    with pytest.raises(DataError, match="started on other data"):
        write_start(tmp_path, tiny_config(), data_identity={"origin": "b"})


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with (
        pytest.raises(ConfigError, match=r"holds \['photo.jpg'\] but no run"),
        open_run_folder(tmp_path, tiny_config()),
    ):
        pass
    with pytest.raises(ConfigError, match="no config.yaml, so no run"):
        read_config(tmp_path)
    with pytest.raises(ConfigError, match="is a file"), open_run_folder(tmp_path / "photo.jpg", tiny_config()):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_a_new_folder_that_got_nothing_is_taken_away(tmp_path):
    with pytest.raises(DataError), open_run_folder(tmp_path / "new", tiny_config()):
        raise DataError("no data")
    assert not (tmp_path / "new").exists()


def test_the_configuration_reads_back(tmp_path):
    config = tiny_config(training={"early_stopping": {"patience": 3}})
    write_start(tmp_path, config, data_identity={})
    assert read_config(tmp_path) == config


def test_without_a_lock_file_the_digest_is_of_what_is_installed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (first, again) = (
        describe_tags(write_start(tmp_path / name, tiny_config(), data_identity={})) for name in ("a", "b")
    )
    assert first["lock.of"] == "installed packages"
    assert first["lock.sha256"] == again["lock.sha256"]
    assert first["git"] == "None"
    (tmp_path / "requirements.lock").write_bytes(b"")
    third = describe_tags(write_start(tmp_path / "c", tiny_config(), data_identity={}))
    assert third["lock.sha256"] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
