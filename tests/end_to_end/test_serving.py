"""The README's way from a folder of images to an alarm, as written there."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

SECTION = re.compile(r"^## Serve it and watch it\n(.*?)^## ", re.MULTILINE | re.DOTALL)
READY = "until curl -sf localhost:{port}/v2/health/ready > ready.json; do sleep 0.2; kill -0 $!; done"
#: A window that is full is judged off the request path.
JUDGED = "until [ $(wc -l < watch/windows.jsonl) -ge {num} ]; do sleep 0.2; kill -0 $!; done"


def fenced(text, kind=""):
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for name, block in blocks if name == kind]


def make_photos(folder):
    """Six classes of noisy coloured squares, 600 to train on and 1,000 that come later."""
    rng = np.random.default_rng(0)
    colours = rng.integers(60, 200, (6, 3))
    for k in range(1600):
        side = int(rng.integers(48, 80))
        pixels = colours[k % 6] * rng.uniform(0.8, 1.2) + rng.normal(0, 25, (side, side, 3))
        name = f"photos/class{k % 6}/{k}.jpg" if k < 600 else f"new/{k:04}.jpg"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
    shutil.copyfile(folder / "new/0600.jpg", folder / "new/0000.jpg")


def read_script(readme, *, port):
    """The commands of the section, one after the other, with what a person does between them: waiting."""
    (section,) = SECTION.findall(readme)
    commands = [line[2:] for block in fenced(section) for line in block.splitlines() if line.startswith("$ ")]
    script, num_windows = ["set -e"], 0
    for command in commands:
        command = command.replace(".venv/bin/", f"{Path(sys.executable).parent}/").replace(":8000", f":{port}")
        if command.endswith("&"):
            command = command[:-1] + f"--port {port} > serve.log 2>&1 &\n" + READY.format(port=port)
        script.append(command)
        if command.startswith("for "):
            num_windows += 2
            script.append(JUDGED.format(num=num_windows))
    return "\n".join([*script, "kill -TERM %1; wait %1"])


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on PATH: apt-get install curl")
def test_the_way_from_images_to_an_alarm(tmp_path):
    readme = (ROOT / "README.md").read_text()
    make_photos(tmp_path)
    (tmp_path / "photos.yaml").write_text(next(text for text in fenced(readme, "yaml") if "photos.yaml" in text))
    (tmp_path / "dim.py").write_text(next(text for text in fenced(readme, "python") if "dim.py" in text))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = read_script(readme, port=port)
    assert all(f" {word} " in script for word in ("train", "package", "register", "promote", "serve", "report"))
    process = subprocess.Popen(
        ["bash", "-m", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "XLA_FLAGS": "", "COLUMNS": "120"},
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=280)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    log = tmp_path / "serve.log"
    assert process.returncode == 0, out + (log.read_text() if log.exists() else "")
    assert re.findall(r"^mlvlab_drift_alarm (\S+)$", out, re.MULTILINE) == ["0.0", "1.0"]
    assert re.search(r"^Alarm since window [34] ", out, re.MULTILINE)
    assert "brightness is lower than at training" in out
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 1001
    assert {answer["version"] for answer in answers} == {"1.0.0"}
    page = (tmp_path / "drift.html").read_text()
    assert "Alarm since window" in page
    assert page.count("data:image/png;base64,") > 0
