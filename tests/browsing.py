"""A real browser, and a server that would notice if a page asked for something."""

import contextlib
import http.server
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason=f"none of {', '.join(BROWSERS)} on PATH: apt-get install chromium"
)


def browse(page, *options, profile):
    """What the browser says of the file, with a profile folder of its own."""
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking")
    command = [BROWSER, *quiet, f"--user-data-dir={profile}", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@contextlib.contextmanager
def listening():
    """Address of a server, and the paths it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


class Document(HTMLParser):
    """Tags of a document with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def sections_of(page):
    """Identifiers of a page's sections, in order."""
    return re.findall(r'<section id="(\w+)">', page)


def section(page, name):
    """What is in one of them."""
    return re.search(rf'<section id="{name}">(.*?)</section>', page, re.DOTALL)[1]


def text_of(html):
    """What a reader sees of it, on one line."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html)).strip()
