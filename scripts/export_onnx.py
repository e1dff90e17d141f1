"""Writes a model package as one ONNX file, and compares what onnxruntime makes of it with the golden outputs.

Runs in an environment of its own, see requirements-onnx.txt. The file takes `image`, uint8 (b, h, w, c), and gives
`logits`, float32 (b, k); class names, temperature and preprocessing are in its metadata.
"""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mlvlab_jax.cli import run_command
from mlvlab_jax.config.fields import dump_params
from mlvlab_jax.errors import PackageError
from mlvlab_jax.files import write_atomic
from mlvlab_jax.package.archive import open_folder
from mlvlab_jax.package.arrays import check_weights, read_arrays
from mlvlab_jax.package.documents import Documents, read_documents
from mlvlab_jax.package.verify import verify_files

#: Of logits, beside 1 or the largest of them.
TOLERANCE = 1e-4
_MAX_BYTES = 2**31 - 2**24


def main() -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, help="model package, folder or tar")
    parser.add_argument("out", type=Path, help="ONNX file to write")
    parsed = parser.parse_args()
    return run_command(lambda: _export(parsed.package, parsed.out))


def _export(path: Path, out: Path) -> int:
    with open_folder(path) as folder:
        manifest = verify_files(folder)
        documents = read_documents(folder)
        weights, golden = (read_arrays(folder / name) for name in ("model.safetensors", "golden.safetensors"))
    model = _convert(documents, weights, name=manifest.name, place=path)
    data = model.SerializeToString()
    difference = measure_parity(data, golden, place=path)
    if not difference <= TOLERANCE * max(1.0, float(np.abs(golden["logits"]).max())):
        raise PackageError(
            f"{path}: onnxruntime's logits differ by up to {difference:.2g}; expected {TOLERANCE}; nothing written"
        )
    write_atomic(out, data)
    print(f"{out}: {len(data) / 2**20:.1f} MiB; logits differ from the golden ones by {difference:.1e} at most")
    return 0


def _convert(documents: Documents, weights: dict[str, np.ndarray], *, name: str, place: Path) -> Any:
    """The network and its weights as an ONNX model with a free batch size.

    Raises:
        PackageError: Over 2 GiB, or the network is of a plugin, which a package never imports.
    """
    import jax.export
    import jax2onnx
    import onnx

    from mlvlab_jax.package.network import make_forward

    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    if sum(array.nbytes for array in weights.values()) > _MAX_BYTES:
        raise PackageError(f"{place}: over {_MAX_BYTES} bytes of weights; one ONNX file holds 2 GiB at most")
    if documents.config is None:
        raise PackageError(f"{place}: the network is of plugins {documents.config_tree['plugins']}; expected none")
    forward, shapes = make_forward(documents.config, num_classes=len(documents.class_names), image=documents.image)
    check_weights(weights, shapes, place=str(place))
    (batch,) = jax.export.symbolic_shape("b")
    pixels = jax.ShapeDtypeStruct((batch, *documents.image), np.uint8)
    model = jax2onnx.to_onnx(
        lambda image: forward(weights, image)[0],
        [pixels],
        model_name=name,
        input_names=["image"],
        output_names=["logits"],
    )
    facts = {
        "class_names": json.dumps(documents.class_names),
        "temperature": json.dumps(documents.calibration.temperature),
        "preprocess": json.dumps(dump_params(documents.preprocess)),
    }
    onnx.helper.set_model_props(model, facts)
    return model


def measure_parity(data: bytes, golden: dict[str, np.ndarray], *, place: Path) -> float:
    """Largest difference of a logit from the golden ones, over batches of all golden images, of one and of three.

    Raises:
        PackageError: onnxruntime does not take what jax2onnx made.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as refusals

    differences = []
    try:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        for size in {len(golden["image"]), 1, min(3, len(golden["image"]))}:
            (logits,) = session.run(["logits"], {"image": golden["image"][:size]})
            differences.append(float(np.abs(logits - golden["logits"][:size]).max()))
    except (refusals.Fail, refusals.InvalidArgument, refusals.InvalidGraph, refusals.NotImplemented) as error:
        raise PackageError(f"{place}: onnxruntime refuses what jax2onnx made: {error}; nothing written") from None
    return max(differences)


if __name__ == "__main__":
    sys.exit(main())
