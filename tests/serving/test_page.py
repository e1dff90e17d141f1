"""The page at /, as a real browser has it."""

import json
import re
import threading

import numpy as np
import pytest
from PIL import Image

from mlvlab_jax.serving.auth import Token
from mlvlab_jax.serving.page import PAGE
from tests.serving.browser import browsing, needs_browser
from tests.serving.fakes import NAMES, VERSION, FakePredictor, close_all, listening, make_serving, shade

pytestmark = needs_browser
ROWS = "[...document.querySelectorAll('#classes li')]"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def files(tmp_path):
    for name, value in (("dark.png", 5), ("light.jpg", 180), ("tiny.bmp", 100)):
        kind = {"png": "PNG", "jpg": "JPEG", "bmp": "BMP"}[name[-3:]]
        (tmp_path / name).write_bytes(shade(value, kind, (8, 8) if name == "tiny.bmp" else (200, 120)))
    (tmp_path / "page.html").write_text("<html>")
    (tmp_path / "broken.png").write_bytes(shade(5)[:40])
    return tmp_path


@pytest.fixture
def served(browser):
    """A function that serves and opens the page."""
    browser.requests.clear()
    browser.errors.clear()
    opened = []

    def serve(serving, **options):
        opened.append(context := listening(serving, **options))
        port = context.__enter__()
        browser.open(f"http://127.0.0.1:{port}/")
        return f"http://127.0.0.1:{port}/"

    yield serve
    browser.open("about:blank#done")
    for context in opened:
        context.__exit__(None, None, None)
    close_all()


def read_rows(browser):
    return browser.evaluate(f"{ROWS}.map(row => [...row.children].slice(0, 2).map(each => each.textContent))")


def test_a_dropped_picture_is_shown_with_its_classes(browser, served, files):
    serving = make_serving()
    address = served(serving)
    browser.drop("#drop", files / "light.jpg")
    assert browser.wait(f"{ROWS}.length") == 4
    expected = FakePredictor().predict(np.full((1, 4, 4, 3), 180, np.uint8)).probabilities[0]
    order = np.argsort(-expected)
    assert [name for name, _ in read_rows(browser)] == [NAMES[k] for k in order]  # one of them is HTML
    shown = [100 * expected[k] for k in order]
    assert [text for _, text in read_rows(browser)][:2] == [f"{percent:.1f} %" for percent in shown[:2]]
    assert [text for _, text in read_rows(browser)][2:] == ["< 0.1 %"] * 2
    widths = browser.evaluate(f"{ROWS}.map(row => row.querySelector('i').offsetWidth / row.offsetWidth)")
    assert widths == pytest.approx([percent / 100 for percent in shown], abs=0.01)
    browser.wait("document.querySelector('#picture').naturalWidth === 200")
    assert re.fullmatch(f"shades, version {VERSION}: answered in \\d+ ms", browser.evaluate("$('facts').textContent"))
    assert browser.evaluate("$('trouble').textContent") == ""
    asked = {request for request in browser.requests if not request.startswith(f"blob:{address}")}
    assert asked == {address, f"{address}v2/health/ready", f"{address}v1/classify"}
    assert browser.errors == []
    assert [kind for _, kind, _, _ in serving.told["record"]] == ["image/jpeg"]


def test_a_chosen_picture_takes_the_place_of_the_one_before(browser, served, files):
    served(make_serving())
    browser.choose("#file", files / "light.jpg")
    browser.wait(f"{ROWS}.length")
    browser.choose("#file", files / "tiny.bmp")
    browser.wait(f"{ROWS}[0].textContent.startsWith('grey')")
    browser.wait("document.querySelector('#picture.small') !== null")
    assert len(read_rows(browser)) == 4


def test_what_cannot_be_answered_is_said_in_words(browser, served, files):
    served(make_serving())
    for file, text in (
        ("page.html", "Send the bytes of an image file as the body"),
        ("broken.png", "The image file is damaged or ends early."),
    ):
        browser.drop("#drop", files / file)
        browser.wait(f"$('trouble').textContent.startsWith({json.dumps(text)})")
        assert read_rows(browser) == []
        assert browser.evaluate("$('picture').hidden")
        assert browser.evaluate("$('facts').textContent").startswith("request ")
    browser.drop("#drop", files / "light.jpg")
    browser.wait(f"{ROWS}.length")
    assert browser.evaluate("$('trouble').textContent") == ""


