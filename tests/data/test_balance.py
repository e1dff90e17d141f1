"""Classes of very different size, weighed in the loss or drawn evenly."""

import dataclasses

import numpy as np
import pytest

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.config.schema import PipelineConfig
from mlvlab_jax.data.balance import sample_classes_evenly, weigh_classes
from mlvlab_jax.data.open import describe_data, open_data
from mlvlab_jax.data.order import Part, Split, order_epoch
from mlvlab_jax.data.source import ArraySource
from mlvlab_jax.data.stream import train_stream
from mlvlab_jax.errors import ConfigError
from tests.data.test_pack import spec_of

NAMES = ("cat", "dog", "eel")


@pytest.fixture
def split():
    """12 cats, 6 dogs and no eel, two of the cats held out."""
    labels = np.array([0] * 12 + [1] * 6)
    source = ArraySource(np.zeros((18, 2, 2, 1), np.uint8), labels, place="test")
    return Split("train", source, np.arange(2, 18))


def test_balanced_weights_give_every_class_the_same_sum_and_a_mean_of_one(split):
    weights = weigh_classes(split, "balanced", NAMES).weights[split.ids]
    labels = split.source.labels[split.ids]
    assert [weights[labels == k].sum() for k in (0, 1)] == pytest.approx([8, 8])
    assert weights.mean() == pytest.approx(1)


def test_named_weights_come_on_top_of_those_of_the_examples_and_reach_the_batches(split):
    own = dataclasses.replace(split, weights=np.linspace(0, 1.7, 18, dtype=np.float32))
    weighed = weigh_classes(own, {"dog": 3}, NAMES)
    np.testing.assert_allclose(weighed.weights, own.weights * np.where(split.source.labels == 1, 3, 1), rtol=1e-6)
    (batch,) = train_stream(weighed, batch_size=8, num_steps=1, seed=0)
    np.testing.assert_array_equal(batch["mask"], weighed.weights[batch["example_id"]])


def test_epochs_of_balanced_sampling_have_as_many_of_every_class_and_leave_nobody_out(split):
    even = sample_classes_evenly(split, num_classes=3)
    assert even.epoch_size == len(split)
    seen = []
    for epoch in range(5):
        ids, _ = order_epoch(even, seed=0, epoch=epoch)
        assert np.bincount(split.source.labels[ids]).tolist() == [8, 8]
        seen.append(ids)
    counts = np.bincount(np.concatenate(seen), minlength=18)
    assert counts[:2].tolist() == [0, 0]  # held out
    assert set(counts[2:12]) == {4}  # 40 cats drawn of 10
    assert set(counts[12:]) <= {6, 7}  # 40 dogs of 6


def test_both_are_asked_for_in_the_configuration_and_change_no_length():
    source = spec_of("digits")
    plain = open_data(source, params_from(PipelineConfig, {}), seed=0)
    tree = {"class_weights": "balanced", "class_sampling": "balanced"}
    balanced = open_data(source, params_from(PipelineConfig, tree), seed=0)
    counts = np.bincount(balanced.train.source.labels[order_epoch(balanced.train, seed=0, epoch=0)[0]])
    assert counts.max() - counts.min() <= 1
    assert balanced.train.weights[balanced.train.ids].mean() == pytest.approx(1, abs=1e-6)
    assert balanced.splits["validation"].weights is None
    assert balanced.shape == plain.shape == describe_data(source, params_from(PipelineConfig, tree), seed=0)


def test_what_cannot_be_balanced_is_said(split):
    with pytest.raises(ConfigError, match="'dgo' is no class; near: dog"):
        weigh_classes(split, {"dgo": 2}, NAMES)
    several = dataclasses.replace(split, label_sets=np.eye(3, dtype=np.uint8))
    with pytest.raises(ConfigError, match="an example of these data may have several"):
        sample_classes_evenly(several, num_classes=3)
    mixture = dataclasses.replace(split, parts=(Part(split.ids, 16),))
    with pytest.raises(ConfigError, match="a mixture with shares of its own"):
        sample_classes_evenly(mixture, num_classes=3)
    with pytest.raises(ConfigError, match="does not tell its labels"):
        weigh_classes(dataclasses.replace(split, source=object()), "balanced", NAMES)
