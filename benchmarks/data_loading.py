"""Goals C6 to C8: how fast batches come from disk, beside what one would use otherwise. Everything alternates: A B B A.

C6: JPEG files of 500 x 375 to batches of 64 at 224 x 224 by our stream with two reading threads, over a PyTorch
DataLoader with two workers, Pillow and RandomResizedCrop. C7: the same over twice the rate at which simplejpeg decodes
those files in full in one thread. "fast": with the preprocessing FAST in place of the default. "packed": from files
packed at most 320 pixels wide. C8: records a second of one epoch of 60,000 of 28 x 28 from ArrayRecord, opening
included, over those of grain.DataLoader in a part of the epoch. "streamed": records read as they are asked for, not
held in memory.

C6 and C7 need an interpreter with PyTorch, scikit-learn and scikit-image: --torch-python PATH or TORCH_PYTHON.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import grain
import numpy as np
import simplejpeg

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.schema import PipelineConfig
from mlvlab_jax.data.open import open_data
from mlvlab_jax.data.pack import pack
from mlvlab_jax.data.stream import Readers, train_stream
from mlvlab_jax.plugins import SOURCES, Spec

REPEATS = 6
NUM_FILES, NUM_IMAGES, BATCH_SIZE, WARM_UP_BATCHES = 512, 1536, 64, 8
NUM_RECORDS, NUM_GRAIN_RECORDS, RECORD_BATCH_SIZE = 60_000, 12_800, 128
#: Other pixels than the default's: decoded at half the size and enlarged by 1.19, by OpenCV.
FAST = {"filter": "opencv_linear", "max_jpeg_enlargement": 1.25}
PEER = Path(__file__).parent / "torch_loader.py"


def make_spec(name: str, **params: object) -> Spec:
    return Spec(name, params_from(SOURCES.entry(name).params, params))


def make_pipeline(**values: object) -> PipelineConfig:
    return params_from(PipelineConfig, {"validation_fraction": 0.0, **values})


def our_images_per_second(source: Spec, pipeline: PipelineConfig) -> float:
    split = open_data(source, pipeline, seed=0).train
    num_batches = NUM_IMAGES // BATCH_SIZE
    started = 0.0
    stream = train_stream(
        split, batch_size=BATCH_SIZE, num_steps=num_batches + WARM_UP_BATCHES, seed=0, readers=Readers(num_threads=2)
    )
    for number, _ in enumerate(stream):
        if number + 1 == WARM_UP_BATCHES:
            started = time.perf_counter()
    return NUM_IMAGES / (time.perf_counter() - started)


def full_decodes_per_second(files: list[bytes]) -> float:
    started = time.perf_counter()
    for data in files:
        simplejpeg.decode_jpeg(data)
    return len(files) / (time.perf_counter() - started)


def torch_images_per_second(python: str, folder: Path) -> float:
    command = [python, str(PEER), "measure", str(folder), str(NUM_IMAGES)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def our_records_per_second(folder: Path, max_memory_mib: int) -> float:
    started = time.perf_counter()
    pipeline = make_pipeline(max_memory_mib=max_memory_mib)
    split = open_data(make_spec("array_record", path=str(folder)), pipeline, seed=0).train
    num_steps = NUM_RECORDS // RECORD_BATCH_SIZE
    for batch in train_stream(split, batch_size=RECORD_BATCH_SIZE, num_steps=num_steps, seed=0):
        assert batch["image"].shape == (RECORD_BATCH_SIZE, 28, 28, 1)
    return num_steps * RECORD_BATCH_SIZE / (time.perf_counter() - started)


class Decode(grain.transforms.Map):
    """Raw bytes to an image."""

    def map(self, element: bytes) -> np.ndarray:
        """The pixels of one record."""
        return np.frombuffer(element, np.uint8).reshape(28, 28, 1)


def grain_records_per_second(folder: Path) -> float:
    started = time.perf_counter()
    source = grain.sources.ArrayRecordDataSource(sorted(map(str, folder.glob("train-*.arrayrecord"))))
    sampler = grain.samplers.IndexSampler(len(source), shuffle=True, num_epochs=1, seed=0)
    operations = [Decode(), grain.transforms.Batch(RECORD_BATCH_SIZE, drop_remainder=True)]
    loader = grain.DataLoader(data_source=source, sampler=sampler, operations=operations)
    for batch in itertools.islice(loader, NUM_GRAIN_RECORDS // RECORD_BATCH_SIZE):
        assert batch.shape == (RECORD_BATCH_SIZE, 28, 28, 1)
    return NUM_GRAIN_RECORDS / (time.perf_counter() - started)


def alternate(measures: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Each measure REPEATS times, forwards and backwards in turn."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for repeat in range(REPEATS):
        for name in measures if repeat % 2 == 0 else reversed(measures):
            found[name].append(measures[name]())
    return found


def compare(ours: list[float], theirs: list[float]) -> list[float]:
    """Ratio for each pair measured one near the other."""
    return [round(a / b, 3) for a, b in zip(ours, theirs, strict=True)]


def measure_files(python: str, folder: Path) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    photos = folder / "photos"
    subprocess.run([python, str(PEER), "photos", str(photos), str(NUM_FILES)], check=True)
    default = make_pipeline(preprocess={"size": [224, 224]}, max_memory_mib=0)
    fast = make_pipeline(preprocess={"size": [224, 224], **FAST}, max_memory_mib=0)
    files, packed = make_spec("image_folder", path=str(photos)), make_spec("array_record", path=str(folder / "packed"))
    pack(files, default, folder=folder / "packed", max_side=320)
    contents = [path.read_bytes() for path in sorted(photos.glob("*/*.jpg"))]
    ours = {
        "": lambda: our_images_per_second(files, default),
        "_packed": lambda: our_images_per_second(packed, default),
        "_fast": lambda: our_images_per_second(files, fast),
        "_fast_packed": lambda: our_images_per_second(packed, fast),
    }
    rates = alternate(
        {
            "torch": lambda: torch_images_per_second(python, photos),
            "full_decode": lambda: full_decodes_per_second(contents),
            **{f"ours{kind}": measure for kind, measure in ours.items()},
        }
    )
    twice = [2 * rate for rate in rates["full_decode"]]
    ratios = {f"C6{kind}": compare(rates[f"ours{kind}"], rates["torch"]) for kind in ours}
    return rates, ratios | {f"C7{kind}": compare(rates[f"ours{kind}"], twice) for kind in ours}


def measure_records(folder: Path) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    data_dir = os.environ.get("TFDS_DATA_DIR")
    sizes = {"num_train": NUM_RECORDS, "num_test": 10, "height": 28, "width": 28, "channels": 1}
    source = make_spec("synthetic", **sizes)
    if data_dir:
        source = make_spec("tfds", dataset="fashion_mnist", data_dir=data_dir)
    pack(source, make_pipeline(), folder=folder / "records", encoding="raw")
    rates = alternate(
        {
            "grain": lambda: grain_records_per_second(folder / "records"),
            "ours": lambda: our_records_per_second(folder / "records", 1024),
            "ours_streamed": lambda: our_records_per_second(folder / "records", 0),
        }
    )
    ratios = {
        "C8": compare(rates["ours"], rates["grain"]),
        "C8_streamed": compare(rates["ours_streamed"], rates["grain"]),
    }
    return rates, ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch-python", default=os.environ.get("TORCH_PYTHON"), help="interpreter with PyTorch")
    python = parser.parse_args().torch_python
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        rates, ratios = measure_records(Path(folder))
        results["records_per_second"] = rates
        if python:
            rates, more = measure_files(python, Path(folder))
            results["fast_preprocess"] = FAST
            results["images_per_second"] = rates
            ratios |= more
    results["ratios"] = ratios
    summary: dict[str, object] = {name: round(statistics.median(values), 2) for name, values in ratios.items()}
    if not python:
        summary |= dict.fromkeys(("C6", "C7"), "not run here: set TORCH_PYTHON")
    print(json.dumps({"results": results, "summary": summary}))


if __name__ == "__main__":
    sys.exit(main())
