"""The model card: what is known of a model, for the person who is to use it, and nothing that is not known.

References:
    M. Mitchell et al., "Model Cards for Model Reporting", 2019 (the sections).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlvlab_jax import __version__
from mlvlab_jax.config.schema import Config
from mlvlab_jax.data.open import Data
from mlvlab_jax.data.profile import DataProfile
from mlvlab_jax.package.evidence import Evidence
from mlvlab_jax.package.manifest import Manifest
from mlvlab_jax.package.reference import Reference

_MAX_CLASSES, _MAX_WEAK, _MAX_SLICES = 20, 5, 10


def write_card(
    manifest: Manifest, config: Config, data: Data, evidence: Evidence, profile: DataProfile, reference: Reference
) -> str:
    """The card as Markdown; the same facts give the same text."""
    sections = {
        "Model Details": _details(manifest, config),
        "Intended Use": _use(manifest, data),
        "Factors": _factors(evidence.evaluation),
        "Metrics": _metrics(evidence.evaluation),
        "Evaluation Data": _evaluation_data(evidence),
        "Training Data": _training_data(manifest, data, profile),
        "Quantitative Analyses": _analyses(manifest, evidence.evaluation),
        "Ethical Considerations": ["None were assessed when this package was made."],
        "Caveats and Recommendations": _caveats(evidence, data, reference),
    }
    lines = [f"# {manifest.name}", ""]
    for title, body in sections.items():
        lines += [f"## {title}", *body, ""]
    return "\n".join(lines)


def _details(manifest: Manifest, config: Config) -> list[str]:
    git = manifest.run.git
    code = f"commit `{git['commit']}`{', with changes that are not committed' if git['dirty'] else ''}" if git else None
    average = config.training.ema_decay
    return [
        f"- Network: `{manifest.model.name}`, {manifest.model.num_params:,} parameters, arithmetic in "
        f"{config.training.precision}",
        f"- Weights: after {manifest.run.step:,} updates"
        + (f", moving average of decay {average:g}" if average is not None else "")
        + f"; saved {manifest.created}",
        *_describe_beginning(manifest.weights),
        f"- Made with mlvlab_jax {__version__}, {code or 'outside of a git repository'}",
        f"- Configuration: `config.json`, SHA-256 `{manifest.run.config_hash}`, seed {manifest.run.seed}",
        "- License, owner and contact: not stated",
    ]


def _describe_beginning(weights: dict[str, Any] | None) -> list[str]:
    if weights is None:
        return []
    if "soup" in weights:
        steps = [f"`{each['run']}` (step {each['step']})" for each in weights["soup"]]
        rest = {name: value for name, value in weights.items() if name != "soup"}
        return [f"- The mean of {len(steps)} runs: {', '.join(steps)}", *_describe_beginning(rest or None)]
    changed = f"; changed to fit: {'; '.join(weights['changed'])}" if weights["changed"] else ""
    new = "; the last layer was new" if weights["new"] else ""
    return [f"- Began with: `{weights['path']}` ({weights['format']}), SHA-256 `{weights['sha256']}`{changed}{new}"]


def _use(manifest: Manifest, data: Data) -> list[str]:
    height, width, channels = data.spec
    names = [_text(name) for name in data.class_names]
    shown = ", ".join(names[:_MAX_CLASSES]) + (f" and {len(names) - _MAX_CLASSES} more" * (len(names) > _MAX_CLASSES))
    preprocess = data.preprocess
    return [
        f"Tells which of {len(names)} classes an image shows: {shown} (`labels.json`). It always names one of them, "
        "also for an image that shows none. No other use was evaluated.",
        "",
        "```python",
        "from pathlib import Path",
        "from mlvlab_jax.package.load import load_package",
        f'package = load_package(Path("{manifest.name}"))',
        'print(package.predict_probabilities(package.preprocess_bytes(Path("image.png").read_bytes())[None]))',
        "```",
        "",
        f"An image file becomes {height} x {width} pixels of {channels} channel{'s' * (channels > 1)} (resize "
        f"`{preprocess.resize}`, filter `{preprocess.filter}`); files over {preprocess.max_pixels:,} pixels are "
        "refused. The network scales and normalises by itself (`preprocess.json`).",
    ]


def _factors(evaluation: Mapping[str, Any]) -> list[str]:
    rows = [
        [_text(column), _text(str(one["value"])), f"{one['count']:,}", _share(one["accuracy"], one["low"], one["high"])]
        for column, groups in evaluation.get("slices", {}).items()
        for one in sorted(groups, key=lambda group: group["accuracy"])[:_MAX_SLICES]
    ]
    if not rows:
        return ["No groups of images were told apart" + (" but the classes." if evaluation else ".")]
    return [
        f"The {_MAX_SLICES} weakest groups of each kind:",
        "",
        *_table(["kind", "group", "images", "accuracy"], rows),
    ]


def _metrics(evaluation: Mapping[str, Any]) -> list[str]:
    methods = sorted({one["method"] for one in evaluation.get("metrics", {}).values()})
    if not methods:
        return ["Values without intervals, as the run's own evaluation gave them."]
    return [f"Each with its 95 % confidence interval, by method: {', '.join(methods)}."]


def _evaluation_data(evidence: Evidence) -> list[str]:
    if evidence.split is None:
        return ["No evaluation came with this package; the values below are those of the run's summary, if any."]
    count = evidence.evaluation["num_examples"]
    return [f"Split `{evidence.split}`: {count:,} images, each measured once (`evaluation/`)."]


def _training_data(manifest: Manifest, data: Data, profile: DataProfile) -> list[str]:
    versions = [f"- DVC: {_text(str(one['path']))}, MD5 `{one['md5']}`" for one in manifest.data_version]
    counts = profile.labels.tolist()
    of = (
        f"{len(data.train):,} images"
        if profile.num_images == len(data.train)
        else (f"{len(data.train):,} images, of which {profile.num_images:,} drawn at random were profiled")
    )
    fewest, most = min(counts), max(counts)
    return [
        f"- {of}; {fewest:,} to {most:,} a class (`profile.json`)",
        *(f"- {_text(key)}: `{_text(str(value))}`" for key, value in manifest.data.items()),
        *versions,
    ]


def _analyses(manifest: Manifest, evaluation: Mapping[str, Any]) -> list[str]:
    measured = evaluation.get("metrics", {})
    split = f"{evaluation['split']}/" if evaluation else ""
    rows = []
    for name, value in manifest.metrics.items():
        one = measured.get(name.removeprefix(split)) if split and name.startswith(split) else None
        interval = f"{one['low']:.4f} to {one['high']:.4f}" if one else "not computed"
        rows.append([name, "not finite" if value is None else f"{value:.4f}", interval])
    lines = _table(["metric", "value", "95 % interval"], rows) if rows else ["Nothing was measured."]
    classes = [one for one in evaluation.get("per_class", []) if one["support"]]
    weak = sorted(classes, key=lambda one: one["recall"])[:_MAX_WEAK]
    if weak:
        lines += ["", f"The {len(weak)} classes with the lowest recall:", ""]
        body = [
            [
                _text(one["name"]),
                f"{one['support']:,}",
                _share(one["recall"], one["recall_low"], one["recall_high"]),
                f"{one['precision']:.3f}",
            ]
            for one in weak
        ]
        lines += _table(["class", "images", "recall", "precision"], body)
    return [*lines, "", *_calibration(evaluation.get("calibration"))]


def _calibration(calibration: Mapping[str, Any] | None) -> list[str]:
    if not calibration:
        return ["Calibration was not measured."]
    rows = [
        [name, *(f"{tree[key]:.4f}" for key in ("nll", "ece", "adaptive_ece", "brier"))]
        for name, tree in (("as trained", calibration["before"]), ("with temperature", calibration["after"]))
        if tree
    ]
    temperature = calibration["temperature"]
    fitted = (
        "no temperature was fitted"
        if temperature is None
        else (f"temperature {temperature:.4f}, fitted on {calibration['fitted_on']} (`calibration.json`)")
    )
    return [f"Calibration: {fitted}.", "", *_table(["", "NLL", "ECE", "adaptive ECE", "Brier"], rows)]


def _caveats(evidence: Evidence, data: Data, reference: Reference) -> list[str]:
    return [
        "- The values above hold for images like those of the evaluation data; compare new ones with `profile.json`.",
        f"- Monitoring compares production with {len(reference):,} images of split `{reference.split}`, of which the "
        "package holds measures, outputs and embeddings but no pixels (`reference.safetensors`).",
        *(["- No evaluation was made with intervals, by class or of calibration."] if evidence.split is None else []),
        *(["- There was no test split."] if "test" not in data.splits else []),
        "- `export/` is readable until the day in `export/export.json`; later the network is built from `config.json` "
        "and `model.safetensors`, which takes the mlvlab_jax above or one that reads its configurations.",
    ]


def _share(value: float, low: float, high: float) -> str:
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _text(words: str) -> str:
    """Words of others as plain text on one line, so that a class name cannot be markup."""
    printable = "".join(letter if letter.isprintable() else " " for letter in words)
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in printable)
