import dataclasses
import re

import numpy as np
import pytest

from mlvlab_jax.config.weights import WeightsConfig
from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.adapt import Classes
from mlvlab_jax.weights.exporting import Weights, export_arrays, write_export
from mlvlab_jax.weights.files import read_weights
from mlvlab_jax.weights.importing import count_classes, fill_head, import_weights
from mlvlab_jax.weights.store import read_imported, write_imported
from tests.weights.networks import SMALL_IMAGE, draw_file, read_golden, small_target

OPTIONS = WeightsConfig(path="peer.safetensors")
SHAPES = read_golden("small")["timm vit"]["arrays"]


def import_vit(file, options=OPTIONS, **params):
    return import_weights(file, small_target("timm vit", **params), options)


def with_shapes(**changes):
    """The file of a vision transformer where names have other shapes, or None for none."""
    return draw_file({name: shape for name, shape in (SHAPES | changes).items() if shape is not None})


def test_everything_that_does_not_fit_is_said_at_once():
    changes = {
        "blocks.0.norm1.weight": None,
        "blocks.0.norm1.weigth": [32],
        "blocks.1.mlp.fc1.weight": [64, 32],
        "patch_embed.proj.weight": [32, 3, 4, 4],
        "head.weight": [7, 32],
        "head.bias": [7],
        "rope.periods": [4],
    }
    with pytest.raises(DataError) as caught:
        import_vit(with_shapes(**changes))
    assert caught.value.exit_code == 65
    text = str(caught.value)
    for expected in (
        "missing blocks.0.norm1.weight (32,); near: blocks.0.norm1.weigth",
        "extra blocks.0.norm1.weigth (32,); near: blocks.0.norm1.weight",
        "extra rope.periods (4,)",
        "misshapen blocks.1.mlp.fc1.weight: (64, 32) in the file, the network takes (128, 32)",
        "made for patches of 4 pixels, the network has 8; take model.params.patch_size: 4, or weights.patches: resize",
        "made for 7 classes, the data has 5",
        "6 things do not fit",
    ):
        assert expected in text


def test_another_size_of_the_network_is_said_in_full():
    with pytest.raises(DataError) as caught:
        import_vit(draw_file(SHAPES), hidden_size=64)
    named = set(re.split(r"[\s:]+", str(caught.value)))
    ours = {"patch_embed.proj.weight": "params/patch_embed/kernel", "pos_embed": "params/pos_embed"}
    assert {ours.get(name, name) for name in SHAPES.keys() - {"head.bias"}} <= named


def test_values_that_are_no_weights_are_named():
    broken = np.full(32, np.nan, np.float32)
    file = draw_file(SHAPES, **{"norm.bias": broken, "norm.weight": np.ones(32, np.int8)})
    with pytest.raises(DataError, match="2 things") as caught:
        import_vit(file)
    assert "norm.bias: holds NaN" in str(caught.value)
    assert "norm.weight: holds int8" in str(caught.value)


def test_half_precision_becomes_float32():
    halves = {name: array.astype(np.float16) for name, array in draw_file(SHAPES).arrays.items()}
    imported = import_vit(draw_file({}, **halves))
    assert {array.dtype for array in imported.arrays.values()} == {np.dtype(np.float32)}
    assert imported.provenance["dtypes"] == ["float16"]


def test_a_new_head_is_left_out_and_noted():
    imported = import_vit(with_shapes(**{"head.weight": [7, 32], "head.bias": [7]}), WeightsConfig(path="", head="new"))
    assert "params/head/kernel" not in imported.arrays
    assert imported.provenance["new"] == ["params/head/kernel", "params/head/bias"]
    assert imported.provenance["dropped"] == ["head.weight", "head.bias"]
    filled = fill_head(imported, small_target("timm vit"))
    assert not filled.arrays["params/head/kernel"].any()
    assert filled.arrays["params/head/kernel"].shape == (32, 5)


