"""What a person should do next."""

from collections.abc import Iterator
from html import escape

from mlvlab_jax.monitoring.findings import Findings, format_time
from mlvlab_jax.monitoring.history import History

#: Features of the pixels, and of what the model makes of them.
_STORED = {"height_px", "width_px", "aspect"}
_ANSWERS = {"confidence", "entropy", "prediction"}


def render_advice(findings: Findings, history: History) -> str:
    """An ordered list, or one sentence where there is nothing to do."""
    if findings.last is None:
        return "<p>Wait: the first window is written when it is full. Until then there is nothing to compare.</p>"
    if findings.state == "same":
        return f"<p>Nothing.{'' if history.live else f' {_ask_labels()}'}</p>"
    items = "".join(f"<li>{step}" for step in _list_steps(findings, history))
    return f"<ol>{items}</ol>"


def _list_steps(findings: Findings, history: History) -> Iterator[str]:
    if findings.state == "different":
        yield "Wait for the next windows: an alarm is raised if they differ too. One window may differ by chance."
    images = '<a href="#images">images least like training</a>'
    yield f"Look at the {images}: are these what the model is for?{_hint(findings)}"
    if findings.began is not None:
        start = format_time(findings.began.start)
        when = f"after {start}, when the first window that differed began"
        yield f"Find what changed {when}: cameras, light, the clients and how they scale and compress, users."
    if history.live is None:
        yield f"Find out whether the answers are still right. {_ask_labels()}"
    else:
        yield 'See whether the answers are still right: <a href="#accuracy">live accuracy</a> below.'
    model = escape(history.reference.model)
    yield (
        "If the change came with a new version of the model, go back: "
        f"<code>mlvlab registry rollback {model}@ALIAS</code>."
    )
    yield (
        "If the new images are here to stay, label some of them, train with them, and package the result: the new "
        "version brings a new reference, and the alarm ends when it takes over."
    )


def _hint(findings: Findings) -> str:
    """What the kind of change points to."""
    rejected = {result.feature for result in findings.shown.tests if result.rejected} if findings.shown else set()
    if not rejected:
        return ""
    if rejected & _STORED:
        return " Sizes changed, so a client or a camera sends other files."
    if rejected <= _ANSWERS | {"embedding"}:
        return " Only what the model makes of them differs, not light or sharpness: look for new kinds of objects."
    return ""


def _ask_labels() -> str:
    return (
        'Post true classes as they become known: <code>POST /v1/labels</code> with <code>{"request_id", "item", '
        '"label"}</code>; they become the live accuracy.'
    )
