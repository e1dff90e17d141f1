"""Whatever is sent, the refusal is the right one, and tells nothing."""

import json

import numpy as np
import pytest

from mlvlab_jax.serving.predictor import Outputs
from tests.data.hostile import png
from tests.serving.fakes import (
    INFER,
    NAMES,
    PNG,
    FakePredictor,
    check_refusal,
    make_body,
    make_serving,
    shade,
    tensor,
)


def bomb():
    return png(30_000, 30_000, 8, 2, b"")


HUGE = "9" * 5000
BAD_FILES = {
    "empty": (b"", 400),
    "no image": (b"<html>", 415),
    "truncated jpeg": (shade(10, "JPEG", (64, 64))[:-40], 400),
    "truncated png": (shade(10, size=(64, 64))[:-60], 400),
    "header alone": (b"\xff\xd8\xff", 400),
    "bomb": (bomb(), 413),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_image_files_are_refused(serving, case):
    body, status = BAD_FILES[case]
    check_refusal(serving.ask("POST", "/v1/classify", content=body, headers=PNG), status)
    assert serving.told["observe"] == []


@pytest.mark.parametrize("size", [(1, 1), (65_500, 1), (1, 65_500)])
def test_odd_sizes_are_answered(serving, size):
    response = serving.ask("POST", "/v1/classify", content=shade(200, "PNG", size), headers=PNG)
    assert response.json()["predictions"][0]["label"] == NAMES[3]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"content-type": "image/png", "x-deadline-ms": "0"}, 400),
        ({"content-type": "image/png", "x-deadline-ms": "soon"}, 400),
        ({"content-type": "image/png", "x-deadline-ms": HUGE}, 400),
    ],
)
def test_headers_that_do_not_fit_are_refused(serving, headers, status):
    check_refusal(serving.ask("POST", "/v1/classify", content=shade(10), headers=headers), status)


def beside(text):
    """A document that is right but for what else it holds."""
    return json.dumps(tensor())[:-1].encode() + b', "more": ' + text + b"}"


BAD_DOCUMENTS = {
    "empty": b"",
    "not json": b"{",
    "not utf-8": b'{"inputs": "\xff"}',
    "utf-16": '{"inputs": []}'.encode("utf-16"),
    "number": b"1",
    "null": b"null",
    "deep": beside(b"[" * 10_000 + b"]" * 10_000),
    "too deep": beside(b"[" * 40 + b"]" * 40),
    "deep objects": beside(b'{"a":' * 200 + b"1" + b"}" * 200),
    "objects": beside(b"[" + b"{}," * 1000 + b"1]"),
    "depth hidden in strings": beside(b'["' + b"]" * 60_000 + b'",' + b"[" * 50_000),
    "key twice": beside(b'1, "more": 2'),
    "NaN": beside(b"NaN"),
    "infinity": beside(b"[-Infinity]"),
    "huge integer": beside(HUGE.encode()),
    "no inputs": {},
    "two inputs": {"inputs": tensor()["inputs"] * 2},
    "input of a number": {"inputs": [1]},
    "other name": tensor(name="input_0"),
    "name of a list": tensor(name=["image"]),
    "float": tensor(datatype="FP32"),
    "NaN tensor": json.dumps(tensor([float("nan")] * 48, datatype="FP32")).encode(),
    "no shape": tensor(shape=None),
    "flat shape": tensor(shape=[48]),
    "other size": tensor(shape=[1, 4, 3, 4]),
    "no image": tensor([], shape=[0, 4, 4, 3]),
    "negative": tensor(shape=[-1, 4, 4, 3]),
    "two negatives": tensor(shape=[1, -4, -4, 3]),
    "dims of floats": tensor(shape=[1.0, 4, 4, 3]),
    "dims of booleans": tensor(shape=[True, 4, 4, 3]),
    "product overflows": tensor(shape=[2**62, 4, 4, 3]),
    "product is zero in 64 bits": tensor([], shape=[2**64, 4, 4, 3]),
    "too few": tensor([0] * 47),
    "too many": tensor([0] * 49),
    "too many images": tensor([0] * 48 * 300, shape=[300, 4, 4, 3]),
    "negative value": tensor([-1] * 48),
    "value over 255": tensor([256] * 48),
    "huge value": tensor([10**400] * 48),
    "fraction": tensor([0.5] * 48),
    "boolean": tensor([True] * 48),
    "string": tensor("0" * 48),
    "strings": tensor(["0"] * 48),
    "ragged": tensor([[[[0] * 3] * 4] * 3 + [[[0] * 3] * 3]]),
    "ragged, of the right number": tensor([[[[0] * 4, [0] * 2, [0] * 3, [0] * 3]] * 4]),
    "half nested": tensor([[0] * 48]),
    "nested too deep": tensor([[[[[0] * 3] * 4] * 4]]),
    "nested and flat": tensor([[0], *[0] * 47]),
    "no data": {"inputs": [{"name": "image", "shape": [1, 4, 4, 3], "datatype": "UINT8"}]},
    "binary that is not there": tensor(parameters={"binary_data_size": 48}),
    "shared memory": tensor(parameters={"shared_memory_region": "x", "shared_memory_byte_size": 48}),
    "parameters of a list": tensor(parameters=[]),
    "unknown output": tensor() | {"outputs": [{"name": "loss"}]},
    "output twice": tensor() | {"outputs": [{"name": "label"}, {"name": "label"}]},
    "output of a string": tensor() | {"outputs": ["label"]},
    "output named by a list": tensor() | {"outputs": [{"name": []}]},
    "outputs of an object": tensor() | {"outputs": {"name": "label"}},
    "classification": tensor() | {"outputs": [{"name": "logits", "parameters": {"classification": 2}}]},
    "binary_data of a string": tensor() | {"outputs": [{"name": "logits", "parameters": {"binary_data": "yes"}}]},
    "binary_data_output of a number": tensor() | {"parameters": {"binary_data_output": 1}},
    "id of a number": tensor() | {"id": 1},
    "long id": tensor() | {"id": "x" * 300},
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_DOCUMENTS)
def test_bad_documents_are_refused(serving, case):
    document = BAD_DOCUMENTS[case]
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    check_refusal(serving.ask("POST", INFER, content=body), 400)
    assert serving.told["observe"] == []


