"""Every route and method, and names that mean to be paths."""

import asyncio
import re
import sys
import threading
from urllib.parse import unquote

from tests.serving.fakes import (
    LEAKS,
    VERSION,
)

ASKED = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def test_every_reply_of_every_route_and_method_has_an_id_and_leaks_nothing(serving):
    paths = {route.path.format(name="shades", version=VERSION) for route in serving.app.routes}
    assert len(paths) == 14
    seen = set()
    for path in [*paths, "/nope", "/v1/classify/", "/docs", "/redoc", "/v2/models//infer"]:
        for method in ASKED:
            response = serving.ask(method, path)
            seen.add(response.status_code)
            assert response.headers["x-request-id"]
            assert not LEAKS.search(response.text), (method, path)
            if response.status_code == 405:
                assert response.headers["allow"]
    assert seen == {200, 400, 404, 405, 415}


def test_the_openapi_document_has_every_route_and_how_a_token_is_sent(serving):
    document = serving.ask("GET", "/openapi.json").json()
    routes = {(route.path, method.lower()) for route in serving.app.routes for method in route.methods}
    described = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert routes - described == {("/", "get"), ("/openapi.json", "get")}
    assert described <= routes
    assert document["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}
    assert document["security"] == [{"token": []}, {}]
    for path, method in described:
        operation = document["paths"][path][method]
        named = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path))
        assert {"401", "403"} <= operation["responses"].keys()


def vectors():
    """Names that mean a path elsewhere."""
    ups = [
        "../",
        "..\\",
        "..;/",
        "%2e%2e/",
        "%2e%2e%2f",
        "..%2f",
        "%252e%252e%252f",
        "..%5c",
        "%c0%ae%c0%ae/",
        "\uff0e\uff0e\uff0f",
    ]
    ends = ["etc/passwd", "", "manifest.json", "%00", "%00.json", "shades%00"]
    made = [up * depth + end for up in ups for depth in (1, 3) for end in ends]
    made += ["/etc/passwd", "//etc/passwd", "%2Fetc%2Fpasswd", "C:\\x", "file:%2F%2F%2Fetc%2Fpasswd", "\\\\host\\share"]
    made += [
        "~",
        "~root",
        "$HOME",
        "${PATH}",
        "$(id)",
        "`id`",
        ".",
        "..",
        "...",
        "%",
        "%zz",
        "%00",
        "shades%00x",
        "SHADES",
    ]
    made += [
        "\u0455hades",
        "shades\u202e",
        "shades ",
        " shades",
        "shades/",
        "/shades",
        "shades%0d%0aX: y",
        "shades;x",
        "shades%3f",
    ]
    made += ["a" * 5000, "%f0%9f%92%a9", "%ff%fe", "%ed%a0%80", "shades@production", "shades:1", "*", "sha*", "{name}"]
    made += [f"{quoted}shades" for quoted in ("./", ".%2f", "x/../", "x%2f..%2f", "%2e/", "%5c", "|", "<", "'", '"')]
    made += [f"%{k:02x}shades" for k in range(1, 33)]
    return made


def test_names_that_are_paths_are_unknown_and_open_nothing(serving):
    opened, watching = [], threading.Event()
    serving.ask("GET", "/v2/models/shades")
    assert len(vectors()) >= 200

    def watch(event, arguments):
        if watching.is_set() and event in ("open", "os.listdir", "os.scandir", "os.stat"):
            opened.append(arguments)

    sys.addaudithook(watch)
    for vector in vectors():
        for path in (
            f"/v2/models/{vector}",
            f"/v2/models/{vector}/infer",
            f"/v2/models/shades/versions/{vector}/ready",
        ):
            method = "POST" if path.endswith("infer") else "GET"
            response, found = asyncio.run(ask_raw(serving.app, method, path, watching))
            assert response in (400, 404, 405), (path, response)
            assert not LEAKS.search(found)
    assert opened == []


async def ask_raw(app, method, path, watching):
    """Status and body of a request for exactly this path, as a server passes it on."""
    raw, _, query = path.partition("?")
    scope = {
        "type": "http", "method": method, "path": unquote(raw), "raw_path": raw.encode("utf-8", "replace"),
        "query_string": query.encode("utf-8", "replace"), "headers": [], "http_version": "1.1", "scheme": "http",
        "root_path": "", "client": ("a", 1), "server": ("b", 2),
    }  # fmt: skip
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    watching.set()
    try:
        await app(scope, receive, send)
    finally:
        watching.clear()
    return sent[0]["status"], b"".join(each.get("body", b"") for each in sent).decode()
