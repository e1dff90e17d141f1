"""Monitoring folders made by hand."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
from PIL import Image

#: Of a page with everything there is, in order.
SECTIONS = ["windows", "next", "features", "tests", "classes", "accuracy", "images", "facts"]

CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
START = datetime(2026, 11, 20, 8, tzinfo=UTC)
_EDGES = {
    "brightness": np.linspace(0, 255, 18),
    "contrast": np.linspace(0, 128, 17),
    "sharpness": 2.0 ** np.arange(0, 17),
    "mean_0": np.linspace(0, 1, 16),
    "std_0": np.linspace(0, 0.5, 16),
    "height_px": np.array([27.5, 28.5]),
    "width_px": np.array([27.5, 28.5]),
    "aspect": np.array([0.9, 1.1]),
    "confidence": np.linspace(0, 1, 21),
    "entropy": np.linspace(0, 2.3, 21),
}
NUM_REFERENCE, NUM = 2000, 500


def draw_values(rng, num, *, dark=1.0):
    """Values by feature of so many images; `dark` scales their brightness."""
    brightness = np.clip(rng.normal(120, 35, num), 5, 250) * dark
    confidence = 1 - np.clip(rng.exponential(0.1 / dark, num), 0, 0.9)
    return {
        "brightness": brightness,
        "contrast": np.clip(rng.normal(60, 15, num) * dark, 0, 127),
        "sharpness": np.clip(rng.lognormal(6.5, 1, num) * dark**2, 1, 60000),
        "mean_0": brightness / 255,
        "std_0": np.clip(rng.normal(0.25, 0.06, num) * dark, 0, 0.5),
        "height_px": np.full(num, 28.0),
        "width_px": np.full(num, 28.0),
        "aspect": np.full(num, 1.0),
        "confidence": confidence,
        "entropy": np.clip((1 - confidence) * 2.2, 0, 2.3),
    }


def count_values(values):
    return {
        name: np.histogram(np.clip(each, _EDGES[name][0], _EDGES[name][-1]), _EDGES[name])[0].tolist()
        for name, each in values.items()
    }


def make_reference(*, version="8f3a11c09b2e", class_names=CLASS_NAMES):
    rng = np.random.default_rng(0)
    counts = count_values(draw_values(rng, NUM_REFERENCE))
    k = len(class_names)
    return {
        "schema": 1,
        "model": "fashion",
        "version": version,
        "package_sha256": "8f3a11c09b2e" + "ab" * 26,
        "class_names": list(class_names),
        "features": {name: {"edges": _EDGES[name].tolist(), "counts": counts[name]} for name in counts},
        "prediction": np.bincount(np.arange(NUM_REFERENCE) % k, minlength=k).tolist(),
        "num": NUM_REFERENCE,
    }


def make_window(number, *, dark=1.0, alarm=False, version="8f3a11c09b2e", class_names=CLASS_NAMES, num_images=0):
    """A window whose images are `dark` times as bright as at training; it differs if that is below 0.9."""
    rng = np.random.default_rng(number + 1)
    k, differs = len(class_names), dark < 0.9
    shares = np.full(k, 1.0)
    shares[-1] *= 1 + 4 * (1 - dark)
    changed = {
        "brightness": 5.0,
        "contrast": 4.0,
        "mean_0": 5.0,
        "std_0": 4.0,
        "sharpness": 2.0,
        "confidence": 1.6,
        "entropy": 1.6,
    }
    tests = [
        {
            "test": "kolmogorov_smirnov",
            "feature": feature,
            "p_value": float(10.0 ** -(25 * (1 - dark) * changed.get(feature, 0.0)) * rng.uniform(0.2, 1)),
            "effect": float((1 - dark) * changed.get(feature, 0.0) * 0.3 + rng.uniform(0.01, 0.06)),
            "floor": 0.1,
            "rejected": differs and changed.get(feature, 0.0) > 1.5,
        }
        for feature in _EDGES
    ]
    tests.append(
        {"test": "chi_square", "feature": "prediction", "p_value": 3e-9 if differs else 0.31}
        | {"effect": 0.31 if differs else 0.04, "floor": 0.1, "rejected": differs}
    )
    tests += [
        {"test": test, "feature": "embedding", "p_value": 0.001 if differs else 0.42}
        | {"effect": 0.4 if differs else 0.02, "floor": 0.1, "rejected": differs}
        for test in ("mmd", "domain_classifier")
    ]
    start = START + number * timedelta(minutes=47)
    return {
        "window": number,
        "start": start.isoformat(),
        "end": (start + timedelta(minutes=46)).isoformat(),
        "num": NUM,
        "model": "fashion",
        "version": version,
        "rejected": differs,
        "alarm": alarm,
        "tests": tests,
        "features": count_values(draw_values(rng, NUM, dark=dark)),
        "prediction": rng.multinomial(NUM, shares / shares.sum()).tolist(),
        "images": [
            {
                "file": f"images/window-{number:06d}/{i:02d}.png",
                "request_id": f"{number:04x}{i:04x}c0ffee",
                "item": i % 2,
                "prediction": (i * 3) % k,
                "confidence": round(0.95 - 0.05 * i, 3),
                "distance": 9.5 - 0.4 * i,
            }
            for i in range(num_images)
        ],
    }


def make_labels(num=120, *, right=0.9):
    rng = np.random.default_rng(5)
    labels = rng.integers(0, len(CLASS_NAMES), num)
    wrong = rng.random(num) > right
    return [
        {
            "request_id": f"r{i:05d}",
            "item": 0,
            "label": int(label),
            "prediction": int((label + wrong[i]) % len(CLASS_NAMES)),
            "version": "8f3a11c09b2e",
            "time": (START + i * timedelta(minutes=9)).isoformat(),
        }
        for i, label in enumerate(labels)
    ]


def write_folder(folder, *, windows=None, reference=None, labels=None, pictures=True):
    """A folder of 15 windows, the last three an alarm, with everything there is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "reference.json").write_text(json.dumps(reference or make_reference()))
    windows = make_windows() if windows is None else windows
    (folder / "windows.jsonl").write_text("".join(json.dumps(window) + "\n" for window in windows))
    for image in [image for window in windows for image in window["images"]] if pictures else []:
        draw_picture(folder / image["file"])
    labels = make_labels() if labels is None else labels
    if labels:
        correct = sum(each["label"] == each["prediction"] for each in labels)
        (folder / "labels.jsonl").write_text("".join(json.dumps(label) + "\n" for label in labels))
        live = {"num": len(labels), "correct": correct, "accuracy": correct / len(labels), "low": 0.82, "high": 0.94}
        (folder / "live.json").write_text(json.dumps(live))
    return folder


def make_windows(num_same=11, num_different=4):
    """Windows that turn dark; of those that differ the first is no alarm yet."""
    same = [make_window(number) for number in range(1, num_same + 1)]
    numbers = range(num_same + 1, num_same + num_different + 1)
    dark = [make_window(n, dark=0.6, alarm=n > num_same + 1, num_images=12) for n in numbers]
    return same + dark


def draw_picture(path):
    """A dark shape on black, 28 x 28, another for each name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(int(path.stem))
    y, x = np.mgrid[:28, :28]
    shape = ((y - 14) / rng.integers(5, 13)) ** 2 + ((x - 14) / rng.integers(4, 12)) ** 2 < 1
    Image.fromarray((shape * rng.integers(60, 140, (28, 28))).astype(np.uint8)).save(path)
