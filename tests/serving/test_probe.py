import ast
import http.server
import subprocess
import sys
import threading

import pytest

from mlvlab_jax.config.serving import ServingConfig
from mlvlab_jax.serving import probe
from tests.conftest import ROOT


@pytest.fixture
def server():
    """Live, not ready, and asks for a token."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            admitted = self.headers["Authorization"] == "Bearer a-token"
            self.send_response({"/v2/health/live": 200, "/v2/health/ready": 503}[self.path] if admitted else 401)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("which", "token", "code"), [("live", "a-token", 0), ("ready", "a-token", 1), ("live", "other", 1), ("live", "", 1)]
)
def test_a_probe_says_what_the_server_says(server, monkeypatch, which, token, code):
    monkeypatch.setenv("MLVLAB_SERVE_TOKEN", token)
    assert probe.main([which, "--port", str(server.server_port)]) == code


def test_a_probe_fails_where_nothing_listens(server, capsys):
    port = server.server_port
    server.shutdown()
    server.server_close()
    assert probe.main(["live", "--port", str(port)]) == 1
    assert "no answer" in capsys.readouterr().err


def test_a_probe_asks_the_servers_usual_port(monkeypatch):
    asked = []

    class Connection:
        def __init__(self, host, port, timeout):
            asked.append((host, port))
            raise SystemExit

    monkeypatch.setattr(probe.http.client, "HTTPConnection", Connection)
    with pytest.raises(SystemExit):
        probe.main(["live"])
    assert asked == [("127.0.0.1", ServingConfig().port)]


def test_a_probe_imports_the_standard_library_alone():
    code = "import sys; from mlvlab_jax.serving import probe; print({n.partition('.')[0] for n in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    ours = {name for name in ast.literal_eval(done.stdout) if name not in sys.stdlib_module_names}
    assert "mlvlab_jax" in ours
    assert ours.isdisjoint({"numpy", "jax", "pydantic", "fastapi", "PIL"})
