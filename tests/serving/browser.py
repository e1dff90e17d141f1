"""Chromium as a test drives it: by the DevTools protocol, over a pair of pipes."""

import base64
import contextlib
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import time

import pytest
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason=f"none of {', '.join(BROWSERS)} on PATH: apt install chromium"
)
_FIRST_FREE = 10
_TIMEOUT_S = 30.0


class Browser:
    """One page; `requests` are the addresses it asked for, `errors` what it complained about."""

    def __init__(self, process, reading, writing):
        self._process, self._reading, self._writing = process, reading, writing
        self._received, self._next, self._session = b"", 0, None
        self.requests, self.errors = [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Result of a command."""
        self._next += 1
        message = {"id": self._next, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._read()
            if reply.get("id") == self._next:
                assert "error" not in reply, (method, reply["error"])
                return reply["result"]

    def _read(self):
        deadline = time.monotonic() + _TIMEOUT_S
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._reading], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self._reading, 1 << 20)
            assert part, "the browser ended"
            self._received += part
        text, _, self._received = self._received.partition(b"\0")
        message = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event, values):
        if event == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif event == "Log.entryAdded" and values["entry"]["source"] != "network":
            self.errors.append(values["entry"]["text"])
        elif event == "Runtime.exceptionThrown":
            self.errors.append(values["exceptionDetails"]["text"])

    def open(self, address):
        """Loads a page."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, expression):
        """Value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, expression):
        """Returns once the expression is true, with its value."""
        deadline = time.monotonic() + _TIMEOUT_S
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < deadline, (expression, self.evaluate("document.body.innerText"))
            time.sleep(0.02)
        return value

    def press(self, *keys):
        """Presses keys, one after the other: Tab, Enter, or a character."""
        codes = {"Tab": 9, "Enter": 13}
        for key in keys:
            text = {"Enter": "\r", "Tab": ""}.get(key, key)
            code = codes.get(key, 0)
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, windowsVirtualKeyCode=code)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def choose(self, selector, *files):
        """Gives files to a file input, as its dialog would."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def drop(self, selector, *files):
        """Drops files from outside on the middle of an element."""
        x, y = self.evaluate(
            f"(r => [r.x + r.width / 2, r.y + r.height / 2])(document.querySelector({selector!r}).getBoundingClientRect())"
        )
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def look(self, *, width=900, height=900, dark=False):
        """What is seen on a screen of this size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        png = base64.b64decode(self.call("Page.captureScreenshot")["data"])
        return Image.open(io.BytesIO(png)).convert("RGB")


@contextlib.contextmanager
def browsing(profile):
    """A browser with a profile folder of its own."""
    theirs_in, writing = os.pipe()
    reading, theirs_out = os.pipe()
    # Above the numbers they get in the browser, 3 and 4.
    given = [fcntl.fcntl(end, fcntl.F_DUPFD, _FIRST_FREE) for end in (theirs_in, theirs_out)]
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking")
    options = [*quiet, "--no-first-run", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    shell = f'exec "$0" "$@" 3<&{given[0]} 4>&{given[1]}'
    process = subprocess.Popen(
        ["bash", "-c", shell, BROWSER, *options], pass_fds=given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for end in (theirs_in, theirs_out, *given):
        os.close(end)
    try:
        yield Browser(process, reading, writing)
    finally:
        process.kill()
        process.wait()
        os.close(reading)
        os.close(writing)
