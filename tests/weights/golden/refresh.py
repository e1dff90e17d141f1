"""Writes what the peers say anew. Runs where torch, timm and transformers are installed, which this project needs not:

python -m tests.weights.golden.refresh

published.json: names and shapes of every array of published models. small.json: small networks of each kind, whose
weights `formula.draw` makes of their names, and what they answer.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from safetensors import safe_open
from timm.models import convnext, mlp_mixer, vision_transformer

from tests.weights.formula import draw, draw_images

GOLDEN = Path(__file__).parent
SIDE, CLASSES = 32, 5
_SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
_HF = {"num_labels": CLASSES, "image_size": SIDE, "patch_size": 8}
_HF_VIT = _HF | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}

#: Published models of transformers: their configurations are the defaults of the library but for what is given.
PUBLISHED_TRANSFORMERS: dict[str, tuple[type, Any]] = {
    "vit_base": (transformers.ViTForImageClassification, transformers.ViTConfig(num_labels=1000)),
    "deit_base": (transformers.DeiTForImageClassification, transformers.DeiTConfig(num_labels=1000)),
    "resnet50": (transformers.ResNetForImageClassification, transformers.ResNetConfig(num_labels=1000)),
    "convnext_tiny": (transformers.ConvNextForImageClassification, transformers.ConvNextConfig(num_labels=1000)),
}
PUBLISHED_TIMM = (
    "vit_small_patch16_224",
    "vit_base_patch16_224",
    "deit3_small_patch16_224",
    "deit3_base_patch16_224",
    "resnet18",
    "resnet50",
    "convnext_tiny",
    "mixer_b16_224",
    "tf_efficientnetv2_b0",
    "tf_efficientnetv2_s",
    "resnet50d",
    "resnet50_gn",
)
_TIMM = {"img_size": SIDE, "num_classes": CLASSES}
SMALL_TIMM: dict[str, Callable[[], torch.nn.Module]] = {
    "vit": lambda: vision_transformer.VisionTransformer(**_TIMM, **_SMALL),
    "vit_deit3": lambda: vision_transformer.VisionTransformer(
        **_TIMM, **_SMALL, no_embed_class=True, init_values=1e-4, reg_tokens=2, qk_norm=True
    ),
    "vit_gap": lambda: vision_transformer.VisionTransformer(
        **_TIMM, **_SMALL, class_token=False, global_pool="avg", fc_norm=True
    ),
    "vit_map": lambda: vision_transformer.VisionTransformer(**_TIMM, **_SMALL, class_token=False, global_pool="map"),
    "resnet18": lambda: timm.create_model("resnet18", num_classes=CLASSES),
    "convnext": lambda: convnext.ConvNeXt(num_classes=CLASSES, depths=(1, 1, 2, 1), dims=(8, 16, 24, 32)),
    "resnet18d": lambda: timm.create_model("resnet18d", num_classes=CLASSES),
    "efficientnet": lambda: timm.create_model("tf_efficientnetv2_b0", num_classes=CLASSES),
    "mixer": lambda: mlp_mixer.MlpMixer(**_TIMM, patch_size=8, num_blocks=2, embed_dim=32),
}
SMALL_TRANSFORMERS: dict[str, tuple[type, Any]] = {
    "vit": (transformers.ViTForImageClassification, transformers.ViTConfig(**_HF_VIT)),
    "deit": (transformers.DeiTForImageClassification, transformers.DeiTConfig(**_HF_VIT)),
    "resnet": (
        transformers.ResNetForImageClassification,
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[32, 64, 128, 256], num_labels=CLASSES),
    ),
    "convnext": (
        transformers.ConvNextForImageClassification,
        transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], num_labels=CLASSES),
    ),
}


def fill(arrays: dict[str, Any]) -> dict[str, np.ndarray]:
    """The same names, with the values that the formula makes of them; counters stay."""
    return {
        name: draw(name, tuple(array.shape)) if len(array.shape) else np.asarray(array)
        for name, array in arrays.items()
    }


def to_torch(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """For `load_state_dict`."""
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def ask(model: torch.nn.Module, image: np.ndarray) -> torch.Tensor:
    """Logits (b k) of images (b h w c), in evaluation."""
    with torch.no_grad():
        answer = model.eval()(torch.from_numpy(image).permute(0, 3, 1, 2).contiguous())
    return answer if isinstance(answer, torch.Tensor) else answer.logits


def read_saved(kind: type, config: Any) -> tuple[dict[str, np.ndarray], Path]:
    """The arrays of a model as transformers writes them, and the folder it wrote; its names in memory are others."""
    folder = Path(tempfile.mkdtemp())
    kind(config).save_pretrained(folder)
    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, folder  # noqa: SIM118 - no mapping


def make_transformers(kind: type, config: Any) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    """The model with weights of the formula, and these by the names in its file."""
    from safetensors.numpy import save_file

    arrays, folder = read_saved(kind, config)
    arrays = fill(arrays)
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    return kind.from_pretrained(folder), arrays


def make_timm(make: Callable[[], torch.nn.Module]) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    """The same of timm."""
    model = make()
    arrays = fill({name: tensor.numpy() for name, tensor in model.state_dict().items()})
    model.load_state_dict(to_torch(arrays), strict=True)
    return model, arrays


def name_augreg(model: torch.nn.Module, *, big_vision: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes that a vision transformer of timm has in the .npz files of AugReg and big_vision."""
    width, heads = model.embed_dim, model.blocks[0].attn.num_heads
    side, hidden = model.patch_embed.patch_size[0], model.blocks[0].mlp.fc1.out_features
    attention, mlp, norm = (0, 0, 1) if big_vision else (1, 3, 2)
    shapes = {
        "embedding/kernel": (side, side, 3, width),
        "embedding/bias": (width,),
        "pos_embedding" if big_vision else "Transformer/posembed_input/pos_embedding": tuple(model.pos_embed.shape),
        "Transformer/encoder_norm/scale": (width,),
        "Transformer/encoder_norm/bias": (width,),
        "head/kernel": (width, model.num_classes),
        "head/bias": (model.num_classes,),
    }
    if model.cls_token is not None:
        shapes["cls"] = (1, 1, width)
    if model.attn_pool is not None:
        shapes |= _name_pool(width, heads, hidden)
    for i in range(len(model.blocks)):
        block = f"Transformer/encoderblock_{i}"
        for part in ("query", "key", "value"):
            inner = f"{block}/MultiHeadDotProductAttention_{attention}/{part}"
            shapes |= {f"{inner}/kernel": (width, heads, width // heads), f"{inner}/bias": (heads, width // heads)}
        out = f"{block}/MultiHeadDotProductAttention_{attention}/out"
        shapes |= {f"{out}/kernel": (heads, width // heads, width), f"{out}/bias": (width,)}
        for which in (0, norm):
            shapes |= {f"{block}/LayerNorm_{which}/{name}": (width,) for name in ("scale", "bias")}
        for which, (rows, columns) in enumerate(((width, hidden), (hidden, width))):
            dense = f"{block}/MlpBlock_{mlp}/Dense_{which}"
            shapes |= {f"{dense}/kernel": (rows, columns), f"{dense}/bias": (columns,)}
    return shapes


def _name_pool(width: int, heads: int, hidden: int) -> dict[str, tuple[int, ...]]:
    inner, mlp = "MAPHead_0/MultiHeadDotProductAttention_0", "MAPHead_0/MlpBlock_0"
    shapes: dict[str, tuple[int, ...]] = {"MAPHead_0/probe": (1, 1, width)}
    for part in ("query", "key", "value"):
        kernel, bias = (width, heads, width // heads), (heads, width // heads)
        shapes |= {f"{inner}/{part}/kernel": kernel, f"{inner}/{part}/bias": bias}
    shapes |= {f"{inner}/out/kernel": (heads, width // heads, width), f"{inner}/out/bias": (width,)}
    shapes |= {f"MAPHead_0/LayerNorm_0/{name}": (width,) for name in ("scale", "bias")}
    for which, (rows, columns) in enumerate(((width, hidden), (hidden, width))):
        shapes |= {f"{mlp}/Dense_{which}/kernel": (rows, columns), f"{mlp}/Dense_{which}/bias": (columns,)}
    return shapes


def make_augreg(make: Callable[[], torch.nn.Module], *, big_vision: bool) -> tuple[Any, dict[str, np.ndarray]]:
    """A model of timm that has read an .npz in that layout, and the arrays."""
    model = make()
    arrays = {name: draw(name, shape) for name, shape in name_augreg(model, big_vision=big_vision).items()}
    path = Path(tempfile.mkdtemp()) / "weights.npz"
    np.savez(path, **arrays)
    model.load_pretrained(str(path))
    return model, arrays


def _list_shapes(arrays: dict[str, Any]) -> dict[str, list[int]]:
    return {name: list(array.shape) for name, array in arrays.items()}


def _describe(model: torch.nn.Module, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    logits = ask(model, draw_images(2, SIDE))
    return {"arrays": _list_shapes(arrays), "logits": [[float(value) for value in row] for row in logits]}


def _make_positions() -> dict[str, Any]:
    """How timm lays position embeddings and patches on another grid."""
    from timm.layers import resample_abs_pos_embed, resample_patch_embed

    table, patches = draw("positions", (1, 17, 3)), draw("patches", (2, 3, 4, 4))
    moved = {
        str(side): resample_abs_pos_embed(torch.from_numpy(table), new_size=[side, side]).tolist() for side in (3, 6)
    }
    resized = {str(side): resample_patch_embed(torch.from_numpy(patches), [side, side]).tolist() for side in (3, 6)}
    return {"positions": moved, "patches": resized}


def main() -> None:
    """Writes both files."""
    published: dict[str, Any] = {}
    for name in PUBLISHED_TIMM:
        with torch.device("meta"):
            published[f"timm {name}"] = _list_shapes(timm.create_model(name).state_dict())
    for name, (kind, config) in PUBLISHED_TRANSFORMERS.items():
        published[f"transformers {name}"] = _list_shapes(read_saved(kind, config)[0])
    vit = timm.create_model("vit_base_patch16_224")
    for big_vision, name in ((False, "augreg"), (True, "big_vision")):
        published[f"{name} vit_base"] = name_augreg(vit, big_vision=big_vision)
    small = {f"timm {name}": _describe(*make_timm(make)) for name, make in SMALL_TIMM.items()}
    for name, (kind, config) in SMALL_TRANSFORMERS.items():
        small[f"transformers {name}"] = _describe(*make_transformers(kind, config))
    for big_vision, name in ((False, "augreg"), (True, "big_vision")):
        small[f"{name} vit"] = _describe(*make_augreg(SMALL_TIMM["vit"], big_vision=big_vision))
    small["big_vision vit_map"] = _describe(*make_augreg(SMALL_TIMM["vit_map"], big_vision=True))
    versions = {each.__name__: each.__version__ for each in (torch, timm, transformers)}
    for path, tree in (("published", published), ("small", small), ("resized", _make_positions())):
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in tree.items())
        (GOLDEN / f"{path}.json").write_text(f'{{"versions": {json.dumps(versions)},\n{lines}}}\n')


if __name__ == "__main__":
    main()
