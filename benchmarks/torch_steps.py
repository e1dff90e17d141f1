"""The peer of step_time.py and gpu_suite.py: the same networks from timm in PyTorch, and the seconds of their steps.

Fused AdamW, channels_last, automatic mixed precision where bfloat16 is asked for, on a GPU TF32 for what stays float32,
cuDNN's benchmark mode and the fastest attention kernel for the shape; "torch_compile" has network and loss compiled.
Needs PyTorch, timm and numpy.
"""

import contextlib
import copy
import dataclasses
import functools
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import timm
import torch
from cases import LEARNING_RATE, WEIGHT_DECAY, Case
from timm.models.convnext import ConvNeXt
from timm.models.mlp_mixer import MlpMixer
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional
from worker import answer_requests

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
#: hidden_size, num_heads, num_layers of our variants.
SIZES = {"Ti": (192, 3, 12), "S": (384, 6, 12), "B": (768, 12, 12), "L": (1024, 16, 24)}
BLOCKS = {18: (BasicBlock, [2, 2, 2, 2]), 34: (BasicBlock, [3, 4, 6, 3]), 50: (Bottleneck, [3, 4, 6, 3])}
#: Only what is kept from the start: a compiled step runs with the attention that was set when it was made.
BACKENDS = {
    "flash": torch.backends.cuda.enable_flash_sdp,
    "cudnn": torch.backends.cuda.enable_cudnn_sdp,
    "efficient": torch.backends.cuda.enable_mem_efficient_sdp,
}


@dataclasses.dataclass
class Side:
    """A case's network and batch; `steps` by kind."""

    case: Case
    network: torch.nn.Module
    image: torch.Tensor
    label: torch.Tensor
    steps: dict[str, Callable[[], torch.Tensor]] = dataclasses.field(default_factory=dict)


def make_network(case: Case) -> torch.nn.Module:
    params, (height, width, channels) = case.params, case.image
    if case.network == "resnet":
        block, layers = BLOCKS[params["depth"]]
        network = ResNet(block, layers, num_classes=case.num_classes, in_chans=channels)
        if params.get("stem") == "small":
            network.conv1 = torch.nn.Conv2d(channels, 64, 3, padding=1, bias=False)
            network.maxpool = torch.nn.Identity()
        return network
    if case.network == "convnext":
        sizes = {"in_chans": channels, "num_classes": case.num_classes, "patch_size": params["patch_size"]}
        return ConvNeXt(depths=params["depths"], dims=params["widths"], **sizes)
    if case.network == "efficientnet_v2":
        name = f"tf_efficientnetv2_{params['variant'].lower()}"
        return timm.create_model(name, num_classes=case.num_classes, in_chans=channels)
    if case.network == "mixer":
        return MlpMixer(
            case.num_classes,
            (height, width),
            in_chans=channels,
            patch_size=params["patch_size"],
            num_blocks=params["num_layers"],
            embed_dim=params["hidden_size"],
            act_layer=functools.partial(torch.nn.GELU, approximate="tanh"),
        )
    hidden, heads, layers = SIZES[params.get("variant", "B")]
    hidden = params.get("hidden_size", hidden)
    return VisionTransformer(
        img_size=(height, width),
        patch_size=params["patch_size"],
        in_chans=channels,
        num_classes=case.num_classes,
        embed_dim=hidden,
        depth=params.get("num_layers", layers),
        num_heads=params.get("num_heads", heads),
        mlp_ratio=params.get("mlp_dim", 4 * hidden) / hidden,
        act_layer="gelu_tanh",
    )


