"""A page to look at before training: examples as decoded and as augmented, with their labels."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from mlvlab_jax.pages import render_document, render_image, write_page

_STYLE = """
body { max-width: 1420px } p { color: var(--quiet); margin-bottom: 1rem }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(450px, 100%), 1fr)); gap: 1rem }
figure { padding: .6rem; border: 1px solid var(--line); border-radius: 8px }
figcaption { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; margin-bottom: .4rem }
figcaption b { color: var(--ink); margin-right: .5em }
.images { display: flex; gap: 6px; overflow-x: auto; padding: 2px }
img { width: 96px; height: 96px; object-fit: contain; background: var(--soft) }
img:first-child { margin-right: 10px; outline: 2px solid var(--blue) }
"""


def describe_label(label: np.ndarray, class_names: Sequence[str]) -> str:
    """Name of the class, or of all classes of an example that may have several.

    Args:
        label: int (), or uint8 (k).
        class_names: All k.
    """
    if label.ndim == 0:
        return class_names[int(label)]
    return ", ".join(class_names[k] for k in label.nonzero()[0].tolist()) or "none"


def write_examples(
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
        f'<figure><figcaption><b>{escape(label)}</b><span title="{escape(name)}">{escape(name)}</span></figcaption>'
        f'<div class="images">{"".join(map(render_image, versions))}</div></figure>'
        for versions, label, name in zip(images, labels, names, strict=True)
    )
    body = f'<h1>{escape(title)}</h1>\n<p>{escape(summary)}</p>\n<div class="examples">\n{figures}\n</div>'
    write_page(path, render_document(body, title=title, style=_STYLE))
