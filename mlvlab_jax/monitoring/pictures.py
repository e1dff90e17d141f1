"""The images of a window that are least like the reference."""

from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from mlvlab_jax.monitoring.history import History, ImageRecord, WindowRecord
from mlvlab_jax.pages import render_image
from mlvlab_jax.report.axis import format_number, format_percent

#: A network's input is smaller; what is larger was not written by the monitor.
_MAX_PIXELS = 4096 * 4096


def render_pictures(window: WindowRecord, history: History) -> str:
    """The kept images in the order of the file, with what was predicted and how surely."""
    if not window.images:
        return "<p>None were kept: images are kept of windows that differ.</p>"
    figures = "".join(_render_picture(image, history) for image in window.images)
    return f'<div class="mistakes">{figures}</div>'


def _render_picture(image: ImageRecord, history: History) -> str:
    name = history.reference.class_names[image.prediction]
    request = f"{image.request_id} / {image.item}"
    picture = _show(history.folder / image.file, name)
    return (
        f'<figure title="{escape(request)}">{picture}<figcaption><b>{escape(name)}</b><br>'
        f"{format_percent(image.confidence)} sure<br>distance {format_number(image.distance)}<br>"
        f'<span class="id">{escape(request)}</span></figcaption></figure>'
    )


def _show(path: Path, name: str) -> str:
    if not path.is_file():
        return '<div class="none">no image kept</div>'
    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.width * image.height > _MAX_PIXELS:
                return '<div class="none">too large</div>'
            pixels = np.asarray(image.convert("L" if image.mode == "L" else "RGB"))
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for a damaged PNG
        return '<div class="none">unreadable</div>'
    return render_image(pixels if pixels.ndim == 3 else pixels[..., None], alt=f"an image taken for {name}")
