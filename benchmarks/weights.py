"""Our parameters under the names and in the layout of timm, so that both sides train the same network. Needs numpy.

The mapping is a permutation of numbers, so it serves gradients as well.
"""

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Named = dict[str, np.ndarray]


def name_for_timm(network: str, params: Mapping[str, Any], *, num_heads: int, patch_size: int) -> Named:
    """Parameters (or gradients) of ours as timm's state dict.

    Args:
        network: "vision_transformer", "resnet" or "convnext".
        params: Nested dict of arrays.
        num_heads: Of the transformer.
        patch_size: Of the transformer or the first layer of ConvNeXt, in pixels.
    """
    if network == "vision_transformer":
        return dict(_name_vit(params, num_heads, patch_size))
    return dict(_name_convnext(params, patch_size) if network == "convnext" else _name_resnet(params))


def perturb(name: str, value: np.ndarray) -> np.ndarray:
    """The value plus noise of 0.02: a last layer or scale that starts at zero would hide every gradient before it."""
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    return value + 0.02 * draw.standard_normal(value.shape, np.float32)


def measure_difference(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Norm of the difference over the norm: of all tensors together, and of the tensor where it is largest.

    A tensor whose norm is below a thousandth of the whole is measured against that.
    """
    if set(ours) != set(theirs):
        raise ValueError(f"other tensors: {sorted(set(ours) ^ set(theirs))[:4]}")
    apart = {name: float(np.linalg.norm(ours[name].ravel() - theirs[name].ravel())) for name in ours}
    norms = {name: float(np.linalg.norm(values.ravel())) for name, values in theirs.items()}
    whole = float(np.linalg.norm(list(norms.values())))
    worst = max(apart[name] / max(norms[name], 1e-3 * whole) for name in apart)
    return {"all": float(np.linalg.norm(list(apart.values()))) / whole, "worst": worst}


def _name_vit(params: Mapping[str, Any], num_heads: int, patch_size: int) -> Iterator[tuple[str, np.ndarray]]:
    for name in params:
        if name.startswith("block"):
            yield from _name_block(f"blocks.{name.removeprefix('block')}", params[name], num_heads)
    yield from _name_patches("patch_embed.proj", params["patch_embed"], patch_size)
    yield "pos_embed", np.asarray(params["pos_embed"])
    yield "cls_token", np.asarray(params["cls"])
    yield from _name_norm("norm", params["norm"])
    yield from _name_dense("head", params["head"])


def _name_block(name: str, block: Mapping[str, Any], num_heads: int) -> Iterator[tuple[str, np.ndarray]]:
    yield from _name_norm(f"{name}.norm1", block["attention_norm"])
    # Ours keeps query, key and value of a head together, timm all queries, then all keys, then all values.
    qkv = block["attention"]["qkv"]
    kernel, bias = np.asarray(qkv["kernel"]), np.asarray(qkv["bias"])
    width = kernel.shape[0]
    by_head = kernel.reshape(width, num_heads, 3, -1).transpose(2, 1, 3, 0)
    yield f"{name}.attn.qkv.weight", by_head.reshape(3 * width, width)
    yield f"{name}.attn.qkv.bias", bias.reshape(num_heads, 3, -1).swapaxes(0, 1).reshape(-1)
    yield from _name_dense(f"{name}.attn.proj", block["attention"]["out"])
    yield from _name_norm(f"{name}.norm2", block["mlp_norm"])
    yield from _name_dense(f"{name}.mlp.fc1", block["mlp_in"])
    yield from _name_dense(f"{name}.mlp.fc2", block["mlp_out"])


def _name_resnet(params: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    yield "conv1.weight", _turn_kernel(params["Conv_0"])
    yield from _name_norm("bn1", params["BatchNorm_0"])
    yield from _name_dense("fc", params["head"])
    for name in params:
        if not name.startswith("stage"):
            continue
        stage, index = name.removeprefix("stage").split("_")
        block, place = params[name], f"layer{int(stage) + 1}.{index}"
        for k in range(sum(part.startswith("Conv_") for part in block)):
            yield f"{place}.conv{k + 1}.weight", _turn_kernel(block[f"Conv_{k}"])
            yield from _name_norm(f"{place}.bn{k + 1}", block[f"BatchNorm_{k}"])
        if "shortcut" in block:
            yield f"{place}.downsample.0.weight", _turn_kernel(block["shortcut"])
            yield from _name_norm(f"{place}.downsample.1", block["shortcut_norm"])


def _name_convnext(params: Mapping[str, Any], patch_size: int) -> Iterator[tuple[str, np.ndarray]]:
    yield from _name_patches("stem.0", params["stage0_reduce"], patch_size)
    yield from _name_norm("stem.1", params["stem_norm"])
    yield from _name_norm("head.norm", params["norm"])
    yield from _name_dense("head.fc", params["head"])
    for name, part in params.items():
        stage, _, which = name.removeprefix("stage").partition("_")
        if which == "norm" and stage.isdecimal():
            yield from _name_norm(f"stages.{stage}.downsample.0", part)
        elif which == "reduce" and stage != "0":
            yield from _name_patches(f"stages.{stage}.downsample.1", part, 2)
        elif which.isdecimal():
            place = f"stages.{stage}.blocks.{which}"
            yield f"{place}.conv_dw.weight", _turn_kernel(part["depthwise"])
            yield f"{place}.conv_dw.bias", np.asarray(part["depthwise"]["bias"])
            yield from _name_norm(f"{place}.norm", part["norm"])
            yield from _name_dense(f"{place}.mlp.fc1", part["mlp_in"])
            yield from _name_dense(f"{place}.mlp.fc2", part["mlp_out"])
            yield f"{place}.gamma", np.asarray(part["layer_scale"])


def _name_patches(name: str, dense: Mapping[str, Any], size: int) -> Iterator[tuple[str, np.ndarray]]:
    """A matrix on squares of pixels as a convolution of that stride."""
    kernel = np.asarray(dense["kernel"])
    yield f"{name}.weight", kernel.reshape(size, size, -1, kernel.shape[-1]).transpose(3, 2, 0, 1)
    yield f"{name}.bias", np.asarray(dense["bias"])


def _turn_kernel(conv: Mapping[str, Any]) -> np.ndarray:
    return np.asarray(conv["kernel"]).transpose(3, 2, 0, 1)


def _name_norm(name: str, norm: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{name}.weight", np.asarray(norm["scale"])
    yield f"{name}.bias", np.asarray(norm["bias"])


def _name_dense(name: str, dense: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{name}.weight", np.asarray(dense["kernel"]).T
    yield f"{name}.bias", np.asarray(dense["bias"])
