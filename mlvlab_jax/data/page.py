"""A page to look at before training: examples as decoded and as augmented, with their labels."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mlvlab_jax.files import write_atomic

_MIN_SHOWN_PX = 96
_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1420px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin: 0 0 .3rem; }
p { margin: 0 0 1rem; opacity: .8; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(450px, 1fr)); gap: 1rem; }
figure { margin: 0; padding: .6rem; border: 1px solid var(--line); border-radius: 8px; }
figcaption { font-size: .85rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; margin-bottom: .4rem; }
figcaption b { margin-right: .5em; }
.images { display: flex; gap: 6px; }
.images img { width: 96px; height: 96px; object-fit: contain; image-rendering: pixelated; background: #8882; }
.images img:first-child { margin-right: 10px; outline: 2px solid #4a90d9; }
"""


def write_page(
    path: Path, images: np.ndarray, *, labels: Sequence[str], names: Sequence[str], title: str, summary: str
) -> None:
    """Writes one self-contained HTML file.

    Args:
        path: Of the file.
        images: uint8 (n, v, h, w, c): for each example the decoded image, then its augmented versions.
        labels: Class name of each example.
        names: What each example is called.
        title: Heading.
        summary: One paragraph below it.
    """
    figures = "\n".join(
        f'<figure><figcaption><b>{html.escape(label)}</b><span title="{html.escape(name)}">{html.escape(name)}</span>'
        f'</figcaption><div class="images">{"".join(_image_tag(image) for image in versions)}</div></figure>'
        for versions, label, name in zip(images, labels, names, strict=True)
    )
    page = (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>\n'
        f"<h1>{html.escape(title)}</h1>\n<p>{html.escape(summary)}</p>\n"
        f'<div class="examples">\n{figures}\n</div></html>\n'
    )
    write_atomic(path, page.encode("utf-8", "replace"))


def _image_tag(pixels: np.ndarray) -> str:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    factor = max(1, -(-_MIN_SHOWN_PX // max(image.size)))
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    data = io.BytesIO()
    image.save(data, "PNG")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">'
