"""The Open Inference Protocol v2: its documents, from a body to images and from outputs to a body."""

import itertools
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlvlab_jax.serving.binary import encode_tensor, split_body
from mlvlab_jax.serving.replies import RefusedError
from mlvlab_jax.serving.strict_json import parse_json
from mlvlab_jax.types import ImageSpec

if TYPE_CHECKING:
    from mlvlab_jax.serving.predictor import Outputs, Predictor

PLATFORM = "mlvlab_jax"
INPUT = "image"
#: Name of each output -> its type.
OUTPUTS = {"logits": "FP32", "probabilities": "FP32", "embedding": "FP32", "label": "BYTES"}
_MAX_ID_CHARS = 256


class Requested(NamedTuple):
    """An output that is wanted, as raw bytes or in the JSON."""

    name: str
    binary: bool


class InferRequest(NamedTuple):
    """What a client asks: images uint8 (n h w c), the outputs it wants, and its own name for the request."""

    id: str | None
    images: np.ndarray
    outputs: tuple[Requested, ...]


class InferReply(NamedTuple):
    """A body; `header_length` bytes of it are JSON, all where it is None."""

    body: bytes
    header_length: int | None


def describe_model(predictor: "Predictor") -> dict[str, Any]:
    """The metadata of a model."""
    num_classes = len(predictor.class_names)
    widths: dict[str, list[int]] = {"logits": [num_classes], "probabilities": [num_classes], "label": []}
    widths["embedding"] = [len(predictor.package.reference.center)]
    return {
        "name": predictor.name,
        "versions": [predictor.version],
        "platform": PLATFORM,
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, *predictor.image]}],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": [-1, *widths[name]]} for name, datatype in OUTPUTS.items()
        ],
    }


def parse_request(body: bytes, header_length: str | None, *, image: ImageSpec) -> InferRequest:
    """The request in a body.

    Args:
        body: JSON, with the bytes of the tensor after it where `header_length` says so.
        header_length: Bytes of the JSON, as the header of the binary tensor data extension gives them, or None.
        image: What the model takes.

    Raises:
        RefusedError: It is not such a request, or its tensor is not images of the model's shape.
    """
    text, raw = split_body(body, header_length)
    document = parse_json(text)
    _expect(isinstance(document, dict), "the body must be a JSON object")
    given = document.get("id")
    _expect(given is None or (type(given) is str and len(given) <= _MAX_ID_CHARS), "id must be a short string")
    tensors = document.get("inputs")
    _expect(isinstance(tensors, list) and len(tensors) == 1, f"inputs must hold one tensor, {INPUT}")
    images = _parse_images(tensors[0], raw, image=image)
    return InferRequest(given, images, _parse_outputs(document))


def render_reply(request: InferRequest, outputs: "Outputs", *, predictor: "Predictor", request_id: str) -> InferReply:
    """The body that answers `request`.

    Args:
        request: Says which outputs are wanted, and how.
        outputs: Of the model.
        predictor: That gave them.
        request_id: Put in where the client gave no id of its own.
    """
    rendered, raw = [], []
    for name, binary in request.outputs:
        values = _choose(name, outputs, predictor)
        shape = [len(values)] if isinstance(values, list) else list(values.shape)
        tensor: dict[str, Any] = {"name": name, "datatype": OUTPUTS[name], "shape": shape}
        if binary:
            raw.append(encode_tensor(values))
            rendered.append(json.dumps(tensor | {"parameters": {"binary_data_size": len(raw[-1])}}))
        else:
            rendered.append(f'{json.dumps(tensor)[:-1]}, "data": [{_join_rows(values)}]}}')
    head = {"model_name": predictor.name, "model_version": predictor.version, "id": request.id or request_id}
    text = f'{json.dumps(head)[:-1]}, "outputs": [{", ".join(rendered)}]}}'.encode()
    return InferReply(b"".join((text, *raw)), len(text) if raw else None)


def count_json_values(request: InferRequest, outputs: "Outputs") -> int:
    """Numbers that the JSON of the reply holds."""
    sizes = {"label": len(outputs.logits), **{name: array.size for name, array in outputs._asdict().items()}}
    return sum(sizes[name] for name, binary in request.outputs if not binary)


def _expect(condition: bool, text: str) -> None:
    if not condition:
        raise RefusedError(400, text)


def _parse_parameters(owner: dict[str, Any]) -> dict[str, Any]:
    parameters = owner.get("parameters", {})
    _expect(isinstance(parameters, dict), "parameters must be a JSON object")
    return dict(parameters)


