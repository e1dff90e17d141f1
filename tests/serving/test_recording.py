"""A real server that records, its probe, and the replay of what it recorded."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import numpy as np
from PIL import Image

from mlvlab_jax import shadow
from tests.conftest import ROOT

TOKEN = "a-secret-of-the-clients"
MARK = "a-header-of-the-clients"


def start(made, folder):
    """A server on a free port, and the port, once it is ready."""
    settings = {f"recording.folder={folder}", "recording.share=1.0", "batching.max_size=2", "compile_cache=false"}
    process = subprocess.Popen(
        [sys.executable, "-m", "mlvlab_jax.serve", "--package", made, "--port", "0", *settings],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"MLVLAB_SERVE_TOKEN": TOKEN},
    )
    text = ""
    while "ready after" not in text:
        line = process.stdout.readline()
        assert line, f"it ended: {text}"
        text += line
    return process, int(re.search(r"http://127\.0\.0\.1:(\d+)/", text)[1])


def classify(port, image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "image/png", "X-Mark": MARK}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/classify", data=file.getvalue(), headers=headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def probe(port, *, token):
    command = [sys.executable, "-m", "mlvlab_jax.serving.probe", "ready", "--port", str(port)]
    settings = os.environ | {"MLVLAB_SERVE_TOKEN": token}
    return subprocess.run(command, cwd=ROOT, env=settings, capture_output=True).returncode


def test_what_a_server_recorded_gives_the_same_answers_again(made, tmp_path):
    folder, out = tmp_path / "recorded", tmp_path / "report.json"
    process, port = start(made, folder)
    try:
        images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
        replies = [classify(port, image) for image in images]
        assert [probe(port, token=token) for token in (TOKEN, "another-that-is-wrong")] == [0, 1]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        process.stdout.close()
    assert shadow.main(["--recorded", str(folder), "--package", str(made), "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["num_answered"] == 4
    assert report["agreement"]["value"] == 1
    assert report["mean_distance"] < 1e-5
    assert {row["request_id"] for row in report["most_different"]} == {reply["request_id"] for reply in replies}
    kept = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"image/png" in kept
    assert not any(secret in kept for secret in (TOKEN.encode(), MARK.encode(), b"127.0.0.1"))
