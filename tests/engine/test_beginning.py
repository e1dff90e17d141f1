import dataclasses
import json

import jax
import numpy as np
import pytest

from mlvlab_jax.engine.beginning import begin
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.loop import run
from mlvlab_jax.engine.origin import find_origin
from mlvlab_jax.engine.recovery import list_steps
from mlvlab_jax.errors import DataError
from mlvlab_jax.models.nets.api import Variables
from mlvlab_jax.models.stacking import unstack_blocks
from mlvlab_jax.trees import compute_digest, named_leaves
from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.adapt import Classes
from mlvlab_jax.weights.exporting import Weights, export_arrays, write_export
from mlvlab_jax.weights.files import write_safetensors
from mlvlab_jax.weights.importing import Target
from tests.conftest import RecordingTracker, tiny_config
from tests.weights.formula import draw

VIT = {
    "name": "vision_transformer",
    "params": {"hidden_size": 16, "num_heads": 2, "num_layers": 2, "patch_size": 4, "gelu": "exact"},
}


CNN = {"name": "cnn", "params": {"widths": [8, 16], "dropout": 0.2}}


def make_config(path, model=CNN, **changes):
    training = {"num_epochs": 1, "ema_decay": 0.9}
    return tiny_config(model=model, weights={"path": str(path)}, training=training, **changes)


def make_weights(model, *, seed: str = ""):
    """Weights of that network, made of their names."""
    spec, image = tiny_config(model=model).model, ImageSpec(8, 8, 1)
    like = Target(spec, image, Classes(10)).like()
    return Weights(spec.name, spec.params, image, {name: draw(seed + name, leaf.shape) for name, leaf in like.items()})


@pytest.fixture(scope="module")
def experiment():
    return make_experiment(make_config("own.safetensors"))


def where(array) -> set[int]:
    return {shard.data.unsafe_buffer_pointer() for shard in array.addressable_shards}


@pytest.fixture
def peer(tmp_path):
    """A transformer as timm has it, and the same arrays as ours."""
    weights, path = make_weights(VIT), tmp_path / "peer.safetensors"
    write_export(path, export_arrays(weights, "timm").arrays, "timm")
    return path, weights.arrays


@pytest.fixture
def own(tmp_path):
    """A network under our own names."""
    write_safetensors(tmp_path / "own.safetensors", make_weights(CNN).arrays)
    return tmp_path / "own.safetensors"


@pytest.mark.parametrize(("mesh", "scan_layers"), [({"data": 8}, False), ({"data": 2, "fsdp": 4}, True)])
def test_the_state_holds_the_weights_wherever_it_lies(peer, tmp_path, mesh, scan_layers):
    path, arrays = peer
    model = {"name": VIT["name"], "params": VIT["params"] | {"scan_layers": scan_layers}}
    config = make_config(path, model, mesh=mesh)
    experiment = make_experiment(config)
    begun = begin(config, experiment, workdir=tmp_path)
    for variables in (begun.state.variables, begun.state.ema):
        found = dict(named_leaves(Variables(unstack_blocks(variables.params), variables.state)))
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert jax.tree.map(lambda leaf: leaf.sharding, begun.state) == experiment.layout
    pairs = zip(jax.tree.leaves(begun.state.variables), jax.tree.leaves(begun.state.ema), strict=True)
    for own, average in pairs:  # the step gives both away
        assert where(own).isdisjoint(where(average))
    assert begun.provenance["format"] == "timm"
    assert "begins with" in begun.notes[0]


def test_a_new_head_is_that_of_chance(own, experiment, tmp_path):
    config = make_config(own)
    config = dataclasses.replace(config, weights=dataclasses.replace(config.weights, head="new"))
    begun = begin(config, experiment, workdir=tmp_path)
    before, after = (dict(named_leaves(state.variables.params)) for state in (experiment.state, begun.state))
    changed = {name for name in before if np.abs(before[name] - after[name]).max() > 0.01}
    assert changed == before.keys() - {"head/kernel", "head/bias"}


def test_a_run_begins_with_them_and_goes_on_without_them(own, experiment, tmp_path):
    config, workdir, first = make_config(own), tmp_path / "run", RecordingTracker()
    expected = begin(config, experiment, workdir=tmp_path).state
    cut = run(config, workdir=workdir, tracker=first, stop_requested=lambda step: step == 1)
    assert any(str(own) in line for line in first.notes)
    assert first.info.tags["weights.format"] == "mlvlab"
    name = "head/kernel"
    before, after = (dict(named_leaves(state.variables.params))[name] for state in (expected, cut.state))
    assert 0 < np.abs(np.asarray(before) - np.asarray(after)).max() < 0.02  # a step of learning rate 0.01
    noted = json.loads((workdir / "manifest.json").read_text())["weights"]
    own.unlink()
    assert run(config, workdir=workdir, tracker=RecordingTracker()).ended == "finished"
    assert json.loads((workdir / "manifest.json").read_text())["weights"] == noted


def test_other_weights_are_refused_before_the_first_checkpoint(own, experiment, tmp_path):
    config, workdir = make_config(own), tmp_path / "run"
    run(config, workdir=workdir, tracker=RecordingTracker(), stop_requested=lambda step: True)
    assert list_steps(workdir / "checkpoints") == []
    origin = find_origin(workdir, config, experiment, step=1, note=print)
    assert compute_digest(origin.state) == compute_digest(begin(config, experiment, workdir=workdir).state)
    write_safetensors(own, make_weights(CNN, seed="other").arrays)
    with pytest.raises(DataError, match="the run in .* began with"):
        run(config, workdir=workdir, tracker=RecordingTracker())


def test_weights_that_do_not_fit_leave_nothing_behind(own, tmp_path):
    write_safetensors(own, make_weights(CNN).arrays | {"params/head/bias": np.ones(3, np.float32)})
    with pytest.raises(DataError, match="params/head: made for 3 classes, the data has 10"):
        run(make_config(own), workdir=tmp_path / "run", tracker=RecordingTracker())
    assert not (tmp_path / "run").exists()