def test_a_server_that_is_not_ready_or_gone_is_named(browser, served, files):
    serving = make_serving()
    serving.models.ready = False
    served(serving)
    browser.wait("$('trouble').textContent === 'The server is not ready yet.'")
    browser.choose("#file", files / "light.jpg")
    browser.wait("$('trouble').textContent === 'Not ready yet. Try again in 1 s.'")
    browser.evaluate("window.fetch = () => Promise.reject(new TypeError('gone'))")
    browser.choose("#file", files / "dark.png")
    browser.wait("$('trouble').textContent.startsWith('The server does not answer.')")


def test_a_slow_answer_to_an_older_picture_is_not_shown(browser, served, files):
    gate = threading.Event()

    class Slow(FakePredictor):
        def decode(self, data):
            if data.startswith(b"\x89PNG"):
                gate.wait(10)
            return super().decode(data)

    serving = make_serving(Slow(), batching={"deadline_ms": 60_000.0})
    served(serving)
    browser.choose("#file", files / "dark.png")
    browser.wait("document.querySelector('.waiting') !== null")
    browser.evaluate(
        "classify = (ask => async () => { await ask(); window.ended = (window.ended ?? 0) + 1; })(classify)"
    )
    browser.choose("#file", files / "light.jpg")
    browser.wait(f"window.ended === 1 && {ROWS}[0]?.textContent.startsWith('light')")
    browser.evaluate("before = performance.getEntriesByType('resource').length")
    gate.set()
    browser.wait("performance.getEntriesByType('resource').length > before")  # the older answer is there
    browser.evaluate("new Promise(resolve => setTimeout(resolve, 50))")
    assert read_rows(browser)[0][0] == "light"
    assert len(serving.told["observe"]) == 2


def test_a_token_is_asked_for_and_used(browser, served, files):
    serving = make_serving()
    served(serving, token=Token("correct-horse-battery"))
    browser.wait("!$('key').hidden")
    browser.choose("#file", files / "light.jpg")
    browser.wait("$('trouble').textContent === 'The server does not take this token.'")
    assert browser.evaluate("document.activeElement.id") == "token"
    browser.press(*"wrong", "Enter")
    browser.wait("token === 'wrong' && $('trouble').textContent === 'The server does not take this token.'")
    browser.press(*"correct-horse-battery", "Enter")
    assert browser.wait(f"{ROWS}.length") == 4
    assert browser.evaluate("$('key').hidden")
    assert browser.evaluate("$('trouble').textContent") == ""
    assert len(serving.told["observe"]) == 1


def test_the_keyboard_reaches_everything_and_is_seen(browser, served, files):
    served(make_serving())
    seen = []
    for _ in range(3):
        browser.press("Tab")
        outline = "getComputedStyle(document.activeElement.closest('#drop') ?? document.activeElement).outlineWidth"
        seen.append(
            (browser.evaluate("document.activeElement.id || document.activeElement.href"), browser.evaluate(outline))
        )
    assert [name.rpartition("/")[2] for name, _ in seen] == ["file", "openapi.json", "metrics"]
    assert {width for _, width in seen} == {"3px"}


@pytest.mark.parametrize(("width", "height"), [(320, 640), (1400, 900)])
@pytest.mark.parametrize(("dark", "paper"), [(False, (255, 255, 255)), (True, (20, 24, 30))])
def test_it_is_drawn_on_any_screen_light_and_dark(browser, served, files, width, height, dark, paper):
    class LongNames(FakePredictor):
        class_names = tuple(f"{'a-very-long-name_' * 8}{k}" for k in range(4))

    served(make_serving(LongNames()))
    browser.choose("#file", files / "light.jpg")
    browser.wait(f"{ROWS}.length && $('picture').naturalWidth")
    image = browser.look(width=width, height=height, dark=dark)
    assert image.getpixel((2, 2)) == paper
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert len(image.quantize(64, method=Image.Quantize.FASTOCTREE).getcolors()) > 8


def test_the_policy_runs_no_other_script_and_asks_nobody_else(browser, served):
    address = served(make_serving())
    browser.evaluate(
        "(script => { script.textContent = 'document.title = \"owned\"'; document.body.append(script) })"
        "(document.createElement('script'))"
    )
    assert browser.evaluate("document.title") == "Which class is it?"
    elsewhere = address.replace("127.0.0.1", "localhost")
    assert browser.evaluate(f"fetch({elsewhere!r}).then(() => 'reached', () => 'refused')") == "refused"
    assert browser.errors  # each is told to the console


def test_the_document_is_whole_and_names_no_other_place(browser):
    assert b"http:" not in PAGE
    assert b"https:" not in PAGE
    assert b"//" not in PAGE.replace(b"/metrics", b"")
