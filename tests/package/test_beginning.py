"""Fine-tuning from a package, and what a package says of it."""

import dataclasses

import numpy as np
import pytest

from mlvlab_jax.config.weights import WeightsConfig
from mlvlab_jax.engine.beginning import begin
from mlvlab_jax.engine.experiment import make_experiment
from mlvlab_jax.engine.folder import read_config
from mlvlab_jax.errors import DataError
from mlvlab_jax.files import sha256_file
from mlvlab_jax.package.arrays import read_arrays
from mlvlab_jax.package.build import write_package
from mlvlab_jax.package.manifest import read_manifest
from mlvlab_jax.trees import named_leaves
from mlvlab_jax.weights_command import main
from tests.package.trained import TODAY, train_tiny


@pytest.mark.slow
def test_a_run_begins_with_the_weights_of_a_package_and_its_own_package_says_so(made, tmp_path):
    folder = train_tiny(tmp_path / "tuned", weights={"path": str(made)}, training={"num_epochs": 1})
    tuned = write_package(folder, today=TODAY)
    noted = read_manifest(tuned).weights
    assert (noted["format"], noted["sha256"]) == ("mlvlab", sha256_file(made / "model.safetensors"))
    assert f"Began with: `{made}` (mlvlab)" in (tuned / "README.md").read_text()
    assert read_manifest(made).weights is None
    assert '"weights"' not in (made / "manifest.json").read_text()


def test_the_weights_of_a_package_are_those_of_the_state(made, workdir, tmp_path):
    config = dataclasses.replace(read_config(workdir), weights=WeightsConfig(path=str(made)))
    experiment = make_experiment(config)
    state = begin(config, experiment, workdir=tmp_path).state
    for name, array in read_arrays(made / "model.safetensors").items():
        np.testing.assert_array_equal(dict(named_leaves(state.variables))[name], array)
    (package := tmp_path / "package").mkdir()
    for path in made.glob("*.*"):
        (package / path.name).write_bytes(path.read_bytes())
    text = (package / "labels.json").read_text()
    (package / "labels.json").write_text(text.replace('"0"', '"zero"').replace("class_0", "class_zero"))
    assert (package / "labels.json").read_text() != text
    config = dataclasses.replace(config, weights=WeightsConfig(path=str(package)))
    with pytest.raises(DataError, match="made for other classes"):
        begin(config, experiment, workdir=tmp_path)


@pytest.mark.slow
def test_a_run_and_its_package_are_written_as_another_library_has_them(tmp_path):
    params = {"hidden_size": 8, "num_heads": 2, "num_layers": 1, "patch_size": 4, "scan_layers": True}
    model = {"name": "vision_transformer", "params": params}
    folder = train_tiny(tmp_path / "vit", model=model, training={"num_epochs": 1})
    package = write_package(folder, today=TODAY)
    files = []
    for source in (folder, package):
        files.append(tmp_path / f"{source.name}.safetensors")
        assert main(["export", str(source), "--format", "timm", "--output", str(files[-1])]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    arrays = read_arrays(files[0])
    assert arrays["patch_embed.proj.weight"].shape == (8, 1, 4, 4)
    assert arrays["blocks.0.attn.qkv.weight"].shape == (24, 8)
    (package / "config.json").write_text("{}")
    assert main(["export", str(package), "--format", "timm", "--output", str(tmp_path / "no.safetensors")]) == 65
    assert not (tmp_path / "no.safetensors").exists()