def test_a_file_without_a_head_needs_a_new_one():
    file = with_shapes(**{"head.weight": None, "head.bias": None})
    with pytest.raises(DataError, match=r"missing head\.bias"):
        import_vit(file)
    assert "params/cls" in import_vit(file, WeightsConfig(path="", head="new")).arrays
    with pytest.raises(DataError, match="has no last layer"):
        count_classes(file, small_target("timm vit").spec, SMALL_IMAGE)


def test_outputs_are_picked_by_the_names_beside_the_file():
    file = dataclasses.replace(with_shapes(**{"head.weight": [7, 32], "head.bias": [7]}), class_names=tuple("abcdefg"))
    imported = import_vit(file, WeightsConfig(path="", classes=("g", 0, "c", 1, "b")))
    np.testing.assert_array_equal(imported.arrays["params/head/bias"], file.arrays["head.bias"][[6, 0, 2, 1, 1]])
    with pytest.raises(DataError, match=r"weights\.classes: 'z' is no output"):
        import_vit(file, WeightsConfig(path="", classes=("z", 0, 1, 2, 3)))


def test_images_of_another_size_and_colour_are_fitted():
    target = dataclasses.replace(small_target("timm vit"), image=ImageSpec(48, 40, 1))
    imported = import_weights(draw_file(SHAPES), target, OPTIONS)
    assert imported.arrays["params/pos_embed"].shape == (1, 31, 32)
    assert imported.arrays["params/patch_embed/kernel"].shape == (64, 32)
    assert len(imported.provenance["changed"]) == 2


def test_a_digest_that_is_asked_for_is_compared():
    options = WeightsConfig(path="", sha256="1" * 64)
    with pytest.raises(DataError, match="fetch the file that was meant"):
        import_vit(draw_file(SHAPES), options)
    assert import_vit(draw_file(SHAPES), WeightsConfig(path="", sha256="0" * 64)).arrays


def test_weights_of_another_network_and_of_none_are_told_apart():
    with pytest.raises(DataError, match="holds timm vision_transformer; the network is resnet"):
        import_weights(draw_file(SHAPES), small_target("timm resnet18"), OPTIONS)
    with pytest.raises(DataError, match="weights of no known kind, such as a, b; expected for resnet one of"):
        import_weights(draw_file({"a": [1], "b": [1]}), small_target("timm resnet18"), OPTIONS)


def test_an_option_that_the_peer_has_not_is_named():
    with pytest.raises(ConfigError, match="'group_standardized' makes other kernels") as caught:
        import_weights(
            draw_file(read_golden("small")["timm resnet18"]["arrays"]),
            small_target("timm resnet18", norm="group_standardized"),
            OPTIONS,
        )
    assert (caught.value.exit_code, caught.value.path) == (64, "model.params.norm")
    with pytest.raises(
        ConfigError, match=r"transformers has no place for 4 arrays .*\n  params/block0/attention_scale"
    ):
        import_weights(
            draw_file(read_golden("small")["transformers vit"]["arrays"]),
            small_target("transformers vit", layer_scale=0.1),
            OPTIONS,
        )


def test_other_numbers_from_the_same_weights_are_noted():
    (note,) = import_vit(draw_file(SHAPES), gelu="tanh").notes
    assert "timm computes with model.params.gelu: exact, the network with tanh" in note
    assert import_vit(draw_file(SHAPES)).notes == ()


def test_a_head_of_augreg_goes_with_its_own_layer():
    file = draw_file(read_golden("small")["augreg vit"]["arrays"] | {"pre_logits/kernel": [32, 32]})
    with pytest.raises(DataError, match="extra pre_logits/kernel"):
        import_weights(file, small_target("augreg vit"), OPTIONS)
    imported = import_weights(file, small_target("augreg vit"), WeightsConfig(path="", head="new"))
    assert "pre_logits/kernel" in imported.provenance["dropped"]


