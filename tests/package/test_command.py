import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from mlvlab_jax.package.load import load_package, verify_files
from mlvlab_jax.package_model import main
from tests.conftest import ROOT


@pytest.fixture
def run_folder(workdir, tmp_path):
    return shutil.copytree(workdir, tmp_path / "digits run", ignore=shutil.ignore_patterns("package"))


def test_the_command_makes_a_package_and_its_tar_and_says_where(run_folder, capsys):
    assert main(["--workdir", str(run_folder), "--name", "digits", "--tar"]) == 0
    said = capsys.readouterr().out
    package = run_folder / "package"
    manifest = verify_files(package)
    assert manifest.name == "digits"
    for expected in (
        f"digits: cnn, {manifest.model.num_params:,} parameters, step {manifest.run.step}",
        f"test/accuracy           {manifest.metrics['test/accuracy']:.4f}",
        "digests and golden outputs checked",
        f"package: {package}  ({manifest.sha256[:12]})",
        f"check:   mlvlab package --verify {package}.tar",
    ):
        assert expected in said
    assert load_package(run_folder / "package.tar").manifest == manifest

    assert main(["--verify", str(package) + ".tar", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["sha256"], told["opened_from"], told["metrics"]) == (manifest.sha256, "export", dict(manifest.metrics))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_in_the_middle_leaves_nothing_of_a_package(number, code, run_folder):
    before = {path.name for path in run_folder.iterdir()} | {"evaluation"}
    command = [sys.executable, "-m", "mlvlab_jax.package_model", "--workdir", str(run_folder), "--name", "digits"]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL) as child:
        end = time.monotonic() + 200
        while not list(run_folder.glob(".package.*.tmp")) and child.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        assert child.poll() is None
        child.send_signal(number)
        assert child.wait(timeout=100) == code
    assert {path.name for path in run_folder.iterdir()} <= before


def test_a_name_is_asked_for_where_the_folder_has_none_that_fits(run_folder, capsys):
    assert main(["--workdir", str(run_folder)]) == 64
    assert "--name 'digits run': expected letters" in capsys.readouterr().err
    assert not (run_folder / "package").exists()


def test_a_bad_package_is_one_line_and_65(made, tmp_path, capsys):
    package = shutil.copytree(made, tmp_path / "package")
    (package / "loader.py").write_text("")
    assert main(["--verify", str(package)]) == 65
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "holds 'loader.py'; expected nothing but" in said.err


def test_a_folder_without_a_run_and_a_wrong_checkpoint_are_refused(run_folder, tmp_path, capsys):
    assert main(["--workdir", str(tmp_path)]) == 64
    assert "no config.yaml" in capsys.readouterr().err
    assert main(["--workdir", str(run_folder), "--name", "x", "--checkpoint", "999"]) == 66
    with pytest.raises(SystemExit):
        main(["--workdir", str(run_folder), "--verify", str(tmp_path)])
