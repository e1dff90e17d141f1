"""Whatever bytes arrive, nothing but an answer or a refusal of the client leaves, and the next request is answered."""

import asyncio
import json
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.hostile import encode
from tests.serving.fakes import INFER, LEAKS, PNG, close_all, make_body, make_serving, shade, tensor

NUMS = [100, pytest.param(5000, marks=pytest.mark.slow)]
CLASSIFY = "/v1/classify"


@pytest.fixture
def ask():
    """A function that sends one request after the other to one server, and checks each reply."""
    serving = make_serving(batching={"deadline_ms": 60_000.0})
    with asyncio.Runner() as runner:

        def send(path, body, headers):
            reply = runner.run(serving.ask_later("POST", path, content=body, headers=headers))
            assert reply.status_code in (200, 202) or 400 <= reply.status_code < 500, reply.text
            assert reply.headers["x-request-id"]
            assert not LEAKS.search(reply.text)
            if reply.status_code >= 400:
                assert reply.json().keys() == {"error", "request_id"}
            return reply

        yield send
        assert send(CLASSIFY, shade(10), PNG).status_code == 200
    close_all()


def try_all(strategy, test, *, num):
    """Runs `test` with `num` examples, and says how many were answered."""
    answered = []

    @settings(max_examples=num, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def run(example):
        answered.append(test(example).is_success)

    run()
    return sum(answered)


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([2**63, 10**400])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["image", "logits", "label", "", "x"])
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, -1, 48, 2**31, 2**63, 2**64]), max_size=5) | st.just([1, 4, 4, 3])
NUMBERS = (
    st.lists(st.integers(-3, 300), max_size=60) | st.just([0] * 48) | st.just(np.zeros((1, 4, 4, 3), int).tolist())
)
TENSORS = st.fixed_dictionaries(
    {"name": NAMES | JSON, "datatype": st.sampled_from(["UINT8", "FP32", "BYTES", None]), "shape": SHAPES | JSON},
    optional={"data": NUMBERS | JSON, "parameters": JSON | st.fixed_dictionaries({"binary_data_size": st.integers()})},
)
FLAGS = st.fixed_dictionaries({}, optional={"binary_data": JSON, "binary_data_output": JSON})
DOCUMENTS = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, max_size=2) | JSON},
    optional={
        "id": JSON,
        "parameters": FLAGS | JSON,
        "outputs": st.lists(st.fixed_dictionaries({"name": NAMES}, optional={"parameters": FLAGS | JSON}), max_size=3),
        "more": JSON,
    },
)
NEAR = st.tuples(st.sampled_from(["name", "datatype", "shape", "data", "parameters"]), JSON).map(
    lambda change: tensor(**dict([change]))
)
#: A request that is right, or has one thing wrong at most.
ALMOST = NEAR | st.builds(lambda changes: tensor() | changes, st.dictionaries(st.sampled_from(["id", "outputs"]), JSON))


@pytest.mark.parametrize("num", NUMS)
def test_documents(ask, num):
    def test(document):
        return ask(INFER, json.dumps(document).encode(), {})

    assert try_all(JSON | DOCUMENTS | ALMOST, test, num=num) > 0


@pytest.mark.parametrize("num", NUMS)
def test_labels(ask, num):
    text = st.text(max_size=8) | JSON
    fields = st.fixed_dictionaries({"request_id": text, "label": text}, optional={"item": JSON | st.integers(0)})

    def test(document):
        return ask("/v1/labels", json.dumps(document).encode(), {"content-type": "application/json"})

    assert try_all(JSON | fields, test, num=num) > 0


BODY, HEADERS = make_body(np.zeros((2, 4, 4, 3), np.uint8))
CHANGES = st.lists(st.tuples(st.integers(0, 2**16), st.binary(max_size=3), st.integers(0, 4)), max_size=4)


def change(data, changes):
    """`data` with bytes put in, and others taken out, here and there."""
    for at, new, num_gone in changes:
        at %= len(data) + 1
        data = data[:at] + new + data[at + num_gone :]
    return data


@pytest.mark.parametrize("num", NUMS)
def test_binary_bodies(ask, num):
    lengths = st.sampled_from([int(HEADERS["Inference-Header-Content-Length"])]) | st.integers(-2, 2 * len(BODY))

    def test(example):
        changes, length = example
        return ask(INFER, change(BODY, changes), {"Inference-Header-Content-Length": str(length)})

    assert try_all(st.tuples(CHANGES, lengths), test, num=num) > 0


def make_files():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [encode(image, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP")]
    files += [encode(image, "JPEG", progressive=True, exif=exif), encode(image.convert("CMYK"), "JPEG")]
    files += [encode(image.convert(mode), "PNG") for mode in ("P", "LA", "I;16", "1")]
    return [*files, encode(image, "WEBP", lossless=True), encode(image, "GIF", save_all=True, append_images=[image])]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("num", NUMS)
def test_images(ask, num):
    def test(example):
        file, changes = example
        return ask(CLASSIFY, change(file, changes), PNG)

    files = st.sampled_from(make_files())
    assert try_all(st.tuples(files, CHANGES) | st.tuples(st.binary(max_size=64), st.just([])), test, num=num) > 0


@pytest.mark.parametrize("num", NUMS)
def test_headers_and_queries(ask, num):
    names = st.sampled_from(
        ["x-deadline-ms", "x-request-id", "content-type", "content-encoding", "accept", "range", "expect", "if-match"]
    )
    # A deadline of a few milliseconds is answered with 504, as it should be.
    values = st.binary(max_size=12).filter(
        lambda value: not set(value) & set(b"\r\n\0") and not value.strip().isdigit()
    )
    queries = st.text(max_size=8).map(quote) | st.integers().map(lambda k: f"top_k={k}") | st.just("top_k=2")

    def test(example):
        headers, query = example
        return ask(f"{CLASSIFY}?{query}", shade(10), PNG | headers)

    assert try_all(st.tuples(st.dictionaries(names, values, max_size=3), queries), test, num=num) > 0
