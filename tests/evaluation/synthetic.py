"""Predictions of a model whose true probabilities are known."""

import numpy as np

from mlvlab_jax.evaluation.predictions import Predictions


def make_predictions(num_examples, *, num_classes=10, sharpness=1.0, signal=(3.0, 6.0), seed=0):
    """Labels drawn from softmax(z), logits z * sharpness: perfectly calibrated at a temperature of `sharpness`."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(num_examples, num_classes))
    z[np.arange(num_examples), rng.integers(0, num_classes, num_examples)] += rng.choice(signal, num_examples)
    probability = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    label = (probability.cumsum(1) > rng.random((num_examples, 1))).argmax(1).astype(np.int32)
    return from_logits((z * sharpness).astype(np.float32), label)


def from_logits(logits, label):
    return Predictions(
        ids=tuple(f"{k}.png" for k in range(len(label))),
        index=np.arange(len(label)),
        label=np.asarray(label, np.int32),
        logits=logits,
        class_names=tuple(f"class {k}" for k in range(logits.shape[1])),
        split="test",
        step=3,
        config_hash="abc",
    )
