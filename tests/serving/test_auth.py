import asyncio
import base64
import json

import httpx
import pytest

from mlvlab_jax.config.serving import ServingConfig
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.serving.auth import VARIABLE, Token, check_exposure, is_loopback, read_token
from mlvlab_jax.serving.guard import Guard
from mlvlab_jax.serving.metrics import ServingMetrics
from mlvlab_jax.serving.page import PAGE
from tests.serving.running import echo

SECRET = "correct-horse-battery-staple"
TOKEN = Token(SECRET)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
PATHS = (
    "/",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/redoc",
    "/admin",
    "/v1/classify",
    "/v1/labels",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/digits",
    "/v2/models/digits/infer",
    "/v2/models/digits/versions/1.0.0/infer",
    "/../etc/passwd",
    "/%2e%2e/",
    "//",
)


class Ready:
    ready, draining = True, False


def basic(name, password):
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def ask(method, path, *, headers=(), token=TOKEN, models=Ready, content=None):
    metrics = ServingMetrics()
    guarded = Guard(echo(models), ServingConfig(), token=token, metrics=metrics, models=models)

    async def send():
        transport = httpx.ASGITransport(guarded)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.request(method, path, headers=list(headers), content=content)

    reply = asyncio.run(send())
    reply.refused = metrics.registry.get_sample_value("mlvlab_refused_total", {"reason": "unauthorized"})
    return reply


def check_refused(reply, method="GET"):
    assert reply.status_code == 401
    assert reply.headers.get_list("www-authenticate") == ["Bearer"]
    assert reply.refused == 1
    if method != "HEAD":
        assert reply.json() == {"error": "a token is needed", "request_id": reply.headers["x-request-id"]}


@pytest.mark.parametrize("path", PATHS)
def test_every_path_and_method_answers_401_without_the_token(path):
    for method in METHODS:
        check_refused(ask(method, path), method)


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer wrong", f"Bearer {SECRET}x", f"Token {SECRET}", SECRET, "Basic !!", basic("x", "wrong")],
)
def test_a_wrong_token_is_none_and_is_not_repeated(given):
    reply = ask("GET", "/metrics", headers=[("authorization", given)])
    check_refused(reply)
    assert SECRET not in reply.text


def test_a_person_without_the_token_is_asked_for_it_by_the_page_or_the_browser():
    browser = [("accept", "text/html,application/xhtml+xml,*/*;q=0.8")]
    page = ask("GET", "/", headers=browser)
    assert (page.status_code, page.content, page.refused) == (401, PAGE, 1)
    assert page.headers.get_list("www-authenticate") == ["Bearer"]
    for method, path in (("GET", "/metrics"), ("GET", "/v2"), ("POST", "/v1/classify")):
        reply = ask(method, path, headers=browser)
        assert reply.headers.get_list("www-authenticate") == ["Bearer", 'Basic realm="mlvlab", charset="UTF-8"']
        assert (reply.status_code, reply.refused) == (401, 1)


@pytest.mark.parametrize("given", [f"Bearer {SECRET}", f"bearer  {SECRET}", basic("anyone", SECRET), basic("", SECRET)])
def test_the_token_opens_as_bearer_and_as_the_password_of_any_name(given):
    for method in METHODS:
        assert ask(method, "/metrics", headers=[("authorization", given)]).status_code == 200


def test_two_authorizations_are_refused_even_if_one_is_right():
    headers = [("authorization", f"Bearer {SECRET}"), ("authorization", "Bearer wrong")]
    assert ask("GET", "/", headers=headers).status_code == 401


def test_without_a_token_anyone_may_ask():
    assert ask("GET", "/metrics", token=None).status_code == 200


def test_a_page_of_another_site_cannot_make_a_browser_post():
    given = [("authorization", basic("x", SECRET))]
    other = [*given, ("sec-fetch-site", "cross-site")]
    assert ask("POST", "/v1/labels", headers=other, content=b"{}").status_code == 403
    assert (
        ask("POST", "/v1/labels", headers=[*given, ("sec-fetch-site", "same-origin")], content=b"{}").status_code == 200
    )
    assert ask("GET", "/", headers=other).status_code == 200


