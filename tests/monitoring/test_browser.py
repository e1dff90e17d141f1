"""The drift page, as a real browser has it."""

import functools

import numpy as np
import pytest
from PIL import Image

from mlvlab_jax.monitoring.page import write_drift_page
from tests import browsing
from tests.browsing import Document, listening, needs_browser
from tests.monitoring.folders import SECTIONS, make_reference, make_windows, write_folder


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    return functools.partial(browsing.browse, profile=tmp_path_factory.mktemp("profile"))


@needs_browser
def test_the_page_opens_and_hostile_names_run_and_ask_for_nothing(tmp_path, browse):
    with listening() as (address, asked):
        attack = f"<img src={address}/a onerror=\"document.title='owned'\"><script src={address}/b></script></title>"
        names = tuple(f"{attack}{k}" for k in range(10))
        windows = make_windows(2, 2)
        for window in windows:
            window["tests"][0]["feature"] = attack
        folder = write_folder(tmp_path, windows=windows, reference=make_reference(class_names=names))
        page = write_drift_page(folder)
        document = Document(browse(page, "--dump-dom"))
        assert [each["id"] for each in document.all("section")] == SECTIONS
        assert document.all("script") == document.all("link") == []
        images = [each["src"] for each in document.all("img")]
        assert len(images) == 12
        assert all(source.startswith("data:image/png;base64,") for source in images)
        # What escaping would miss the policy stops.
        page.write_text(page.read_text().replace("<main>", f"<main>{attack}<iframe src='{address}/c'></iframe>"))
        assert "owned" not in browse(page, "--dump-dom").split("</title>")[0]
        assert asked == []


@needs_browser
@pytest.mark.parametrize(
    ("mode", "size", "paper"), [("light", (1280, 1600), (255, 255, 255)), ("dark", (500, 1600), (20, 24, 30))]
)
def test_it_is_drawn_light_and_dark_wide_and_narrow(tmp_path, browse, mode, size, paper):
    path = write_drift_page(write_folder(tmp_path))
    shot = tmp_path / "page.png"
    dark = ("--blink-settings=preferredColorScheme=0",) if mode == "dark" else ()
    browse(path, *dark, f"--window-size={size[0]},{size[1]}", f"--screenshot={shot}")
    image = Image.open(shot).convert("RGB")
    assert image.getpixel((2, 2)) == paper
    # Nothing is wider than the page: the right edge stays paper from top to bottom.
    assert (np.asarray(image)[:, -4:] == paper).all()
    alarm = {"light": (179, 38, 30), "dark": (255, 138, 128)}[mode]
    assert sum(number for number, colour in image.getcolors(2**20) if colour == alarm) > 500
