"""Goals M1 and M2: how often windows of Fashion-MNIST test images raise the alarm, as they are and changed.

Set TFDS_DATA_DIR to where TFDS prepared fashion_mnist; without, there are only the digits. Small networks are trained
for two epochs and packaged, each with its reference of held-out training images; the test images go through the
packages as through the server, from the bytes of a file on. A window is 500 of them drawn at random; the alarm needs
two in a row. False alarms are windows with the alarm on, in a long row. A trial of a shift is two windows, and finds it
if the alarm is on after the second.

`tinted`: grey becomes a warm colour of each image's own, green 60 to 90 % and blue 20 to 60 % of red; `channel_swap`
exchanges red and blue. `prior`: one class has half of the window in place of a tenth. `new_class_*`: one image in five
is of a class that the network was never shown. `digits`: the handwritten digits of the package, split anew: a reference
of 180 against 897 others.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageFilter

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.monitoring import DriftConfig
from mlvlab_jax.config.schema import PipelineConfig
from mlvlab_jax.data.open import open_data
from mlvlab_jax.evaluation.intervals import compute_wilson
from mlvlab_jax.monitoring.detector import Detector, Verdict
from mlvlab_jax.monitoring.window import Window
from mlvlab_jax.package.load import Package, calibrate, load_package
from mlvlab_jax.package.reference import measure_values
from mlvlab_jax.plugins import SOURCES, Spec

NUM_WINDOWS, NUM_FEWER_WINDOWS, NUM_TRIALS, WINDOW, CHUNK = 1000, 200, 100, 500, 500
CONFIG = Path(__file__).parent.parent / "configs" / "fashion_mnist_cnn.yaml"
#: Classes left out of training: one like no other, and one that even people take for three others.
NEW_CLASSES = {"bag": 8, "shirt": 6}

Arrays = Mapping[str, np.ndarray]


def read_arrays(name: str, **params: object) -> dict[str, np.ndarray]:
    """x_train, y_train, x_test, y_test; the splits as the source gives them, validation after train."""
    spec = Spec(name, params_from(SOURCES.entry(name).params, params))
    pipeline = params_from(PipelineConfig, {"validation_fraction": 0.0})
    fetched = {key: s.source.fetch(s.ids)[:2] for key, s in open_data(spec, pipeline, seed=0).splits.items()}
    return {f"{axis}_{key}": array for key, pair in fetched.items() for axis, array in zip("xy", pair, strict=True)}


def split_digits() -> dict[str, np.ndarray]:
    arrays = read_arrays("digits")
    x, y = (np.concatenate([arrays[f"{axis}_{s}"] for s in ("train", "validation", "test")]) for axis in "xy")
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:900], order[900:]
    return {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}


def tint(images: np.ndarray) -> np.ndarray:
    """Grey (n h w 1) in a warm colour of each image's own, (n h w 3)."""
    rng = np.random.default_rng(0)
    shape = (len(images), 1, 1)
    colour = np.stack([np.ones(shape), rng.uniform(0.6, 0.9, shape), rng.uniform(0.2, 0.6, shape)], axis=-1)
    return (images * colour).round().astype(np.uint8)


def leave_out(arrays: Arrays, label: int) -> dict[str, np.ndarray]:
    """Without one class; the labels above it move down."""
    kept = {split: arrays[f"y_{split}"] != label for split in ("train", "test")}
    left = {key: array[kept[key[2:]]] for key, array in arrays.items()}
    return {key: array - (array > label) if key[0] == "y" else array for key, array in left.items()}


