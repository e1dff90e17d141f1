"""What is not answered in time, has no room, or has nobody who waits for it; and its neighbours."""

import asyncio
import socket
import threading
import time

import numpy as np
import pytest

from tests.serving.fakes import (
    PNG,
    FakePredictor,
    check_refusal,
    listening,
    make_serving,
    shade,
)


def run(coroutine):
    """Its value; a test that waits for what never comes ends."""

    async def bounded():
        async with asyncio.timeout(30):
            return await coroutine

    return asyncio.run(bounded())


def test_one_poisoned_image_costs_its_own_request_alone():
    class Poisoned(FakePredictor):
        def predict(self, images):
            if (images == 66).all(axis=(1, 2, 3)).any():
                raise ZeroDivisionError("0x7f0123456789")
            outputs = super().predict(images)
            outputs.probabilities[(images == 77).all(axis=(1, 2, 3))] = np.nan
            return outputs

    serving = make_serving(Poisoned(), batching={"max_wait_ms": 50.0})
    values = [66, 77, *range(100, 130)]

    async def ask_all():
        files = [shade(value) for value in values]
        return await asyncio.gather(
            *(serving.ask_later("POST", "/v1/classify", content=file, headers=PNG) for file in files)
        )

    bad, worse, *good = run(ask_all())
    check_refusal(bad, 500)
    check_refusal(worse, 500)
    for value, response in zip(values[2:], good, strict=True):
        expected = FakePredictor().predict(np.full((1, 4, 4, 3), value, np.uint8)).probabilities.max()
        assert response.json()["predictions"][0]["probability"] == pytest.approx(expected, abs=1e-5)
    assert serving.metrics.registry.get_sample_value("mlvlab_nonfinite_total") == 1
    assert len(serving.told["observe"]) == 30


class Gated(FakePredictor):
    """Answers once it is let."""

    def __init__(self, stage="predict"):
        self.gate, self.calls, self.stage = threading.Event(), [], stage

    def decode(self, data):
        if self.stage == "decode":
            self.calls.append("decode")
            self.gate.wait(10)
        return super().decode(data)

    def predict(self, images):
        self.calls.append(len(images))
        if self.stage == "predict":
            self.gate.wait(10)
        return super().predict(images)


@pytest.mark.parametrize("stage", ["decode", "predict"])
def test_a_deadline_that_passes_in_the_line_is_504_and_never_computed(stage):
    predictor = Gated(stage)
    serving = make_serving(predictor, batching={"num_decoders": 1, "max_size": 1})

    async def ask_all():
        first = asyncio.ensure_future(serving.ask_later("POST", "/v1/classify", content=shade(10), headers=PNG))
        while not predictor.calls:
            await asyncio.sleep(0.001)
        late = await serving.ask_later("POST", "/v1/classify", content=shade(20), headers=PNG | {"x-deadline-ms": "30"})
        predictor.gate.set()
        return await first, late

    first, late = run(ask_all())
    assert first.status_code == 200
    check_refusal(late, 504)
    assert predictor.calls.count(1) == 1
    assert serving.refused("deadline") == 1


def test_a_client_cannot_ask_for_more_than_the_servers_deadline():
    predictor = Gated()
    serving = make_serving(predictor, batching={"deadline_ms": 30.0})
    response = serving.ask("POST", "/v1/classify", content=shade(20), headers=PNG | {"x-deadline-ms": "999999"})
    predictor.gate.set()
    check_refusal(response, 504)


@pytest.mark.parametrize(("stage", "num_refused"), [("decode", 7), ("predict", 6)])
def test_a_full_queue_is_503_with_a_time_to_wait(stage, num_refused):
    predictor = Gated(stage)
    serving = make_serving(predictor, batching={"num_decoders": 1, "max_size": 1, "queue_size": 2})

    async def send():
        return await serving.ask_later("POST", "/v1/classify", content=shade(10), headers=PNG)

    async def ask_all():
        held = [asyncio.ensure_future(send())]
        while not predictor.calls:
            await asyncio.sleep(0.001)
        others = [asyncio.ensure_future(send()) for _ in range(8)]
        while serving.refused("queue_full") < num_refused:
            await asyncio.sleep(0.001)
        predictor.gate.set()
        return await asyncio.gather(*held, *others)

    replies = run(ask_all())
    refused = [each for each in replies if each.status_code != 200]
    assert len(refused) == num_refused
    for each in refused:
        check_refusal(each, 503)
        assert int(each.headers["retry-after"]) >= 1


@pytest.mark.parametrize("stage", ["body", "decode", "predict"])
def test_a_client_that_leaves_is_never_computed_for(stage):
    predictor = Gated(stage)
    serving = make_serving(predictor, batching={"num_decoders": 1, "max_size": 1})
    scope = {
        "type": "http", "method": "POST", "path": "/v1/classify", "raw_path": b"/v1/classify", "query_string": b"",
        "headers": [(b"content-type", b"image/png")], "http_version": "1.1", "scheme": "http", "root_path": "",
        "client": ("a", 1), "server": ("b", 2),
    }  # fmt: skip

    async def leave_early():
        gone, sent = asyncio.Event(), []
        messages = [{"type": "http.request", "body": shade(10), "more_body": stage == "body"}]

        async def receive():
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        busy = asyncio.ensure_future(serving.ask_later("POST", "/v1/classify", content=shade(10), headers=PNG))
        while not predictor.calls:
            await asyncio.sleep(0.001)
        left = asyncio.ensure_future(serving.app(dict(scope), receive, send))
        await asyncio.sleep(0.05)
        gone.set()
        await left
        assert sent[0]["status"] == 499
        predictor.gate.set()
        return await busy

    assert run(leave_early()).status_code == 200
    assert predictor.calls.count(1) == 1
    assert serving.refused("client_gone") == 1
    assert len(serving.told["observe"]) == 1


def test_a_connection_that_breaks_is_never_computed_for():
    predictor = Gated()
    serving = make_serving(predictor, batching={"max_size": 1})
    file = shade(10)
    request = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(
        file
    )
    with listening(serving) as port, socket.create_connection(("127.0.0.1", port)) as held:
        held.sendall(request + file)
        wait_for(lambda: predictor.calls)
        with socket.create_connection(("127.0.0.1", port)) as leaving:
            leaving.sendall(request + file)
            wait_for(lambda: serving.models.served.batcher.num_queued == 1)
        wait_for(lambda: serving.refused("client_gone") == 1)
        predictor.gate.set()
        assert held.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert predictor.calls == [1]


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
