import json

import numpy as np
import pytest
import safetensors.numpy

from mlvlab_jax.weights_command import main
from tests.weights.networks import draw_file, read_golden

MODEL = ["--model", "vision_transformer", "hidden_size=32", "num_heads=2", "num_layers=2", "patch_size=8"]
NETWORK = [*MODEL, "gelu=exact", "--image-size", "32"]


@pytest.fixture
def peer(tmp_path):
    path = tmp_path / "peer.safetensors"
    safetensors.numpy.save_file(draw_file(read_golden("small")["timm vit"]["arrays"]).arrays, path)
    return path


def test_inspect_tells_what_a_file_is_and_whether_it_fits(peer, capsys):
    assert main(["inspect", str(peer), *NETWORK]) == 0
    shown = capsys.readouterr().out
    assert "32 arrays, 32,389 numbers, read as timm vision_transformer" in shown
    assert "blocks.1.attn.qkv.weight" in shown
    assert "fits vision_transformer" in shown
    assert main(["inspect", str(peer), "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["recognised_as"] == ["timm vision_transformer"]
    assert {"name": "head.bias", "dtype": "float32", "shape": [5]} in tree["arrays"]
    assert tree["num_values"] == sum(np.prod(each["shape"]) for each in tree["arrays"])


def test_import_then_export_gives_the_same_bytes(peer, tmp_path, capsys):
    assert main(["import", str(peer), *NETWORK, "--output", str(tmp_path / "ours")]) == 0
    document = json.loads((tmp_path / "ours/weights.json").read_text())
    assert (document["num_classes"], document["image"]) == (5, [32, 32, 3])
    back = tmp_path / "back.safetensors"
    assert main(["export", str(tmp_path / "ours"), "--format", "timm", "--output", str(back)]) == 0
    found, expected = (safetensors.numpy.load_file(path) for path in (back, peer))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    assert "note" not in capsys.readouterr().out


def test_import_into_a_file_with_a_new_head(peer, tmp_path, capsys):
    out = tmp_path / "small.safetensors"
    arguments = ["import", str(peer), *MODEL, "--image-size", "64", "--num-classes", "3", "--head", "new"]
    assert main([*arguments, "--output", str(out)]) == 0
    arrays = safetensors.numpy.load_file(out)
    assert arrays["params/head/kernel"].shape == (32, 3)
    assert arrays["params/pos_embed"].shape == (1, 65, 32)
    shown = capsys.readouterr().out
    assert "params/pos_embed: (1, 17, 32) -> (1, 65, 32)" in shown
    assert "note: timm computes with model.params.gelu: exact" in shown


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        (["--model", "vision_transformr"], 64, "did you mean 'vision_transformer'"),
        (["--model", "vision_transformer", "variant=Sm"], 64, "model.params.variant: expected 'Ti'"),
        (["--model", "vision_transformer", "variant"], 64, "expected name=value"),
        (["--model", "resnet"], 65, "holds timm vision_transformer; the network is resnet"),
        ([*NETWORK, "patch_size=16"], 65, "made for patches of 8 pixels, the network has 16"),
        ([*NETWORK, "num_layers=1"], 65, "extra blocks.1.norm1.weight (32,)"),
        ([*NETWORK, "--num-classes", "7"], 65, "made for 5 classes, the data has 7"),
    ],
)
def test_a_mistake_gives_one_message_and_changes_nothing(peer, tmp_path, capsys, changes, code, message):
    out = tmp_path / "ours"
    assert main(["import", str(peer), *changes, "--output", str(out)]) == code
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "an empty file"),
        (b"\x80\x04N.", "pickled objects"),
        (b"\x10\0\0\0\0\0\0\0{", "not a whole safetensors file"),
    ],
)
def test_a_file_of_no_use_gives_one_message(tmp_path, capsys, data, message):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    for arguments in (["inspect", str(path)], ["import", str(path), *NETWORK, "--output", str(tmp_path / "ours")]):
        assert main(arguments) == 65
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_there_is_not_written_over(peer, tmp_path, capsys):
    before = peer.read_bytes()
    assert main(["import", str(peer), *NETWORK, "--output", str(peer)]) == 64
    assert main(["export", str(tmp_path), "--format", "timm", "--output", str(peer)]) == 64
    assert (
        main(["export", str(tmp_path / "gone"), "--format", "timm", "--output", str(tmp_path / "a.safetensors")]) == 65
    )
    assert "expected a new file" in capsys.readouterr().err
    assert peer.read_bytes() == before
