import asyncio
import contextlib
import gzip
import resource
import socket
import threading
import time

import httpx
import pytest

from mlvlab_jax.config.serving import LimitsConfig, ServingConfig
from mlvlab_jax.serving.limits import Bodies, BodyError, ClientGoneError, has_body
from tests.serving.running import connected, echo, exchange, read_all, running, status_of

MIB = 2**20
LIMITS = {"max_body_mib": 1.0, "max_header_kib": 8.0, "header_timeout_s": 0.4, "body_timeout_s": 0.4}


@pytest.fixture(scope="module", autouse=True)
def _short_farewell():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlvlab_jax.serving.limits.LINGER_S", 0.2)
        patch.setattr("mlvlab_jax.serving.connection.LINGER_S", 0.2)
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    config = ServingConfig(port=0, limits=LimitsConfig(**LIMITS, max_connections=400))
    with running(echo, config, folder=tmp_path_factory.mktemp("source")) as server:
        yield server


def url(server, path="/v1/classify"):
    return f"http://{server.address[0]}:{server.address[1]}{path}"


def refused(server, reason):
    return server.metrics.registry.get_sample_value("mlvlab_refused_total", {"reason": reason})


def test_a_body_at_the_limit_is_taken_and_one_byte_more_is_not(server):
    assert httpx.post(url(server), content=b"a" * MIB).json()["length"] == MIB
    before = refused(server, "too_large")
    reply = httpx.post(url(server), content=b"a" * (MIB + 1))
    assert (reply.status_code, reply.json()["error"]) == (413, "the body is too large")
    assert reply.json()["request_id"] == reply.headers["x-request-id"]
    assert refused(server, "too_large") == before + 1


def test_bodies_that_were_answered_leave_room_for_others(server):
    with httpx.Client() as client:
        assert {client.post(url(server), content=b"a" * MIB).status_code for _ in range(12)} == {200}


def test_a_body_over_the_limit_is_refused_before_it_is_sent(server):
    began = time.monotonic()
    with connected(server) as client:
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n")
        assert status_of(client.recv(2**16)) == 413
    assert time.monotonic() - began < 0.4


def test_a_body_of_unstated_length_is_counted_while_it_comes(server):
    reply = httpx.post(url(server), content=(b"a" * 2**16 for _ in range(200)))
    assert reply.status_code == 413
    assert httpx.post(url(server), content=(b"a" * 2**16 for _ in range(16))).json()["length"] == MIB


def test_ten_times_the_limit_costs_no_more_memory_than_twice_it(server):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pieces = (b"a" * 2**16 for _ in range(160))
    assert httpx.post(url(server), content=pieces).status_code == 413
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before <= 2 * 1024  # KiB


def test_a_body_that_never_comes_is_given_up(server):
    before = refused(server, "too_slow")
    began = time.monotonic()
    reply = exchange(server, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nabc")
    assert status_of(reply) == 408
    assert 0.3 < time.monotonic() - began < 5
    assert refused(server, "too_slow") == before + 1


def test_a_body_that_drips_is_given_up(server):
    with connected(server) as client:
        client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10000\r\n\r\n")
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 5:
                client.sendall(b"a")
                time.sleep(0.05)
        assert 0.3 < time.monotonic() - began < 3


def test_a_stated_length_below_the_true_one_leaves_no_second_answer_of_the_body(server):
    reply = exchange(server, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n" + b"a" * 100)
    assert reply.startswith(b"HTTP/1.1 200") or status_of(reply) == 400
    assert reply.count(b'"length": 2') <= 1
    assert b"connection: close" in reply
    assert b'"length": 100' not in reply


def test_a_million_tiny_pieces_end_within_a_second(server):
    body = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + b"6\r\naaaaaa\r\n" * 1_000_000
    before = refused(server, "too_large")
    began = time.monotonic()
    assert status_of(exchange(server, body)) == 413
    assert time.monotonic() - began < 1.5
    assert refused(server, "too_large") == before + 1


def test_headers_after_the_body_are_bounded_too(server):
    body = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nt: "
    assert status_of(exchange(server, body + b"x" * 10 * MIB)) == 431


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"deflate, gzip"])
def test_a_compressed_body_is_not_unpacked(server, encoding):
    bomb = gzip.compress(b"\0" * 10 * MIB)
    reply = httpx.post(url(server), content=bomb, headers={"content-encoding": encoding.decode()})
    assert reply.status_code == 415


