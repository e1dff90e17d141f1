"""What the windows of the served version say, in words."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import numpy as np

from mlvlab_jax.errors import ConfigError
from mlvlab_jax.monitoring.history import Histogram, History, ResultRecord, WindowRecord
from mlvlab_jax.report.axis import format_percent

#: Chance that an image of the window has the larger value of a pair, less than which off one half is no direction.
_DIRECTED = 0.05
_MAX_CLASSES = 2
_LONG_NAMES = {
    "height_px": "the height of the stored images",
    "width_px": "the width of the stored images",
    "aspect": "the shape (width over height) of the stored images",
    "confidence": "the model's confidence",
    "entropy": "the entropy of the answers",
}
_STATES = Literal["waiting", "same", "different", "alarm"]


class Findings(NamedTuple):
    """state: of the last window, `waiting` before the first one. since: first window of the alarm, or None. began: the
    first of the windows in a row that differed before the alarm. shown: the window to look at. changes: what differs in
    it from the reference, plain text, the largest first.
    """

    state: _STATES
    since: WindowRecord | None
    began: WindowRecord | None
    last: WindowRecord | None
    shown: WindowRecord | None
    changes: tuple[str, ...]


def find_changes(history: History, *, number: int | None = None) -> Findings:
    """What the windows of the served version say.

    Args:
        history: A monitoring folder.
        number: Window to look at; if None the last one, or, while an alarm stands, the last one that differed.

    Raises:
        ConfigError: There is no such window of the served version.
    """
    windows = [window for window in history.windows if history.comparable(window)]
    if number is not None and number not in (window.window for window in windows):
        there = f"there are {windows[0].window} to {windows[-1].window}" if windows else "no window is complete yet"
        raise ConfigError(
            f"no window {number} of version {history.reference.version}; {there}; choose another --window"
        )
    if not windows:
        return Findings("waiting", None, None, None, None, ())
    last = windows[-1]
    alarmed = list(itertools.takewhile(lambda window: window.alarm, reversed(windows)))
    shown = next((window for window in alarmed if window.rejected), last)
    if number is not None:
        shown = next(window for window in windows if window.window == number)
    state: _STATES = "alarm" if last.alarm else "different" if last.rejected else "same"
    before = itertools.takewhile(lambda window: window.rejected, reversed(windows[: len(windows) - len(alarmed)]))
    since, began = (alarmed[-1], [alarmed[-1], *before][-1]) if alarmed else (None, None)
    return Findings(state, since, began, last, shown, _list_changes(shown, history))


def rank_features(window: WindowRecord) -> list[str]:
    """Features that were tested: those that differ, the one furthest above its floor first, then the others."""
    excess: dict[str, float] = {}
    for result in window.tests:
        found = compute_excess(result) if result.rejected else 0.0
        excess[result.feature] = max(excess.get(result.feature, 0.0), found)
    return sorted(excess, key=lambda feature: excess[feature], reverse=True)


def compute_excess(result: ResultRecord) -> float:
    """The effect in multiples of its floor; of a floor of zero the effect itself."""
    return result.effect / result.floor if result.floor > 0 else result.effect


def _list_changes(window: WindowRecord, history: History) -> tuple[str, ...]:
    rejected = {result.feature for result in window.tests if result.rejected}
    ranked = [feature for feature in rank_features(window) if feature in rejected]
    # The embedding and the moments of channels mostly say again, in words that mean less to a person, what others say.
    ranked.sort(key=lambda feature: 2 if _channel_moment(feature) else feature == "embedding")
    return tuple(describe_change(feature, window, history) for feature in ranked)


def describe_change(feature: str, window: WindowRecord, history: History) -> str:
    """As in: brightness is lower than at training (median 81, at training 128); plain text."""
    reference = history.reference
    if feature == "prediction":
        return _describe_classes(window.prediction, reference.prediction, reference.class_names)
    if feature == "embedding":
        return "the images are others than at training, as the network sees them (embedding)"
    name = name_feature(feature)
    if feature not in window.features:
        return f"{name} differs from training"
    then, counts = reference.features[feature], window.features[feature]
    chance = compare_counts(counts, then.counts)
    if abs(chance - 0.5) < _DIRECTED:
        return f"{name} is spread differently than at training"
    direction = "higher" if chance > 0.5 else "lower"
    now = Histogram(edges=then.edges, counts=counts)
    return f"{name} is {direction} than at training (median {_tell_median(now)}, at training {_tell_median(then)})"


def name_feature(feature: str) -> str:
    """What a feature is called in a sentence."""
    return _channel_moment(feature) or _LONG_NAMES.get(feature, feature)


def _channel_moment(feature: str) -> str | None:
    kind, _, channel = feature.partition("_")
    if kind in ("mean", "std") and channel.isdecimal():
        return f"the {'mean' if kind == 'mean' else 'spread'} of channel {channel}"
    return None


def _describe_classes(counts: Sequence[int], reference: Sequence[int], class_names: Sequence[str]) -> str:
    now, then = compute_shares(counts), compute_shares(reference)
    order = np.argsort(-np.abs(now - then), kind="stable")[:_MAX_CLASSES].tolist()
    told = [
        f"{class_names[k]} {format_percent(float(now[k]))}, at training {format_percent(float(then[k]))}" for k in order
    ]
    return f"the predicted classes are distributed differently ({'; '.join(told)})"


def compute_shares(counts: Sequence[int]) -> np.ndarray:
    """Counts (m) over their sum, float64; zeros if there are none."""
    values = np.array(counts, np.float64)
    return values / max(float(values.sum()), 1.0)


def compare_counts(counts: Sequence[int], others: Sequence[int]) -> float:
    """Chance that a value of the first histogram is in a higher bin than one of the second, ties half, in [0, 1].

    References:
        H. B. Mann, D. R. Whitney, "On a test of whether one of two random variables is stochastically larger than the
        other", 1947.
    """
    first, second = compute_shares(counts), compute_shares(others)
    return float(first @ (np.cumsum(second) - second / 2))


def _tell_median(histogram: Histogram) -> str:
    """The outer bins also hold what lies beyond them, so a median in one of them is only known to be there."""
    median, edges = compute_median(histogram), histogram.edges
    if len(edges) > 2 and median < edges[1]:
        return f"below {edges[1]:.3g}"
    if len(edges) > 2 and median > edges[-2]:
        return f"above {edges[-2]:.3g}"
    return f"{median:.3g}"


def compute_median(histogram: Histogram) -> float:
    """The value half of the counts lie below, linear in its bin; NaN of no counts."""
    counts = np.array(histogram.counts, np.float64)
    if not counts.sum():
        return float("nan")
    reached = np.cumsum(counts)
    at = int(np.searchsorted(reached, counts.sum() / 2))
    low, high = histogram.edges[at], histogram.edges[at + 1]
    inside = (counts.sum() / 2 - (reached[at] - counts[at])) / counts[at]
    return low + (high - low) * float(inside)


def format_time(time: datetime) -> str:
    """2026-11-23 07:32 UTC; a time without a zone is taken for UTC."""
    zoned = time if time.tzinfo else time.replace(tzinfo=UTC)
    return f"{zoned.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def tell_state(findings: Findings, history: History) -> str:
    """The headline, plain text: what is the matter, and since when."""
    reference, last, since = history.reference, findings.last, findings.since
    if last is None:
        return f"No window of version {reference.version} is complete yet: nothing can be said."
    at = f"window {last.window} ({format_time(last.end)})"
    if since is not None:
        gone = "" if last.rejected else f"; {at} agrees with training again, and the alarm ends if the next ones do"
        return f"Alarm since window {since.window} ({format_time(since.end)}){gone}"
    if findings.state == "different":
        return f"Different from training in {at}, no alarm yet"
    return f"Like training up to {at}: no test finds a difference that matters"