def _parse_outputs(document: dict[str, Any]) -> tuple[Requested, ...]:
    """The outputs that are wanted, all where none is named."""
    all_binary = _parse_flag(_parse_parameters(document), "binary_data_output", default=False)
    wanted = document.get("outputs") or [{"name": name} for name in OUTPUTS]
    _expect(isinstance(wanted, list) and all(isinstance(each, dict) for each in wanted), "outputs must be a list")
    names = [each.get("name") for each in wanted]
    known = all(type(name) is str and name in OUTPUTS for name in names)
    _expect(known and len(set(names)) == len(names), f"outputs may be {', '.join(OUTPUTS)}, each once")
    requested = []
    for name, each in zip(names, wanted, strict=True):
        parameters = _parse_parameters(each)
        _expect(parameters.keys() <= {"binary_data"}, "of the parameters of an output only binary_data is known")
        requested.append(Requested(name, _parse_flag(parameters, "binary_data", default=all_binary)))
    return tuple(requested)


def _parse_flag(parameters: dict[str, Any], name: str, *, default: bool) -> bool:
    flag = parameters.get(name, default)
    _expect(isinstance(flag, bool), f"{name} must be true or false")
    return bool(flag)


def _parse_images(tensor: Any, raw: memoryview, *, image: ImageSpec) -> np.ndarray:
    _expect(isinstance(tensor, dict) and tensor.get("name") == INPUT, f"inputs must hold one tensor, {INPUT}")
    _expect(tensor.get("datatype") == "UINT8", f"datatype of {INPUT} must be UINT8")
    shape = tensor.get("shape")
    _expect(
        isinstance(shape, list) and len(shape) == 4 and all(type(dim) is int for dim in shape) and shape[0] >= 1,
        "shape must be that of the model's metadata, of one image or more",
    )
    _expect(tuple(shape[1:]) == tuple(image), "shape must be that of the model's metadata, of one image or more")
    parameters = _parse_parameters(tensor)
    _expect(parameters.keys() <= {"binary_data_size"}, f"of the parameters of {INPUT} only binary_data_size is known")
    if "binary_data_size" not in parameters:
        _expect(len(raw) == 0, "there are bytes after the JSON that belong to no tensor")
        return _parse_numbers(tensor.get("data"), shape)
    size = parameters["binary_data_size"]
    _expect("data" not in tensor, f"{INPUT} has data and binary_data_size; one of them is meant")
    _expect(
        type(size) is int and size == len(raw) == math.prod(shape),
        "binary_data_size must be the product of shape, and so many bytes must follow the JSON",
    )
    return np.frombuffer(raw, np.uint8).reshape(shape)


def _parse_numbers(data: Any, shape: list[int]) -> np.ndarray:
    """A tensor written as numbers, flat or nested."""
    _expect(isinstance(data, list), "data must be a list of numbers, flat or nested as shape")
    if data and type(data[0]) is list:
        data = _flatten(data, shape)
    _expect(len(data) == math.prod(shape), "data must have as many numbers as shape says")
    _expect(set(map(type, data)) == {int}, "data must be whole numbers from 0 to 255")
    try:
        return np.frombuffer(bytes(data), np.uint8).reshape(shape)
    except ValueError:
        raise RefusedError(400, "data must be whole numbers from 0 to 255") from None


def _flatten(data: list[Any], shape: list[int]) -> list[Any]:
    """The numbers of a list nested as `shape`."""
    _expect(len(data) == shape[0], "data must have as many numbers as shape says")
    for dim in shape[1:]:
        fits = all(type(row) is list and len(row) == dim for row in data)
        _expect(fits, "data must have as many numbers as shape says")
        data = list(itertools.chain.from_iterable(data))
    return data


def _choose(name: str, outputs: "Outputs", predictor: "Predictor") -> np.ndarray | list[str]:
    if name == "label":
        return [predictor.class_names[best] for best in outputs.probabilities.argmax(axis=1)]
    array: np.ndarray = getattr(outputs, name)
    return array


def _join_rows(values: np.ndarray | Sequence[str]) -> str:
    """Values as JSON writes them, without the brackets; row by row, so that other threads get their turn."""
    if isinstance(values, np.ndarray):
        return ", ".join(json.dumps(row.tolist(), allow_nan=False)[1:-1] for row in values)
    return json.dumps(values)[1:-1]