def test_two_lengths_or_a_length_and_pieces_are_refused(server):
    for head in (
        b"content-length: 3\r\ncontent-length: 4",
        b"content-length: 3\r\ntransfer-encoding: chunked",
        b"content-length: -1",
        b"content-length: 99999999999999999999999",
    ):
        reply = exchange(server, b"POST / HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n\r\nabc")
        assert status_of(reply) == 400, head


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nx: " + b"a" * 9000,
        b"GET /" + b"a" * 9000,
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 2000,
        b"GET / HTTP/1.1\r\nx: " + b"a" * 5 * MIB,
    ],
)
def test_long_headers_are_refused(server, head):
    reply = exchange(server, head)
    assert status_of(reply) == 431
    assert b'"error": "the headers are too long"' in reply


def test_headers_just_below_the_limit_are_taken(server):
    head = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: "
    assert status_of(exchange(server, head + b"a" * (8 * 1024 - len(head) - 4) + b"\r\n\r\n")) == 200


def test_a_large_read_that_holds_headers_and_body_is_no_long_header(server):
    with connected(server) as client:
        client.sendall(
            b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 300000\r\n\r\n" + b"a" * 300000
        )
        assert b'"length": 300000' in read_all(client)


@pytest.mark.parametrize("start", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: x\r\n", b"\r\n"])
def test_a_client_that_does_not_finish_its_headers_is_closed(server, start):
    began = time.monotonic()
    reply = exchange(server, start)
    assert 0.3 < time.monotonic() - began < 3
    assert status_of(reply) == (408 if start else None)


def test_headers_that_drip_are_given_up(server):
    with connected(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 5:
                client.sendall(b"x: y\r\n")
                time.sleep(0.05)
        assert 0.3 < time.monotonic() - began < 3


def test_an_idle_connection_is_closed_after_its_answer(server):
    with connected(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        began = time.monotonic()
        assert read_all(client).endswith(b'{"length": 0, "path": "/"}')
        assert 0.3 < time.monotonic() - began < 3


def test_a_client_that_does_not_read_its_answer_is_cut_off(tmp_path):
    async def app(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(1000):
                await send({"type": "http.response.body", "body": b"a" * 2**16, "more_body": True})

    config = ServingConfig(port=0, limits=LimitsConfig(**LIMITS))
    with running(lambda models: app, config, folder=tmp_path) as server, connected(server) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        deadline = time.monotonic() + 5
        while server.metrics.registry.get_sample_value("mlvlab_connections") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.metrics.registry.get_sample_value("mlvlab_connections") == 0


def test_requests_sent_ahead_are_answered_in_order_and_bounded(server):
    ahead = b"".join(b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n" % k for k in range(10))
    with connected(server) as client:
        client.sendall(ahead)
        text = b""
        while text.count(b'"path"') < 10:
            text += client.recv(2**16)
    assert [text.index(b'"/%d"' % k) for k in range(10)] == sorted(text.index(b'"/%d"' % k) for k in range(10))
    assert exchange(server, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 1000).count(b"HTTP/1.1 200") <= 17


@pytest.mark.parametrize(
    "request_line",
    [
        b"garbage",
        b"GET",
        b"\x00\x01\x02",
        b"GET / HTTP/9.9",
        b"CONNECT x:1 HTTP/1.1",
        b"GET \xff HTTP/1.1",
    ],
)
def test_what_is_not_http_gets_400_with_a_request_id_and_nothing_else(server, request_line):
    reply = exchange(server, request_line + b"\r\n\r\n")
    assert status_of(reply) == 400
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b"x-request-id: " in head
    assert b"server:" not in head.lower()
    assert b"uvicorn" not in reply.lower()
    assert body.startswith(b'{"error": ')


def idle(server, stack, num):
    return [stack.enter_context(connected(server)) for _ in range(num)]


def test_idle_connections_are_closed_and_do_not_slow_the_others(server):
    with contextlib.ExitStack() as stack:
        clients = idle(server, stack, 200)
        began = time.monotonic()
        slowest = 0.0
        while time.monotonic() - began < 0.3:
            asked = time.monotonic()
            assert (
                status_of(exchange(server, b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
                == 200
            )
            slowest = max(slowest, time.monotonic() - asked)
        assert slowest < 1.0
        assert all(client.recv(1) == b"" for client in clients)
        assert time.monotonic() - began < 5


def test_one_connection_too_many_is_closed_and_room_comes_back(server):
    with contextlib.ExitStack() as stack:
        idle(server, stack, 400)
        with connected(server) as client:
            assert read_all(client) == b""
    deadline = time.monotonic() + 5
    while server.metrics.registry.get_sample_value("mlvlab_connections") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert httpx.get(url(server)).status_code == 200


@pytest.mark.slow
def test_a_thousand_idle_connections_at_the_shipped_limits(tmp_path):
    with running(echo, folder=tmp_path) as server, contextlib.ExitStack() as stack:
        clients = idle(server, stack, 1000)
        began, times = time.monotonic(), []
        with httpx.Client() as client:
            while time.monotonic() - began < 4:
                asked = time.monotonic()
                assert client.get(url(server, "/v2/health/live")).status_code == 200
                times.append(time.monotonic() - asked)
                time.sleep(0.01)
        assert all(client.recv(1) == b"" for client in clients)
        print(f"closed after {time.monotonic() - began:.1f} s; health {max(times) * 1e3:.1f} ms at most")
        assert time.monotonic() - began <= 10
        assert sorted(times)[int(0.99 * len(times))] <= 0.1


def read(bodies, headers, messages):
    given = iter(messages)

    async def receive():
        return next(given)

    return asyncio.run(bodies.read(headers, receive))


def part(data, more=True):
    return {"type": "http.request", "body": data, "more_body": more}


def test_bodies_are_bounded_together_and_give_their_room_back():
    bodies = Bodies(LimitsConfig(max_body_mib=1.0))
    held = [read(bodies, [], [part(b"a" * MIB, False)]) for _ in range(8)]
    with pytest.raises(BodyError) as caught:
        read(bodies, [(b"content-length", b"1")], [part(b"a", False)])
    assert (caught.value.status, caught.value.reason) == (503, "queue_full")
    bodies.release(held.pop())
    for _ in range(20):  # what fails gives back what it had
        with pytest.raises(ClientGoneError):
            read(bodies, [], [part(b"a" * 1000), {"type": "http.disconnect"}])
        with pytest.raises(BodyError):
            read(bodies, [], [part(b"a" * MIB), part(b"a")])
    assert read(bodies, [], [part(b"a" * (MIB - 1)), part(b"b", False)]) == b"a" * (MIB - 1) + b"b"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], False),
        ([(b"content-length", b"0")], False),
        ([(b"content-length", b"10")], True),
        ([(b"transfer-encoding", b"chunked")], True),
    ],
)
def test_has_body_is_true_where_one_follows(headers, expected):
    assert has_body(headers) is expected


def test_many_slow_clients_leave_a_quick_one_its_answer(server):
    def drip():
        with contextlib.suppress(OSError), connected(server) as client:
            client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n")
            for _ in range(20):
                client.sendall(b"a")
                time.sleep(0.02)

    threads = [threading.Thread(target=drip) for _ in range(30)]
    for thread in threads:
        thread.start()
    assert httpx.post(url(server), content=b"abc").json()["length"] == 3
    for thread in threads:
        thread.join()
