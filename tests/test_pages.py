import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from mlvlab_jax.pages import make_thumbnail, render_document, render_image, write_page


@pytest.mark.parametrize(
    ("shape", "size", "mode"),
    [
        ((300, 400, 3), (128, 96), "RGB"),
        ((8, 6, 1), (6, 8), "L"),
        ((8, 8, 2), (8, 8), "L"),
        ((9, 9, 4), (9, 9), "RGB"),
    ],
)
def test_a_thumbnail_is_at_most_128_pixels_and_has_the_image_s_colours(shape, size, mode):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image = Image.open(io.BytesIO(make_thumbnail(pixels)))
    assert (image.size, image.mode) == (size, mode)
    if max(shape[:2]) < 128:
        kept = pixels[..., :3] if mode == "RGB" else pixels[..., 0]
        np.testing.assert_array_equal(np.asarray(image), kept)


def test_small_images_keep_sharp_pixels_and_alternative_text_is_escaped():
    small, large = (render_image(np.zeros((side, 40, 1), np.uint8), alt='a "b"') for side in (95, 96))
    assert 'class="pixels"' in small
    assert "class" not in large
    assert 'alt="a &quot;b&quot;"' in small
    png = base64.b64decode(re.search(r'base64,([^"]+)"', small)[1])
    assert Image.open(io.BytesIO(png)).size == (40, 95)


def test_a_page_escapes_its_title_and_replaces_what_is_not_text(tmp_path):
    write_page(tmp_path / "a.html", render_document("<p>\udc80</p>", title="</title><b>", style="p { color: red }"))
    page = (tmp_path / "a.html").read_text("utf-8")
    assert "<title>&lt;/title&gt;&lt;b&gt;</title>" in page
    assert "<p>?</p>" in page
    assert "p { color: red }</style>" in page
    assert page.startswith("<!doctype html>\n")