def test_the_document_that_all_bad_ones_are_made_of_is_answered(serving):
    assert serving.ask("POST", INFER, json=tensor()).status_code == 200
    for harmless in (b"1", b"[" * 20 + b"]" * 20, b"[" + b"{}," * 200 + b"1]", b'"' + b"[" * 10 + b'"'):
        assert serving.ask("POST", INFER, content=beside(harmless)).status_code == 200
    nested = tensor([[[[7, 8, 9]] * 4] * 4])
    assert serving.ask("POST", INFER, json=nested).json()["outputs"][3]["data"] == ["dark"]


def test_json_over_its_limit_is_refused_before_it_is_parsed(serving):
    check_refusal(serving.ask("POST", INFER, content=b"[" + b" " * 5_000_000), 413)


def test_lies_about_the_binary_part_are_refused(serving):
    body, headers = make_body(np.zeros((1, 4, 4, 3), np.uint8))
    length = int(headers["Inference-Header-Content-Length"])
    name = "Inference-Header-Content-Length"
    for value in (
        "-1",
        "0",
        "+5",
        "1e2",
        str(length - 1),
        str(length + 1),
        str(len(body) + 1),
        HUGE,
        "",
        " ",
        "0x10",
        "²",
    ):
        check_refusal(serving.ask("POST", INFER, content=body, headers={name: value.encode()}), 400)
    check_refusal(serving.ask("POST", INFER, content=body[:-1], headers=headers), 400)
    none, its_headers = make_body(np.zeros((0, 4, 4, 3), np.uint8))
    refusal = check_refusal(serving.ask("POST", INFER, content=none, headers=its_headers), 400)
    assert refusal == "shape must be that of the model's metadata, of one image or more"
    plain = json.dumps(tensor()).encode()
    assert serving.ask("POST", INFER, content=plain, headers={name: str(len(plain))}).status_code == 200
    check_refusal(serving.ask("POST", INFER, content=plain, headers={name: str(len(plain) + 1)}), 400)
    check_refusal(serving.ask("POST", INFER, content=body + b"x", headers=headers), 400)
    for size in (47, 49, -48, True, 48.0, "48", 2**70, None):
        document = tensor(parameters={"binary_data_size": size})
        del document["inputs"][0]["data"]
        text = json.dumps(document).encode()
        response = serving.ask("POST", INFER, content=text + bytes(48), headers={name: str(len(text))})
        check_refusal(response, 400)
    assert serving.ask("POST", INFER, content=body, headers=headers).status_code == 200


def test_other_errors_are_500_and_tell_nothing():
    class Broken(FakePredictor):
        def decode(self, data):
            raise ZeroDivisionError(f"{__file__} 0x7f0123456789")

    serving = make_serving(Broken())
    assert check_refusal(serving.ask("POST", "/v1/classify", content=shade(1), headers=PNG), 500) == "internal error"
    outputs = Outputs(*(np.full((1, n), np.inf, np.float32) for n in (4, 4, 2)))

    class Infinite(FakePredictor):
        def predict(self, images):
            return outputs

    check_refusal(make_serving(Infinite()).ask("POST", INFER, json=tensor()), 500)
