"""The published sizes against the libraries themselves, their weights made of their names and saved in their own format.

Runs where torch, timm and transformers can be imported beside this project.
"""

import jax
import numpy as np
import pytest
import safetensors.numpy

from mlvlab_jax.config.weights import WeightsConfig
from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.adapt import Classes
from mlvlab_jax.weights.exporting import Weights, export_arrays, write_export
from mlvlab_jax.weights.files import read_weights
from mlvlab_jax.weights.importing import import_weights
from tests.weights.formula import draw_images
from tests.weights.networks import PUBLISHED, make_target
from tests.weights.test_parity import make_variables

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
IMAGE, CLASSES = ImageSpec(224, 224, 3), Classes(1000)


def make_peer(name):
    """The peer's network with weights of the formula, and these by the names in its file."""
    from tests.weights.golden import refresh

    library, _, which = name.partition(" ")
    if library == "timm":
        return refresh.make_timm(lambda: refresh.timm.create_model(which))
    if library == "transformers":
        return refresh.make_transformers(*refresh.PUBLISHED_TRANSFORMERS[which])
    return refresh.make_augreg(
        lambda: refresh.timm.create_model("vit_base_patch16_224"), big_vision=library == "big_vision"
    )


def save(arrays, name, folder):
    if name.startswith(("timm", "transformers")):
        path = folder / "peer.safetensors"
        safetensors.numpy.save_file(arrays, path, metadata={"format": "pt"})
    else:
        path = folder / "peer.npz"
        np.savez(path, **arrays)
    return path


def read_exported(peer, name, path):
    """The peer's arrays after it has read a file that was exported, none missing and none too many."""
    import torch
    from safetensors.torch import load_file

    if name.startswith("timm"):
        peer.load_state_dict(load_file(path), strict=True)
    elif name.startswith("transformers"):
        folder = path.parent
        peer.config.save_pretrained(folder)
        path.rename(folder / "model.safetensors")
        peer, said = type(peer).from_pretrained(folder, output_loading_info=True)
        assert not any(said[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    else:
        peer.load_pretrained(str(path))
    assert all(tensor.isfinite().all() for tensor in peer.state_dict().values() if torch.is_floating_point(tensor))
    return peer


@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_are_the_same_and_weights_go_there_and_back(name, tmp_path):
    for library in ("torch", "timm", "transformers"):
        pytest.importorskip(library)
    from tests.weights.golden.refresh import ask

    peer, arrays = make_peer(name)
    model_name, params = PUBLISHED[name]
    params = params | ({"gelu": "exact"} if model_name == "vision_transformer" else {})  # as timm reads AugReg
    target = make_target(model_name, params, image=IMAGE, classes=CLASSES)
    imported = import_weights(read_weights(str(save(arrays, name, tmp_path))), target, WeightsConfig(path="peer"))
    model, variables = make_variables(imported.arrays, target)
    image = draw_images(2, 224) / 8
    logits, _ = jax.jit(model.apply, static_argnums=3)(variables, image, jax.random.key(0), False)
    expected = ask(peer, image).numpy()
    difference = float(np.abs(np.asarray(logits) - expected).max())
    print(f"\n{name}: largest difference {difference:.2e} of logits up to {np.abs(expected).max():.2f}")
    assert np.abs(expected).max() > 0.1
    assert difference <= 1e-4

    format_name = name.split()[0]
    weights = Weights(model_name, target.spec.params, IMAGE, imported.arrays)
    out = tmp_path / ("out.npz" if format_name in ("augreg", "big_vision") else "out.safetensors")
    write_export(out, export_arrays(weights, format_name).arrays, format_name)
    before = {key: tensor.clone() for key, tensor in peer.state_dict().items()}
    again = read_exported(make_peer(name)[0], name, out)
    np.testing.assert_allclose(ask(again, image).numpy(), expected, atol=0 if "deit_base" not in name else 1e-5)
    for key, tensor in again.state_dict().items():
        if "deit_base" not in name or "embeddings" not in key:  # the position of its second token is a part of that
            np.testing.assert_array_equal(tensor.numpy(), before[key].numpy(), err_msg=key)


def test_weights_of_another_image_size_give_what_timm_gives(tmp_path):
    timm = pytest.importorskip("timm")
    from tests.weights.golden import refresh

    _, arrays = refresh.make_timm(lambda: timm.create_model("vit_small_patch16_224"))
    path = save(arrays, "timm", tmp_path)
    larger = timm.create_model("vit_small_patch16_224", img_size=288, pretrained=False)
    larger.load_state_dict(
        timm.models.vision_transformer.checkpoint_filter_fn(refresh.to_torch(arrays), larger), strict=True
    )
    target = make_target(
        "vision_transformer", {"variant": "S", "gelu": "exact"}, image=ImageSpec(288, 288, 3), classes=CLASSES
    )
    imported = import_weights(read_weights(str(path)), target, WeightsConfig(path="peer"))
    model, variables = make_variables(imported.arrays, target)
    image = draw_images(1, 288) / 8
    logits, _ = jax.jit(model.apply, static_argnums=3)(variables, image, jax.random.key(0), False)
    np.testing.assert_allclose(logits, refresh.ask(larger, image).numpy(), atol=1e-4)
