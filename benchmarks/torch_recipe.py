"""The peer of time_to_accuracy.py: configs/fashion_mnist_cnn.yaml in PyTorch, from arrays to the test accuracy.

torch_recipe.py ARRAYS RECIPE [--compile]: ARRAYS is an npz of x_train, y_train, x_test and y_test, RECIPE a JSON file
of `time_to_accuracy.Recipe`. Prints one JSON object. Needs PyTorch and numpy.

channels_last, torch.optim.Muon and fused AdamW; all images are in memory, a batch is cut and mirrored at once.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Conv(nn.Module):
    """3 x 3 without a bias, its weights held as the matrix that Muon takes."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.shape = (width, 3, 3, inputs)
        self.matrix = nn.Parameter(torch.randn(width, 9 * inputs) / math.sqrt(9 * inputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, inputs, h, w) to (n, width, h, w)."""
        return functional.conv2d(x, self.matrix.view(self.shape).permute(0, 3, 1, 2), padding=1)


class Network(nn.Module):
    """Our `cnn` with batch normalisation: stages of convolutions, each with its first activation added to its last."""

    def __init__(self, recipe: Mapping[str, Any], num_classes: int) -> None:
        super().__init__()
        self.patch_size, inputs = recipe["patch_size"], recipe["patch_size"] ** 2
        self.stages = nn.ModuleList()
        for width in recipe["widths"]:
            sizes = [inputs] + [width] * recipe["convs_per_stage"]
            blocks = [
                nn.Sequential(Conv(a, b), nn.BatchNorm2d(b), nn.GELU("tanh")) for a, b in itertools.pairwise(sizes)
            ]
            self.stages.append(nn.ModuleList(blocks))
            inputs = width
        self.head = nn.Linear(inputs, num_classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (n, k) of normalised images (n, 1, h, w)."""
        x = functional.pixel_unshuffle(image, self.patch_size).contiguous(memory_format=torch.channels_last)
        for number, stage in enumerate(self.stages):
            x = functional.max_pool2d(x, 2) if number else x
            x = first = stage[0](x)
            for block in stage[1:]:
                x = block(x)
            x = x + first
        return self.head(x.mean((2, 3)))


def make_optimizers(network: Network, recipe: Mapping[str, Any], num_steps: int) -> list[Any]:
    """Muon for convolutions and AdamW for the rest, and their schedules."""
    matrices = [p for name, p in network.named_parameters() if name.endswith("matrix")]
    rest = {name: p for name, p in network.named_parameters() if not name.endswith("matrix")}
    kernels = [p for p in rest.values() if p.ndim > 1]
    others = [p for p in rest.values() if p.ndim <= 1]
    decay, rate = recipe["weight_decay"], recipe["learning_rate"]
    groups = [{"params": kernels, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    optimizers = [
        torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=rate, fused=True),
    ]
    warmup = round(recipe["warmup_share"] * num_steps)

    def factor(step: int) -> float:
        return min(step / max(1, warmup), (num_steps - step) / (num_steps - warmup))

    return [*optimizers, *(torch.optim.lr_scheduler.LambdaLR(o, factor) for o in optimizers)]


def draw_batches(num_images: int, batch_size: int, num_steps: int, draw: torch.Generator) -> Iterator[torch.Tensor]:
    """Indices of batches, each epoch in a new order; a batch may reach into the next epoch."""
    left = torch.empty(0, dtype=torch.long)
    for _ in range(num_steps):
        if len(left) < batch_size:
            left = torch.cat([left, torch.randperm(num_images, generator=draw)])
        yield left[:batch_size]
        left = left[batch_size:]


def augment(images: torch.Tensor, padding: int, draw: torch.Generator) -> torch.Tensor:
    """Random crops of padded uint8 images (n, h, w), half of them mirrored."""
    count, height, width = images.shape
    padded = functional.pad(images, (padding,) * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=draw)
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    mirrored = torch.rand((count, 1), generator=draw) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def normalise(images: torch.Tensor, recipe: Mapping[str, Any]) -> torch.Tensor:
    """uint8 (n, h, w) to float32 (n, 1, h, w)."""
    return ((images.float() / 255 - recipe["mean"]) / recipe["std"])[:, None]


def train(arrays: Mapping[str, Any], recipe: Mapping[str, Any], *, compiled: bool) -> Network:
    """The network with the moving average of its weights."""
    torch.manual_seed(recipe["seed"])
    draw = torch.Generator().manual_seed(recipe["seed"])
    network = Network(recipe, int(arrays["y_train"].max()) + 1).to(memory_format=torch.channels_last).train()
    images, labels = torch.from_numpy(arrays["x_train"]), torch.from_numpy(arrays["y_train"]).long()
    num_steps = recipe["num_steps"]
    movers = make_optimizers(network, recipe, num_steps)

    def loss_of(image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(network(image), label, label_smoothing=recipe["label_smoothing"])

    called = torch.compile(loss_of) if compiled else loss_of
    average = [p.detach().clone() for p in network.parameters()]
    for step, ids in enumerate(draw_batches(len(images), recipe["batch_size"], num_steps, draw)):
        image = normalise(augment(images[ids], recipe["crop_padding"], draw), recipe)
        called(image, labels[ids]).backward()
        for mover in movers:
            mover.step()
        for optimizer in movers[:2]:
            optimizer.zero_grad(set_to_none=True)
        kept = min(recipe["ema_decay"], (1 + step) / (10 + step))
        torch._foreach_lerp_(average, [p.detach() for p in network.parameters()], 1 - kept)
    with torch.no_grad():
        for p, mean in zip(network.parameters(), average, strict=True):
            p.copy_(mean)
    return network


def measure(network: Network, arrays: Mapping[str, Any], recipe: Mapping[str, Any]) -> float:
    """Share of the test images that are named right."""
    network.eval()
    right, labels = 0, torch.from_numpy(arrays["y_test"]).long()
    with torch.inference_mode():
        for images, label in zip(torch.from_numpy(arrays["x_test"]).split(512), labels.split(512), strict=True):
            right += int((network(normalise(images, recipe)).argmax(1) == label).sum())
    return right / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arrays")
    parser.add_argument("recipe")
    parser.add_argument("--compile", action="store_true")
    parsed = parser.parse_args()
    recipe = json.loads(Path(parsed.recipe).read_text())
    with np.load(parsed.arrays) as file:
        arrays = {name: file[name] for name in file.files}
    started = time.perf_counter()
    network = train(arrays, recipe, compiled=parsed.compile)
    train_s = time.perf_counter() - started
    print(json.dumps({"accuracy": measure(network, arrays, recipe), "train_s": train_s, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