@pytest.mark.parametrize("prefix", ["opt/target/", "params/", "params/img/"])
def test_a_checkpoint_of_flax_is_read_with_its_prefix_and_stacked_blocks(tmp_path, prefix):
    name = "augreg vit" if prefix == "opt/target/" else "big_vision vit"
    arrays, block = draw_file(read_golden("small")[name]["arrays"]).arrays, "Transformer/encoderblock"
    whole = {f"{prefix}{key}": array for key, array in arrays.items() if not key.startswith(block) or prefix[0] == "o"}
    if prefix != "opt/target/":
        for key in (key.removeprefix(f"{block}_0/") for key in arrays if key.startswith(f"{block}_0/")):
            whole[f"{prefix}{block}/{key}"] = np.stack([arrays[f"{block}_{i}/{key}"] for i in range(2)])
    np.savez(tmp_path / "a.npz", **whole, **{"opt/state/step": np.int32(7)})
    file = read_weights(str(tmp_path / "a.npz"))
    assert file.arrays.keys() == arrays.keys()
    imported, plain = (import_weights(each, small_target(name), OPTIONS) for each in (file, draw_file({}, **arrays)))
    for key, array in plain.arrays.items():
        np.testing.assert_array_equal(imported.arrays[key], array)


@pytest.mark.parametrize("width", [48, 30, 7])
def test_shapes_that_no_head_divides_are_named_like_others(width):
    for name in ("timm vit", "transformers vit", "transformers deit", "augreg vit"):
        shapes = {
            key: [width if size == 32 else 3 * width if size == 96 else size for size in shape]
            for key, shape in read_golden("small")[name]["arrays"].items()
        }
        with pytest.raises(DataError, match=r"misshapen .*qkv|misshapen .*query"):
            import_weights(draw_file(shapes), small_target(name), OPTIONS)


def test_parts_of_one_array_that_do_not_fit_each_other_are_named():
    shapes = read_golden("small")["transformers deit"]["arrays"]
    name = "deit.embeddings.distillation_token"
    with pytest.raises(DataError, match=rf"misshapen .*{name} \(1, 1, 30\) in the file"):
        import_weights(draw_file(shapes | {name: [1, 1, 30]}), small_target("transformers deit"), OPTIONS)


def test_imported_weights_are_read_back_and_go_on_to_any_format(tmp_path):
    target, file = small_target("timm vit"), draw_file(SHAPES)
    path = write_imported(tmp_path / "vit", import_vit(file), target)
    weights = read_imported(tmp_path / "vit")
    assert (weights.model, weights.params, weights.image) == ("vision_transformer", target.spec.params, SMALL_IMAGE)
    exported = export_arrays(weights, "augreg")
    assert exported.notes == (
        "augreg computes with model.params.gelu: tanh, the network with exact: the same weights give other numbers",
    )
    write_export(tmp_path / "vit.npz", exported.arrays, "augreg")
    again = import_weights(read_weights(str(tmp_path / "vit.npz")), target, OPTIONS)
    for name, array in read_weights(str(path)).arrays.items():
        np.testing.assert_array_equal(array, again.arrays[name])
    with pytest.raises(ConfigError, match="expected a new file"):
        write_imported(tmp_path / "vit", import_vit(file), target)
    path.with_suffix(".json").unlink()
    with pytest.raises(DataError, match="not the document of imported weights"):
        read_imported(tmp_path / "vit")


def test_a_format_without_such_a_network_is_refused():
    target = small_target("timm mixer")
    weights = Weights("mixer", target.spec.params, SMALL_IMAGE, {})
    with pytest.raises(ConfigError, match="transformers: has no mixer; expected for this network one of: timm"):
        export_arrays(weights, "transformers")


def test_our_own_weights_fit_any_model_and_are_fitted_as_others():
    target = small_target("timm resnet18")
    own = import_weights(draw_file(read_golden("small")["timm resnet18"]["arrays"]), target, OPTIONS)
    wider = dataclasses.replace(target, classes=Classes(9))
    imported = import_weights(draw_file({}, **own.arrays), wider, WeightsConfig(path="", head="new"))
    assert imported.provenance["format"] == "mlvlab"
    assert imported.arrays.keys() == own.arrays.keys() - {"params/head/kernel", "params/head/bias"}
