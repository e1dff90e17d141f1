"""Run folders made by hand."""

import itertools
import json

import numpy as np
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

#: Of a page of a run with everything there is, in order.
SECTIONS = [
    "facts",
    "curves",
    "metrics",
    "confusion",
    "classes",
    "calibration",
    "slices",
    "mistakes",
    "configuration",
    "versions",
    "reproduce",
]

MANIFEST = {
    "config_hash": "b361bfa9b04fe2dc" * 4,
    "seed": 0,
    "data": {"origin": "digits", "train": "67" * 32, "test": "5f" * 32},
    "data_version": [],
    "sessions": [
        {
            "started": "2026-11-23T04:25:14+00:00",
            "command": ["train.py", "--config", "my configs/a.yaml", "--workdir", "/runs/a", "seed=0"],
            "versions": {"mlvlab_jax": "0.1.0", "jax": "0.12.0", "clu": None},
            "python": "3.13.0",
            "machine": "x86_64",
            "devices": ["gpu:0 H100", "gpu:1 H100"],
            "num_processes": 1,
            "git": {"commit": "1ab6e4620d024d1c1ee252b57376c832c8a10920", "dirty": True},
        }
    ],
}

#: The one line of goodput.jsonl.
ATTEMPT = {
    "started": "2026-11-23T04:25:10+00:00",
    "first_step": 0,
    "step": 120,
    "seconds": {"setup": 1.0, "compile": 2.0, "train": 6.0, "input": 0.5, "evaluate": 0.5},
    "ended": "finished",
}


def make_evaluation(class_names, *, num_examples=300, seed=0):
    """evaluation.json of guesses that are mostly right and too sure of themselves; label 0 is the hardest."""
    rng = np.random.default_rng(seed)
    k = len(class_names)
    label = np.arange(num_examples) % k
    wrong = rng.random(num_examples) < np.where(label == 0, 0.4, 0.08)
    prediction = np.where(wrong, (label + 1 + rng.integers(0, min(k - 1, 3), num_examples)) % k, label)
    confidence = np.clip(rng.beta(8, 1, num_examples) * np.where(wrong, 0.8, 1.0), 1 / k, 0.999)
    confusion = confusion_matrix(label, prediction, labels=range(k))
    precision, recall, f1, support = precision_recall_fscore_support(
        label, prediction, labels=range(k), zero_division=0.0
    )
    mistakes = np.flatnonzero(wrong)[np.argsort(-confidence[wrong])][:24]
    calibration = measure_calibration(confidence, ~wrong)
    return {
        "schema": 1,
        "step": 119,
        "checkpoint": "best",
        "split": "test",
        "num_examples": num_examples,
        "class_names": list(class_names),
        "config_hash": MANIFEST["config_hash"],
        "data": MANIFEST["data"],
        "data_version": [],
        "metrics": {
            "accuracy": {"value": float((~wrong).mean()), "low": 0.83, "high": 0.93, "method": "wilson"},
            "loss": {"value": 0.41, "low": 0.33, "high": 0.49, "method": "bootstrap"},
        },
        "per_class": [
            {
                "name": name,
                "support": int(support[c]),
                "predicted": int((prediction == c).sum()),
                "precision": float(precision[c]),
                "recall": float(recall[c]),
                "f1": float(f1[c]),
                "recall_low": max(0.0, float(recall[c]) - 0.1),
                "recall_high": min(1.0, float(recall[c]) + 0.05),
            }
            for c, name in enumerate(class_names)
        ],
        "confusion": confusion.tolist(),
        "calibration": {
            "temperature": 1.372,
            "fitted_on": "validation",
            "before": calibration,
            "after": {**calibration, "ece": 0.0123},
        },
        "slices": {
            "brightness": [
                {"value": "dark", "count": 100, "accuracy": 0.82, "low": 0.74, "high": 0.88},
                {"value": "bright", "count": 200, "accuracy": 0.93, "low": 0.89, "high": 0.96},
            ]
        },
        "mistakes": [
            {
                "id": f"digits/{i}.png",
                "index": int(i),
                "label": int(label[i]),
                "prediction": int(prediction[i]),
                "confidence": float(confidence[i]),
            }
            for i in mistakes
        ],
    }


def measure_calibration(confidence, right):
    edges = np.linspace(0, 1, 16)
    bins = []
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        count = int(inside.sum())
        mean = [float(values[inside].mean()) if count else 0.0 for values in (confidence, right)]
        bins.append({"low": low, "high": high, "count": count, "confidence": mean[0], "accuracy": mean[1]})
    ece = sum(b["count"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / len(right)
    return {"nll": 0.41, "ece": ece, "adaptive_ece": ece, "brier": 0.17, "bins": bins}


def write_run(
    folder, *, class_names=tuple("0123456789"), records=None, manifest=MANIFEST, attempts=(ATTEMPT,), thumbnails=True
):
    """A finished run of 120 steps with everything there is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("model: {name: cnn, params: {}}\ndata: {name: digits}\n")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "summary.json").write_text(
        json.dumps(
            {
                "ended": "finished",
                "steps": 120,
                "num_params": 260682,
                "num_bad_examples": 0,
                "best": {"step": 119, "validation/accuracy": 0.97, "test/accuracy": 0.91},
                "verdict": "Compiling took 20 % of a short run (10 s).",
            }
        )
    )
    (folder / "goodput.jsonl").write_text("".join(json.dumps(attempt) + "\n" for attempt in attempts))
    records = make_records() if records is None else records
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    evaluation = make_evaluation(class_names)
    split = folder / "evaluation" / "test"
    (split / "mistakes").mkdir(parents=True)
    (split / "evaluation.json").write_text(json.dumps(evaluation))
    if thumbnails:
        for each in evaluation["mistakes"]:
            image = np.full((8, 8), each["index"] % 256, np.uint8)
            Image.fromarray(image).save(split / "mistakes" / f"{each['index']}.png")
    return folder


def make_records():
    for step in range(10, 121, 10):
        yield {
            "step": step,
            "train/loss": 2.3 * 0.98**step,
            "train/accuracy": 1 - 0.9 * 0.97**step,
            "train/grad_norm": 3.0,
            "train/learning_rate": 1e-3 * (1 - step / 120),
            "images_per_second": 2900.0,
            "input_wait": 0.05,
            "step_ms_p50": 21.5,
            "mfu": 0.38,
        }
        if step % 40 == 0:
            yield {"step": step, "validation/loss": 2.5 * 0.98**step, "validation/accuracy": 0.9}
