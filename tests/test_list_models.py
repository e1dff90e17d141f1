"""`mlvlab models`: what is listed, and what is said of one."""

import json
import subprocess
import sys

import pytest

from mlvlab_jax import list_models
from mlvlab_jax.plugins import MODELS
from tests.conftest import ROOT


def listed(capsys, *arguments):
    assert list_models.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_model_and_variant_is_listed_with_its_figures(capsys):
    rows = listed(capsys)["models"]
    expected = [(name, variant) for name in MODELS.names() for variant in MODELS.entry(name).variants or [None]]
    assert [(row["model"], row["variant"]) for row in rows] == expected
    (base,) = (row for row in rows if (row["model"], row["variant"]) == ("vision_transformer", "B/16"))
    assert (base["num_params"], base["gflops"], base["image_side_px"]) == (86_567_656, 35.13, 224)
    assert base["params"] == {"variant": "B", "patch_size": 16}
    (cnn,) = (row for row in rows if row["model"] == "cnn")
    assert cnn == {"model": "cnn", "variant": None, "recipe": "digits.yaml"}


def test_a_recipe_is_found_by_what_it_trains(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(list_models, "CONFIGS", tmp_path)
    size = "variant: S, patch_size: 16"
    for name, params in {
        "a_narrower": f"{{{size}, hidden_size: 96}}",
        "b_classes": f"{{{size}, dropout: 0.1}}",
        "c_again": f"{{{size}}}",
        "d_scaled": f"{{{size}, position: learned_patches, layer_scale: 1e-4, gelu: exact}}",
        "e_other": "{variant: S, patch_size: 8}",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(f"model: {{name: vision_transformer, params: {params}}}\n")
    found = {row["variant"]: row["recipe"] for row in listed(capsys, "vision_transformer")["models"] if row["recipe"]}
    assert found == {"S/16": "b_classes.yaml", "DeiT-III-S/16": "d_scaled.yaml"}


def test_one_model_comes_with_its_parameters_and_their_meaning(capsys):
    fields = {field.pop("name"): field for field in listed(capsys, "resnet")["params"]}
    assert fields["depth"]["values"] == "18 | 34 | 50 | 101 | 152"
    assert fields["stochastic_depth"]["values"] == "number >= 0, < 1"
    assert (fields["stem"]["default"], fields["width"]["default"]) == ("imagenet", 64)
    assert fields["width"]["meaning"].startswith("Channels of the first stage")
    assert all(field["meaning"] for field in fields.values())


@pytest.mark.parametrize("name", [None, *MODELS.names()])
def test_the_tables_show_every_row(name, capsys):
    assert list_models.main([name] if name else []) == 0
    text = capsys.readouterr().out
    for entry in map(MODELS.entry, [name] if name else MODELS.names()):
        for variant, of in entry.variants.items():
            assert f"{of.num_params:,}" in text, variant


def test_an_unknown_model_is_named_with_the_nearest(capsys):
    assert list_models.main(["resnett"]) == 64
    assert "unknown model 'resnett'; did you mean 'resnet'?" in capsys.readouterr().err


def test_figures_come_without_jax():
    code = (
        "import sys; from mlvlab_jax.cli import main; main(['models', 'vision_transformer']);"
        "sys.exit(any(m in sys.modules for m in ('jax', 'flax')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "86,567,656" in done.stdout
