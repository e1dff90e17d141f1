"""What the OpenAPI document says of each body; the routes themselves read and write plain JSON."""

import string
from typing import Any, Literal

from pydantic import BaseModel, Field

from mlvlab_jax.serving.protocol import INPUT, OUTPUTS


class ErrorReply(BaseModel):
    """A request that was not answered."""

    error: str
    request_id: str


class ServerMetadata(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """The process answers."""

    live: bool


class Ready(BaseModel):
    """Requests are taken."""

    ready: bool


class TensorMetadata(BaseModel):
    """A tensor of a model; a dimension of -1 is the number of images."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(BaseModel):
    """A model takes requests."""

    name: str
    ready: bool


class Tensor(BaseModel):
    """A tensor of an answer; its values are in `data`, or after the JSON where `parameters` says how many bytes."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float] | list[str] | None = None
    parameters: dict[str, int] | None = None


class InferAnswer(BaseModel):
    """The answer to an inference request."""

    model_name: str
    model_version: str
    id: str
    outputs: list[Tensor]


class Prediction(BaseModel):
    """A class and its calibrated probability."""

    label: str
    probability: float = Field(ge=0, le=1)


class Classified(BaseModel):
    """The most probable classes, the first first."""

    request_id: str
    model: str
    version: str
    predictions: list[Prediction]


class LabelAccepted(BaseModel):
    """A label was taken."""

    request_id: str


_BINARY = {"schema": {"type": "string", "format": "binary"}}
IMAGE_BODY = {
    "required": True,
    "content": {"image/*": _BINARY, "application/octet-stream": _BINARY},
    "description": "The bytes of a JPEG, PNG, WebP, GIF or BMP file.",
}
LABEL_BODY = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["request_id", "label"],
                "properties": {
                    "request_id": {"type": "string", "description": "X-Request-Id of the reply."},
                    "item": {"type": "integer", "minimum": 0, "default": 0, "description": "Place in the request."},
                    "label": {"type": "string", "description": "Name of the true class."},
                },
            }
        }
    },
}
INFER_BODY = {
    "required": True,
    "description": "With Inference-Header-Content-Length the JSON may be followed by the bytes of the tensor.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["inputs"],
                "properties": {
                    "id": {"type": "string", "maxLength": 256},
                    "parameters": {"type": "object", "properties": {"binary_data_output": {"type": "boolean"}}},
                    "inputs": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": 1,
                        "items": {
                            "type": "object",
                            "required": ["name", "datatype", "shape"],
                            "properties": {
                                "name": {"const": INPUT},
                                "datatype": {"const": "UINT8"},
                                "shape": {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4},
                                "parameters": {
                                    "type": "object",
                                    "properties": {"binary_data_size": {"type": "integer"}},
                                },
                                "data": {"type": "array"},
                            },
                        },
                    },
                    "outputs": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["name"],
                            "properties": {
                                "name": {"enum": list(OUTPUTS)},
                                "parameters": {"type": "object", "properties": {"binary_data": {"type": "boolean"}}},
                            },
                        },
                    },
                },
            }
        },
        "application/octet-stream": _BINARY,
    },
}
TOP_K: dict[str, Any] = {
    "name": "top_k",
    "in": "query",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
    "description": "Classes to name; all where there are fewer.",
}
DEADLINE: dict[str, Any] = {
    "name": "X-Deadline-Ms",
    "in": "header",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
    "description": "Milliseconds after which the answer is of no use; the server's own limit stays.",
}
_TEXTS = {
    400: "Not understood",
    401: "No token, or another",
    403: "Asked by a page of another site",
    404: "No such thing",
    408: "The body did not arrive in time",
    413: "Too large",
    415: "Of another type",
    499: "The client left",
    500: "The model gives no answer",
    503: "Too busy, or not ready",
    504: "The deadline passed",
}


def document_binary(description: str) -> dict[int | str, dict[str, Any]]:
    """An answer that may be bytes instead of JSON."""
    return {200: {"content": {"application/octet-stream": _BINARY}, "description": description}}


def document_path(path: str) -> list[dict[str, Any]]:
    """The parameters in braces of a path."""
    names = [name for _, name, _, _ in string.Formatter().parse(path) if name]
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def document_errors(*codes: Literal[400, 404, 408, 413, 415, 499, 500, 503, 504]) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route."""
    return {code: {"model": ErrorReply, "description": _TEXTS[code]} for code in (401, 403, *codes)}
