"""The Open Inference Protocol on the wire, byte for byte as its clients write and read it."""

import json
import socket
import struct

import numpy as np
import pytest

from tests.serving.fakes import (
    INFER,
    NAMES,
    VERSION,
    FakePredictor,
    close_all,
    listening,
    make_body,
    make_serving,
    read_reply,
    tensor,
)

PIXELS = bytes(range(48))
#: As tritonclient 2.73 writes it: no content type; all outputs in binary where none is named.
TRITON = (
    b"POST /v2/models/shades/infer HTTP/1.1\r\nUser-Agent: python/gevent-http-client-2.6.1\r\n"
    b"Inference-Header-Content-Length: 154\r\nHost: 127.0.0.1\r\nContent-Length: 202\r\n\r\n"
    b'{"id":"r1","inputs":[{"name":"image","shape":[1,4,4,3],"datatype":"UINT8","parameters":{"binary_data_size":48}}],'
    b'"parameters":{"binary_data_output":true}}' + PIXELS
)
#: As kserve 0.21 writes it: the model's name once more, binary in, JSON out.
KSERVE = (
    b"POST /v2/models/shades/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\n"
    b"Connection: keep-alive\r\nUser-Agent: python-httpx/0.28.1\r\ninference-header-content-length: 169\r\n"
    b"content-type: application/octet-stream\r\nContent-Length: 217\r\n\r\n"
    b'{"id":"f787be1c-5a35-4f5b-97fb-9cce44f80d42","model_name":"shades","inputs":[{"name":"image","shape":[1,4,4,3],'
    b'"datatype":"UINT8","parameters":{"binary_data_size":48}}]}' + PIXELS
)


@pytest.fixture
def serving():
    yield make_serving()
    close_all()


def exchange(port, request):
    """Headers and body of the answer to these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.recv(65536)
        head, _, body = received.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        assert lines[0] == "HTTP/1.1 200 OK", received
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
        while len(body) < int(headers["content-length"]):
            body += connection.recv(65536)
    return headers, body


def expected():
    return FakePredictor().predict(np.frombuffer(PIXELS, np.uint8).reshape(1, 4, 4, 3))


def test_a_binary_request_is_answered_in_binary(serving):
    with listening(serving) as port:
        headers, body = exchange(port, TRITON)
    length = int(headers["inference-header-content-length"])
    assert headers["content-type"] == "application/octet-stream"
    assert json.loads(body[:length]) == {
        "model_name": "shades",
        "model_version": VERSION,
        "id": "r1",
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}},
            {"name": "probabilities", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}},
            {"name": "embedding", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
            {"name": "label", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 8}},
        ],
    }
    outputs = expected()
    numbers = struct.pack("<10f", *outputs.logits[0], *outputs.probabilities[0], *outputs.embedding[0])
    assert body[length:] == numbers + b"\x04\x00\x00\x00dark"


def test_a_binary_request_that_asks_for_nothing_else_is_answered_in_json(serving):
    with listening(serving) as port:
        headers, body = exchange(port, KSERVE)
    assert headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in headers
    answer = json.loads(body)
    assert answer["id"] == "f787be1c-5a35-4f5b-97fb-9cce44f80d42"
    assert [(each["name"], each["shape"]) for each in answer["outputs"]] == [
        ("logits", [1, 4]), ("probabilities", [1, 4]), ("embedding", [1, 2]), ("label", [1]),
    ]  # fmt: skip
    for each, array in zip(answer["outputs"], expected(), strict=False):
        assert np.float32(each["data"]).tolist() == array[0].tolist()
    assert answer["outputs"][3]["data"] == ["dark"]


def test_outputs_come_as_they_were_asked_for(serving):
    images = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (250, 10)])
    wanted = [{"name": "label", "parameters": {"binary_data": True}}, {"name": "logits"}]
    body, headers = make_body(images, outputs=wanted)
    found = read_reply(serving.ask("POST", INFER, content=body, headers=headers))
    assert list(found) == ["label", "logits"]
    assert found["label"][1] == b"".join(struct.pack("<I", len(name)) + name.encode() for name in (NAMES[3], NAMES[0]))
    assert found["logits"] == pytest.approx(FakePredictor().predict(images).logits.ravel().tolist())

    wanted[1]["parameters"] = {"binary_data": False}
    body, headers = make_body(images, outputs=wanted, binary_data_output=True)
    assert list(read_reply(serving.ask("POST", INFER, content=body, headers=headers))["logits"]) == found["logits"]
    wanted[0]["parameters"] = {"binary_data": False}
    body, headers = make_body(images, outputs=wanted)
    assert serving.ask("POST", INFER, content=body, headers=headers).headers["content-type"] == "application/json"


def test_a_request_without_an_id_gets_that_of_the_reply(serving):
    response = serving.ask("POST", INFER, json=tensor())
    assert response.json()["id"] == response.headers["x-request-id"]


def test_flat_and_nested_numbers_are_the_same_images(serving):
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)
    for data in (images.tolist(), images.ravel().tolist()):
        serving.ask("POST", INFER, json=tensor(data, shape=[3, 4, 4, 3]))
        (observed,) = serving.told["observe"].pop()
        assert (np.stack([each.image for each in observed]) == images).all()


def test_large_documents_are_read_and_written_too():
    class Wide(FakePredictor):
        class_names = tuple(f"class {k}" for k in range(200))

        def predict(self, images):
            outputs = super().predict(images)
            return outputs._replace(logits=np.repeat(outputs.logits, 50, axis=1))

    images = np.random.default_rng(0).integers(0, 256, (200, 4, 4, 3)).astype(np.uint8)
    serving = make_serving(Wide())
    response = serving.ask("POST", INFER, json=tensor(images.tolist(), shape=list(images.shape)))
    logits = response.json()["outputs"][0]
    assert logits["shape"] == [200, 200]
    expected = np.repeat(FakePredictor().predict(images).logits, 50, axis=1)
    assert np.float32(logits["data"]).tolist() == expected.ravel().tolist()
    close_all()


def test_a_version_can_be_named(serving):
    body, headers = make_body(np.zeros((1, 4, 4, 3), np.uint8))
    path = f"/v2/models/shades/versions/{VERSION}/infer"
    assert serving.ask("POST", path, content=body, headers=headers).headers["x-model-version"] == VERSION
    assert serving.ask("POST", "/v2/models/shades/versions/1/infer", content=body, headers=headers).status_code == 404