def make_package(folder: Path, arrays: Arrays, **sections: object) -> Package:
    """Trains and packages by the commands, where that was not done before."""
    if (folder / "package").exists():
        return load_package(folder / "package")
    folder.mkdir(parents=True)
    np.savez(folder / "data.npz", **arrays)
    data = {"name": "arrays", "params": {"path": str(folder / "data.npz")}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": data, **sections}))
    commands = (["train", "--config", str(folder / "config.yaml")], ["package_model", "--out", str(folder / "package")])
    for command in commands:
        line = [sys.executable, "-m", f"mlvlab_jax.{command[0]}", *command[1:], "--workdir", str(folder / "run")]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    return load_package(folder / "package")


def make_fashion(folder: Path, arrays: Arrays) -> Package:
    channels = arrays["x_train"].shape[-1]
    return make_package(
        folder,
        arrays,
        extends=str(CONFIG),
        model={"name": "cnn", "params": {"widths": [16, 64], "convs_per_stage": 2, "patch_size": 2, "norm": "batch"}},
        pipeline={"mean": [0.286] * channels, "std": [0.353] * channels},
        training={"num_epochs": 2},
    )


def encode(image: np.ndarray, **options: object) -> bytes:
    """The bytes of a PNG file, or as the options say."""
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


def blur(image: np.ndarray) -> bytes:
    return encode(np.asarray(Image.fromarray(image.squeeze()).filter(ImageFilter.GaussianBlur(2))))


#: From a stored image to the bytes of the file that is sent in its place.
SHIFTS: dict[str, Callable[[np.ndarray], bytes]] = {
    "brightness_x0.7": lambda image: encode((image * 0.7).round().astype(np.uint8)),
    "blur_2px": blur,
    "jpeg_q10": lambda image: encode(image, format="JPEG", quality=10),
    "rotation_90": lambda image: encode(np.rot90(image)),
}


def describe(package: Package, images: np.ndarray, change: Callable[[np.ndarray], bytes] = encode) -> Window:
    """All images as one window, from the bytes of their files on."""
    read = [package.inspect_bytes(change(image)) for image in images]
    pixels, sizes_px = np.stack([p for _, p in read]), np.array([(h.height, h.width) for h, _ in read])
    starts = range(0, len(pixels), CHUNK)
    outputs = [package.predict(pixels[start : start + CHUNK]) for start in starts]
    logits, embedding = (np.concatenate(part) for part in zip(*outputs, strict=True))
    probabilities = calibrate(logits, temperature=package.temperature)
    values = measure_values(pixels, sizes_px=sizes_px, probabilities=probabilities)
    return Window(values, logits.argmax(1).astype(np.int32), package.reference.project(embedding))


def take(window: Window, rows: np.ndarray) -> Window:
    values = {name: value[rows] for name, value in window.values.items()}
    return Window(values, window.prediction[rows], window.embedding[rows])


def draw(groups: Mapping[int, np.ndarray], shares: Mapping[int, float], rng: np.random.Generator) -> np.ndarray:
    """Rows of one window, each from a group that is drawn by the shares."""
    numbers = rng.multinomial(WINDOW, list(shares.values()))
    return np.concatenate([rng.choice(groups[g], k, replace=False) for g, k in zip(shares, numbers, strict=True)])


def measure_null(package: Package, everything: Window, *, num_windows: int) -> dict[str, object]:
    """Windows without drift in a row: with the alarm on, rejected, and by which tests."""
    detector, rows = Detector(package.reference, DriftConfig()), draw_any(len(everything.prediction))
    verdicts = [detector.push(take(everything, next(rows))) for _ in range(num_windows)]
    num_on = sum(verdict.alarm for verdict in verdicts)
    low, high = compute_wilson(num_on, num_windows)
    return {
        "windows": num_windows,
        "reference": len(package.reference),
        "with_alarm": num_on,
        "interval": [float(low), float(high)],
        "rejected": sum(verdict.rejected for verdict in verdicts),
        "rejected_by": count_tests(verdicts),
    }


def measure_shift(package: Package, rows: Iterator[np.ndarray], window: Window) -> dict[str, object]:
    """Trials of two windows each: with the alarm on after the second, and windows rejected by each test."""
    verdicts, num_found = [], 0
    for _ in range(NUM_TRIALS):
        detector = Detector(package.reference, DriftConfig())
        verdicts += [detector.push(take(window, next(rows))) for _ in range(2)]
        num_found += verdicts[-1].alarm
    low, high = compute_wilson(num_found, NUM_TRIALS)
    return {
        "trials": NUM_TRIALS,
        "found": num_found,
        "interval": [float(low), float(high)],
        "windows": len(verdicts),
        "rejected_by": count_tests(verdicts),
    }


def count_tests(verdicts: list[Verdict]) -> dict[str, int]:
    """In how many windows each test rejected at least one feature."""
    return dict(Counter(test for verdict in verdicts for test in {r.test for r in verdict.results if r.rejected}))


def make_rng() -> np.random.Generator:
    return np.random.default_rng(2024)


def draw_any(num_images: int) -> Iterator[np.ndarray]:
    rng = make_rng()
    while True:
        yield rng.choice(num_images, WINDOW, replace=False)


def draw_prior(labels: np.ndarray) -> Iterator[np.ndarray]:
    """One class, another in each window, has half of it."""
    rng, groups = make_rng(), {k: np.flatnonzero(labels == k) for k in range(10)}
    while True:
        favoured = rng.integers(10)
        yield draw(groups, {k: 0.5 if k == favoured else 0.5 / 9 for k in groups}, rng)


def draw_new(labels: np.ndarray, label: int) -> Iterator[np.ndarray]:
    rng, groups = make_rng(), {0: np.flatnonzero(labels != label), 1: np.flatnonzero(labels == label)}
    while True:
        yield draw(groups, {0: 0.8, 1: 0.2}, rng)


def measure_grey(folder: Path, arrays: Arrays) -> dict[str, object]:
    package, images, labels = make_fashion(folder, arrays), arrays["x_test"], arrays["y_test"]
    as_it_is = describe(package, images)
    found = {
        name: measure_shift(package, draw_any(len(images)), describe(package, images, change))
        for name, change in SHIFTS.items()
    }
    found["prior"] = measure_shift(package, draw_prior(labels), as_it_is)
    return {"null": measure_null(package, as_it_is, num_windows=NUM_WINDOWS), **found}


def measure_tinted(folder: Path, arrays: Arrays) -> dict[str, object]:
    coloured = {key: tint(array) if key[0] == "x" else array for key, array in arrays.items()}
    package, images = make_fashion(folder, coloured), coloured["x_test"]
    return {
        "null": measure_null(package, describe(package, images), num_windows=NUM_FEWER_WINDOWS),
        "channel_swap": measure_shift(package, draw_any(len(images)), describe(package, images[..., ::-1])),
    }


def measure_new(folder: Path, arrays: Arrays, label: int) -> dict[str, object]:
    package, labels = make_fashion(folder, leave_out(arrays, label)), arrays["y_test"]
    window = describe(package, arrays["x_test"])
    return {
        "null": measure_null(package, take(window, labels != label), num_windows=NUM_FEWER_WINDOWS),
        "new_class": measure_shift(package, draw_new(labels, label), window),
    }


def measure_digits(folder: Path) -> dict[str, object]:
    arrays, config = split_digits(), CONFIG.with_name("digits.yaml")
    package = make_package(folder, arrays, extends=str(config), pipeline={"validation_fraction": 0.2})
    return {"null": measure_null(package, describe(package, arrays["x_test"]), num_windows=NUM_FEWER_WINDOWS)}


def measure(folder: Path) -> dict[str, dict[str, Any]]:
    """Rates without drift, and of each shift, by the model that judged."""
    results = {"digits": measure_digits(folder / "digits")}
    data_dir = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    if not (data_dir / "fashion_mnist").exists():
        return results
    arrays = read_arrays("tfds", dataset="fashion_mnist", data_dir=str(data_dir))
    return {
        "fashion_mnist": measure_grey(folder / "fashion_mnist", arrays),
        "tinted": measure_tinted(folder / "tinted", arrays),
        **{f"without_{name}": measure_new(folder / name, arrays, label) for name, label in NEW_CLASSES.items()},
        **results,
    }


def sum_up(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    null = {model: found["null"]["with_alarm"] / found["null"]["windows"] for model, found in results.items()}
    shifts = {
        f"{model} {name}": one["found"] / one["trials"]
        for model, found in results.items()
        for name, one in found.items()
        if name != "null"
    }
    return {"M1_false_alarms": null, "M2_found_within_two_windows": shifts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the packages here, and use those that are there")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        results = measure(folder or Path(temporary))
    print(json.dumps({"unit": "windows and trials", "results": results, "summary": sum_up(results)}))


if __name__ == "__main__":
    main()