def make_step(side: Side, *, compiled: bool) -> Callable[[], torch.Tensor]:
    """A step over a copy of the network, with an optimiser of its own; gives the loss before the update."""
    network = copy.deepcopy(side.network)
    spared = [p for name, p in network.named_parameters() if p.ndim <= 1 or name in ("pos_embed", "cls_token")]
    kept = {id(p) for p in spared}
    decayed = [p for p in network.parameters() if id(p) not in kept]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, eps=1e-8, fused=True)

    def forward(image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return loss_of(network, image, label)

    called = torch.compile(forward) if compiled else forward

    def step() -> torch.Tensor:
        with mixed_precision(side.case):
            loss = called(side.image, side.label)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def loss_of(network: torch.nn.Module, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(network(image).float(), label)


def mixed_precision(case: Case) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(DEVICE, torch.bfloat16, enabled=case.precision == "bfloat16")


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def pick_attention(case: Case) -> str | None:
    """On a GPU, allows only the attention kernel that is fastest forwards and backwards for the case's shape."""
    if DEVICE != "cuda" or case.network != "vision_transformer":
        return None
    hidden, heads, _ = SIZES[case.params.get("variant", "B")]
    tokens = 1 + case.image[0] * case.image[1] // case.params["patch_size"] ** 2
    shape = (case.batch_size, heads, tokens, hidden // heads)
    torch.backends.cuda.enable_math_sdp(False)
    seconds = dict(time_attention(shape))
    fastest = min(seconds, key=lambda name: seconds[name])
    for name, enable in BACKENDS.items():
        enable(name == fastest)
    return fastest


def time_attention(shape: tuple[int, ...]) -> Iterator[tuple[str, float]]:
    """Seconds of ten calls, by kernel, of those that take the shape."""
    for name in BACKENDS:
        for other, enable in BACKENDS.items():
            enable(other == name)
        inputs = [torch.randn(shape, device=DEVICE, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
        with contextlib.suppress(RuntimeError):
            for attempt in range(2):
                synchronize()
                started = time.perf_counter()
                for _ in range(10):
                    functional.scaled_dot_product_attention(*inputs).sum().backward()
                synchronize()
                if attempt:
                    yield name, time.perf_counter() - started


#: The one case at work; asked for by name, since requests are JSON.
_made: list[Side] = []


def describe() -> dict[str, object]:
    """Device and versions."""
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    return {"platform": DEVICE, "device": name, "versions": {"torch": torch.__version__, "timm": timm.__version__}}


def make(case: dict[str, Any], weights: str) -> dict[str, object]:
    """Prepares a case from the weights and the batch in an npz."""
    forget()
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high" if DEVICE == "cuda" else "highest")
    made = Case.from_tree(case)
    network = make_network(made)
    with np.load(weights) as file:
        named = {name: torch.from_numpy(file[name]) for name in file.files}
    image, label = named.pop("image"), named.pop("label")
    missing = network.load_state_dict(named, strict=False)
    unset = [name for name in missing.missing_keys if "running" not in name and "num_batches" not in name]
    if unset or missing.unexpected_keys:
        raise ValueError(f"other weights: without {unset[:4]}, too many {missing.unexpected_keys[:4]}")
    network = network.to(DEVICE, memory_format=torch.channels_last).train()
    image = image.permute(0, 3, 1, 2).to(DEVICE, memory_format=torch.channels_last)
    _made.append(Side(made, network, image, label.long().to(DEVICE)))
    return {"attention": pick_attention(made)}


def check(gradients: str | None) -> dict[str, float]:
    """Loss and norm of the gradient at the first weights; the gradient is written as npz where a path is given."""
    side = _made[0]
    network = copy.deepcopy(side.network)  # batch statistics must not move
    with mixed_precision(side.case):
        loss = loss_of(network, side.image, side.label)
    loss.backward()
    grads = {name: p.grad.float().contiguous().cpu().numpy() for name, p in network.named_parameters()}
    if gradients:
        np.savez(gradients, **grads)
    norm = float(np.sqrt(sum(float(np.square(g, dtype=np.float64).sum()) for g in grads.values())))
    return {"loss": float(loss.detach()), "grad_norm": norm}


def prepare(label: str, kind: str) -> dict[str, object]:
    """Makes a step and takes two; seconds of the first, which compiles, and the loss before each update.

    Args:
        label: What `run` will call it.
        kind: torch_eager or torch_compile.
    """
    step = make_step(_made[0], compiled=kind == "torch_compile")
    started = time.perf_counter()
    told = [{"loss": float(step())}]
    seconds = time.perf_counter() - started
    told.append({"loss": float(step())})
    _made[0].steps[label] = step
    return {"compile_s": seconds, "updates": told}


def run(label: str, num_steps: int) -> float:
    """Seconds of so many steps, the device's work included."""
    step = _made[0].steps[label]
    synchronize()
    started = time.perf_counter()
    for _ in range(num_steps):
        step()
    synchronize()
    return time.perf_counter() - started


def forget() -> None:
    """Lets go of the case and its arrays."""
    _made.clear()
    torch._dynamo.reset()
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    answer_requests({handler.__name__: handler for handler in (describe, make, check, prepare, run, forget)})
