"""HTML pages: one style, images inside the page, nothing fetched from elsewhere; static ones have no script."""

import base64
import hashlib
import io
import struct
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from mlvlab_jax.files import write_atomic

#: Longest side of an embedded image, and side of the box it is shown in, in pixels.
_EMBEDDED_PX, _SHOWN_PX = 128, 96
_PNG_SIDES_AT = 16
#: A browser that obeys it runs no script and asks nobody for anything, whatever the data puts into the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
#: Blue and orange stay apart for every kind of colour vision, in both modes.
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --paper: #fff; --soft: #f3f5f8; --line: #dbe1e8; --quiet: #5b6878;
  --blue: #0b6bb0; --orange: #bf4e00; --error: #b3261e; --warning: #8a5a00; --good: #1b7a43 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9f0; --paper: #14181e; --soft: #1d232b; --line: #343d49;
  --quiet: #9aa7b8; --blue: #63b3e8; --orange: #f2a35e; --error: #ff8a80; --warning: #f0b95a; --good: #6fd39a } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 72rem;
  margin: 2rem auto; padding: 0 1.5rem; overflow-wrap: break-word }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 } h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem }
h3 { font-size: 1rem; margin: 0 } * + h3 { margin-top: 1.2rem }
p { margin: .3rem 0 } .quiet, figcaption { color: var(--quiet); font-size: .85rem } figure { margin: 0 }
table { border-collapse: collapse } td, th { text-align: left; padding: .35rem .8rem .35rem 0;
  border-bottom: 1px solid var(--line); vertical-align: top; font-variant-numeric: tabular-nums }
.error { color: var(--error); font-weight: 600 } .warning { color: var(--warning); font-weight: 600 }
.good { color: var(--good); font-weight: 600 } .pixels { image-rendering: pixelated }
svg { width: 100%; height: auto; display: block } svg text { fill: var(--quiet); font: 11px system-ui, sans-serif }
svg line { stroke: var(--line) }
"""


def render_document(body: str, *, title: str, style: str = "", script: str = "") -> str:
    """A whole page around `body`.

    Args:
        body: HTML; whatever came from data must be escaped in it already.
        title: Plain text.
        style: CSS rules after the common ones.
        script: The one script that runs, for a page that is served: it may ask its own server, and show what it is
            given as images.
    """
    policy = _allow_script(script) if script else _POLICY
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{_STYLE}{style}</style>"
    )
    last = f"<script>{script}</script>\n" if script else ""
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n{last}</body></html>\n'


def _allow_script(script: str) -> str:
    """The policy of a page with this script and no other."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"{_POLICY} blob:; script-src 'sha256-{digest}'; connect-src 'self'; base-uri 'none'; form-action 'none'"


def write_page(path: Path, page: str) -> None:
    """Writes the page, whole or not at all; what is not text (a file name of stray bytes) is replaced by '?'."""
    write_atomic(path, page.encode("utf-8", "replace"))


def render_image(pixels: np.ndarray, *, alt: str = "") -> str:
    """An <img> with the pixels in its address; a large image is reduced, a small one keeps sharp pixels.

    Args:
        pixels: As of `make_thumbnail`.
        alt: What a screen reader says; nothing where a caption says it already.
    """
    return render_thumbnail(make_thumbnail(pixels), alt=alt)


def make_thumbnail(pixels: np.ndarray) -> bytes:
    """A PNG file of at most 128 x 128 pixels.

    Args:
        pixels: uint8 (h, w, c); one channel is grey, channels above three are left out.
    """
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] < 3 else pixels[..., :3])
    image.thumbnail((_EMBEDDED_PX, _EMBEDDED_PX))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def render_thumbnail(png: bytes, *, alt: str = "") -> str:
    """An <img> with the bytes of a PNG file in its address; a small image keeps sharp pixels."""
    sides = struct.unpack_from(">II", png, _PNG_SIDES_AT)
    kind = ' class="pixels"' if max(sides) < _SHOWN_PX else ""
    return f'<img alt="{escape(alt)}"{kind} src="data:image/png;base64,{base64.b64encode(png).decode()}">'
