"""What data_loading.py runs in an interpreter with PyTorch, scikit-image and scikit-learn.

photos DIR COUNT: writes crops of photographs as JPEG files of 500 x 375 in two class folders.
measure DIR NUM_IMAGES: prints the images a second of a DataLoader as in PyTorch's ImageNet example.
"""

import math
import random
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

BATCH_SIZE, NUM_WORKERS, SIZE = 64, 2, 224
WARM_UP_BATCHES = 8


def write_photos(folder: Path, count: int) -> None:
    import skimage.data
    import sklearn.datasets

    photos = [*sklearn.datasets.load_sample_images().images]
    photos += [getattr(skimage.data, name)() for name in ("astronaut", "coffee", "rocket")]
    draw = random.Random(0)
    for k in range(count):
        photo = Image.fromarray(photos[k % len(photos)])
        left, top = draw.randint(0, photo.width - 500), draw.randint(0, photo.height - 375)
        crop = photo.crop((left, top, left + 500, top + 375))
        path = folder / "ab"[k % 2] / f"{k:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        crop.save(path, quality=90)


def random_resized_crop(image: Image.Image) -> Image.Image:
    """The RandomResizedCrop of torchvision on a PIL image, without torchvision.

    References:
        C. Szegedy et al., "Going Deeper with Convolutions", 2015 (the crop).
    """
    area = image.width * image.height
    for _ in range(10):
        wanted = area * random.uniform(0.08, 1.0)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        width, height = round(math.sqrt(wanted * aspect)), round(math.sqrt(wanted / aspect))
        if 0 < width <= image.width and 0 < height <= image.height:
            left, top = random.randint(0, image.width - width), random.randint(0, image.height - height)
            break
    else:
        width = height = min(image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
    image = image.crop((left, top, left + width, top + height))
    return image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)


class Photos:
    """`length` images, the files over and over."""

    def __init__(self, folder: Path, length: int) -> None:
        self.paths = sorted(folder.glob("*/*.jpg"))
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        path = self.paths[index % len(self.paths)]
        with path.open("rb") as file:
            image = Image.open(file).convert("RGB")
        return np.array(random_resized_crop(image)), int(path.parent.name == "b")


def measure(folder: Path, num_images: int) -> float:
    import torch

    num_batches = num_images // BATCH_SIZE
    photos = Photos(folder, (num_batches + WARM_UP_BATCHES) * BATCH_SIZE)
    loader = torch.utils.data.DataLoader(photos, BATCH_SIZE, shuffle=True, num_workers=NUM_WORKERS)
    for number, (image, _) in enumerate(loader):
        assert image.shape == (BATCH_SIZE, SIZE, SIZE, 3)
        if number + 1 == WARM_UP_BATCHES:
            started = time.perf_counter()
    return num_batches * BATCH_SIZE / (time.perf_counter() - started)


if __name__ == "__main__":
    if sys.argv[1] == "photos":
        write_photos(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        print(measure(Path(sys.argv[2]), int(sys.argv[3])))
