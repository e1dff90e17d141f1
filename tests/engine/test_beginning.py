import dataclasses
import json

import jax
import numpy as np
import pytest

from mlvlab_jax.engine.beginning import begin
from mlvlab_jax.engine.checkpoint import CheckpointStore
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.loop import run
from mlvlab_jax.engine.origin import find_origin
from mlvlab_jax.errors import DataError
from mlvlab_jax.models.nets.api import Variables
from mlvlab_jax.models.stacking import unstack_blocks
from mlvlab_jax.trees import compute_digest, named_leaves
from mlvlab_jax.weights.exporting import Weights, export_arrays, write_export
from tests.conftest import RecordingTracker, tiny_config
from tests.weights.formula import draw

VIT = {
    "name": "vision_transformer",
    "params": {"hidden_size": 16, "num_heads": 2, "num_layers": 2, "patch_size": 4, "gelu": "exact"},
}


def vit_config(path, model=VIT, **changes):
    training = {"num_epochs": 1, "ema_decay": 0.9}
    return tiny_config(model=model, weights={"path": str(path)}, training=training, **changes)


def write_peer(path, *, seed: str = "", **changes):
    """Weights of that network as timm has them, made of their names; returns ours."""
    experiment = make_experiment(tiny_config(model=VIT))
    shapes = dict(named_leaves(Variables(*experiment.state.variables)))
    arrays = {name: draw(seed + name, leaf.shape) for name, leaf in shapes.items()}
    config = tiny_config(model=VIT).model
    exported = export_arrays(Weights(config.name, config.params, experiment.data.spec, arrays), "timm").arrays
    path.unlink(missing_ok=True)
    write_export(path, exported | changes, "timm")
    return arrays


@pytest.fixture
def peer(tmp_path):
    path = tmp_path / "peer.safetensors"
    return path, write_peer(path)


@pytest.mark.parametrize(("mesh", "scan_layers"), [({"data": 8}, False), ({"data": 2, "fsdp": 4}, True)])
def test_the_state_holds_the_weights_wherever_it_lies(peer, tmp_path, mesh, scan_layers):
    path, arrays = peer
    model = {"name": VIT["name"], "params": VIT["params"] | {"scan_layers": scan_layers}}
    config = vit_config(path, model, mesh=mesh)
    experiment = make_experiment(config)
    begun = begin(config, experiment, workdir=tmp_path)
    for variables in (begun.state.variables, begun.state.ema):
        found = dict(named_leaves(Variables(unstack_blocks(variables.params), variables.state)))
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert jax.tree.map(lambda leaf: leaf.sharding, begun.state) == experiment.layout
    assert begun.provenance["format"] == "timm"
    assert "begins with" in begun.notes[0]


def test_a_new_head_is_that_of_chance(peer, tmp_path):
    config = dataclasses.replace(
        vit_config(peer[0]), weights=dataclasses.replace(vit_config(peer[0]).weights, head="new")
    )
    experiment = make_experiment(config)
    begun = begin(config, experiment, workdir=tmp_path)
    own, made = experiment.state.variables.params, begun.state.variables.params
    np.testing.assert_array_equal(made["head"]["kernel"], own["head"]["kernel"])
    assert np.abs(made["norm"]["scale"] - own["norm"]["scale"]).max() > 0.1


def test_a_run_begins_with_them_and_goes_on_without_them(peer, tmp_path):
    path, _ = peer
    config, note = vit_config(path), RecordingTracker()
    whole = run(config, workdir=tmp_path / "whole", tracker=note)
    assert any(str(path) in line for line in note.notes)
    assert note.info.tags["weights.format"] == "timm"
    cut = tmp_path / "cut"
    run(config, workdir=cut, tracker=RecordingTracker(), stop_requested=lambda step: step == 2)
    path.unlink()
    resumed = run(config, workdir=cut, tracker=RecordingTracker())
    assert compute_digest(resumed.state) == compute_digest(whole.state)
    manifest = json.loads((cut / "manifest.json").read_text())
    assert manifest["weights"] == json.loads((tmp_path / "whole/manifest.json").read_text())["weights"]


def test_other_weights_are_refused_before_the_first_checkpoint(peer, tmp_path):
    path, _ = peer
    config, workdir = vit_config(path), tmp_path / "run"
    run(config, workdir=workdir, tracker=RecordingTracker(), stop_requested=lambda step: True)
    with CheckpointStore(workdir / "checkpoints", config.checkpoint, mode="min", read_only=True) as store:
        assert store.steps() == []
    write_peer(path, seed="other")
    with pytest.raises(DataError, match="the run in .* began with"):
        run(config, workdir=workdir, tracker=RecordingTracker())
    write_peer(path)
    experiment = make_experiment(config)
    origin = find_origin(workdir, config, experiment, step=1, note=print)
    assert compute_digest(origin.state) == compute_digest(begin(config, experiment, workdir=workdir).state)


def test_weights_that_do_not_fit_leave_nothing_behind(peer, tmp_path):
    path, _ = peer
    write_peer(path, **{"norm.bias": np.ones(3, np.float32)})
    with pytest.raises(DataError, match=r"misshapen norm\.bias: \(3,\) in the file"):
        run(vit_config(path), workdir=tmp_path / "run", tracker=RecordingTracker())
    assert not (tmp_path / "run").exists()