def test_while_no_version_answers_only_health_metrics_and_the_page_do():
    class Loading:
        ready, draining = False, False

    reply = ask("POST", "/v1/classify", token=None, models=Loading, content=b"abc")
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    for path in ("/", "/metrics", "/openapi.json", "/v2/health/live"):
        assert ask("GET", path, token=None, models=Loading).status_code == 200
    assert ask("GET", "/v2/health/ready", token=None, models=Loading).status_code == 503


def test_while_stopping_each_answer_closes_its_connection():
    class Stopping:
        ready, draining = False, True

    for method, path in (("GET", "/v2/health/live"), ("POST", "/v1/classify")):
        reply = ask(method, path, token=None, models=Stopping, content=b"abc")
        assert reply.headers.get_list("connection") == ["close"]


def test_an_error_of_the_application_is_answered_with_fixed_text(caplog):
    async def broken(scope, receive, send):
        raise ValueError("/secret/path 0xdeadbeef")

    guarded = Guard(broken, ServingConfig(), token=None, metrics=ServingMetrics(), models=Ready)

    async def send():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guarded), base_url="http://server") as client:
            return await client.get("/")

    reply = asyncio.run(send())
    assert (reply.status_code, reply.json()["error"]) == (500, "internal error")
    assert "/secret/path" in caplog.text


def write(path, text, mode=0o600):
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_read_token_takes_the_file_without_its_line_end(tmp_path):
    token = read_token(write(tmp_path / "token", f" {SECRET}\n"), environment={})
    assert token.admits([f"Bearer {SECRET}".encode()])
    assert not token.admits([b"Bearer " + SECRET[:-1].encode()])
    assert not token.admits([])


def test_read_token_takes_the_environment_and_leaves_nothing_there(tmp_path):
    environment = {VARIABLE: SECRET}
    assert read_token(None, environment=environment).admits([f"Bearer {SECRET}".encode()])
    assert environment == {}
    assert read_token(None, environment={}) is None


def test_read_token_prefers_the_file(tmp_path):
    environment = {VARIABLE: "another-token-of-enough-length"}
    token = read_token(write(tmp_path / "token", SECRET), environment=environment)
    assert token.admits([f"Bearer {SECRET}".encode()])
    assert environment == {}


@pytest.mark.parametrize(
    "text", ["", "zqzq", "a" * 15, "a" * 5000, "spaces within the token", "tökentökentökentöken", "a" * 16 + "\nb"]
)
def test_a_token_that_is_short_or_not_plain_is_refused_without_showing_it(tmp_path, text):
    for file, environment in ((write(tmp_path / "token", text), {}), (None, {VARIABLE: text})):
        with pytest.raises(ConfigError) as caught:
            read_token(file, environment=environment)
        assert "16 or more" in str(caught.value)
        if text:
            assert text not in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_a_token_file_that_others_can_open_is_refused(tmp_path, mode):
    with pytest.raises(ConfigError, match=f"mode {mode:04o}.*chmod 600"):
        read_token(write(tmp_path / "token", SECRET, mode), environment={})


def test_a_missing_token_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere: No such file"):
        read_token(str(tmp_path / "nowhere"), environment={})


def test_a_token_shows_nothing_of_itself():
    assert SECRET not in repr(TOKEN)
    assert SECRET not in json.dumps(TOKEN.__dict__, default=repr)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_a_loopback_address_needs_no_token(host):
    check_exposure(host, token=None, insecure=False)
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "2001:db8::1"])
def test_any_other_address_needs_a_token_or_the_word(host):
    with pytest.raises(ConfigError, match="--insecure") as caught:
        check_exposure(host, token=None, insecure=False)
    assert caught.value.path == "host"
    check_exposure(host, token=TOKEN, insecure=False)
    check_exposure(host, token=None, insecure=True)


def test_a_host_that_is_no_address_is_named():
    with pytest.raises(ConfigError, match="no such address"):
        check_exposure("256.1.1.1.invalid", token=None, insecure=False)
