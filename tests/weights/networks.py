"""Which of our networks each entry of the golden files is."""

import functools
import json
from pathlib import Path

import numpy as np

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.plugins import MODELS, Spec
from mlvlab_jax.types import ImageSpec
from mlvlab_jax.weights.adapt import Classes
from mlvlab_jax.weights.files import WeightFile
from mlvlab_jax.weights.importing import Target
from tests.weights.formula import draw

GOLDEN = Path(__file__).parent / "golden"
_VIT = {"gelu": "exact"}
_DEIT3 = _VIT | {"position": "learned_patches", "layer_scale": 1e-4}
_SMALL = _VIT | {"hidden_size": 32, "num_heads": 2, "num_layers": 2, "patch_size": 8}
_CONVNEXT = {"depths": [1, 1, 2, 1], "widths": [8, 16, 24, 32]}

PUBLISHED = {
    "timm vit_small_patch16_224": ("vision_transformer", _VIT | {"variant": "S"}),
    "timm vit_base_patch16_224": ("vision_transformer", _VIT | {"variant": "B"}),
    "timm deit3_small_patch16_224": ("vision_transformer", _DEIT3 | {"variant": "S"}),
    "timm deit3_base_patch16_224": ("vision_transformer", _DEIT3 | {"variant": "B"}),
    "timm resnet18": ("resnet", {"depth": 18}),
    "timm resnet50": ("resnet", {"depth": 50}),
    "timm convnext_tiny": ("convnext", {"variant": "T"}),
    "timm mixer_b16_224": ("mixer", _VIT | {"variant": "B"}),
    "timm tf_efficientnetv2_b0": ("efficientnet_v2", {"variant": "B0"}),
    "timm tf_efficientnetv2_s": ("efficientnet_v2", {"variant": "S"}),
    "timm resnet50d": ("resnet", {"depth": 50, "stem": "deep"}),
    "timm resnet50_gn": ("resnet", {"depth": 50, "norm": "group"}),
    "transformers vit_base": ("vision_transformer", _VIT | {"variant": "B"}),
    "transformers deit_base": ("vision_transformer", _VIT | {"variant": "B", "registers": 1}),
    "transformers resnet50": ("resnet", {"depth": 50}),
    "transformers convnext_tiny": ("convnext", {"variant": "T"}),
    "augreg vit_base": ("vision_transformer", {"variant": "B"}),
    "big_vision vit_base": ("vision_transformer", {"variant": "B"}),
}
SMALL = {
    "timm vit": ("vision_transformer", _SMALL),
    "timm vit_deit3": (
        "vision_transformer",
        _SMALL | {"position": "learned_patches", "layer_scale": 1e-4, "registers": 2, "qk_norm": True},
    ),
    "timm vit_gap": ("vision_transformer", _SMALL | {"pool": "gap", "final_norm": "pooled"}),
    "timm vit_map": ("vision_transformer", _SMALL | {"pool": "map"}),
    "timm resnet18": ("resnet", {"depth": 18}),
    "timm convnext": ("convnext", _CONVNEXT),
    "timm resnet18d": ("resnet", {"depth": 18, "stem": "deep"}),
    "timm efficientnet": ("efficientnet_v2", {"variant": "B0"}),
    "timm mixer": ("mixer", _VIT | {"hidden_size": 32, "num_layers": 2, "patch_size": 8}),
    "transformers vit": ("vision_transformer", _SMALL),
    "transformers deit": ("vision_transformer", _SMALL | {"registers": 1}),
    "transformers resnet": ("resnet", {"depth": 50, "width": 8}),
    "transformers convnext": ("convnext", _CONVNEXT),
    "augreg vit": ("vision_transformer", _SMALL),
    "big_vision vit": ("vision_transformer", _SMALL),
    "big_vision vit_map": ("vision_transformer", _SMALL | {"pool": "map"}),
}
SMALL_IMAGE, SMALL_CLASSES = ImageSpec(32, 32, 3), Classes(5)


def make_target(model: str, params: dict, *, image: ImageSpec, classes: Classes) -> Target:
    return Target(Spec(model, params_from(MODELS.entry(model).params, params)), image, classes)


def small_target(name: str, **params) -> Target:
    model, own = SMALL[name]
    return make_target(model, own | params, image=SMALL_IMAGE, classes=SMALL_CLASSES)


@functools.cache
def read_golden(name: str) -> dict:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def draw_file(shapes: dict, **changes) -> WeightFile:
    """The arrays of these names and shapes, by the formula; counters are zero."""
    arrays = {name: draw(name, tuple(shape)) if shape else np.zeros((), np.int64) for name, shape in shapes.items()}
    return WeightFile("peer.safetensors", Path("peer.safetensors"), "safetensors", "0" * 64, arrays | changes)
