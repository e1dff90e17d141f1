"""`mlvlab plan` as a person runs it: exit codes, words, and one JSON object."""

import json

import pytest
import yaml

from mlvlab_jax.planning.search import MAX_CANDIDATES
from tests.conftest import TINY, merge
from tests.end_to_end.test_commands import command

#: Without augmentation, which only takes time to compile.
CONFIG = merge(TINY, {"mesh": {"data": -1}, "pipeline": {"augment": {"crop_padding": 0, "horizontal_flip": False}}})


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return str(path)


def test_a_plan_is_printed_with_what_is_unknown(config):
    done = command("mlvlab_jax.plan", "--config", config, "--mesh", "data=2", "--memory", "16")
    assert done.returncode == 0, done.stderr
    assert "2 x cpu (data 2)" in done.stdout
    assert "of 16.00 GiB: fits" in done.stdout
    assert "images/s, hours and cost: unknown" in done.stdout


def test_what_does_not_fit_and_cannot_is_said_as_json(config):
    arguments = ("--config", config, "--mesh", "data=1", "--memory", "0.00001", "--json", "model.params.norm=batch")
    done = command("mlvlab_jax.plan", *arguments)
    assert done.returncode == 0, done.stderr
    tree = json.loads(done.stdout)
    assert (tree["fits"], tree["fits_with"]) == (False, None)
    assert sum(tree["memory_bytes"].values()) == tree["needed_bytes"] > tree["capacity_bytes"]


@pytest.mark.slow
def test_a_search_prints_what_to_add(config):
    done = command("mlvlab_jax.plan", "--config", config, "--mesh", "data=2", "--search")
    assert done.returncode == 0, done.stderr
    assert "best: " in done.stdout
    assert 2 <= done.stdout.count("mesh.data=") <= MAX_CANDIDATES + 1


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--topology", "v5f:4x4"], 64, "unknown generation 'v5f'; did you mean 'v5"),
        (["--topology", "v5e:4by4"], 64, "'4by4' is no shape of a v5e"),
        (["--mesh", "dat=2"], 64, "unknown axis 'dat'; did you mean 'data'?"),
        (["--mesh", "data=3"], 64, "16 examples cannot be spread evenly over data 3"),
        (["--mesh", "data=2", "--num-classes", "3"], 64, "expected both, above 0"),
        (["--mesh", "data=2", "data={name: image_folder, params: {path: nowhere}}"], 65, "to plan without the data"),
    ],
)
def test_what_cannot_be_planned_is_one_message(config, arguments, code, expected):
    done = command("mlvlab_jax.plan", "--config", config, *arguments)
    assert (done.returncode, expected in done.stderr) == (code, True), done.stderr
    assert done.stderr.startswith("error: ")
