import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlvlab_jax.config.augment import (
    AugmentConfig,
    ColorJitterConfig,
    CutmixConfig,
    ErasingConfig,
    MixupConfig,
    RandAugmentConfig,
    RandomResizedCropConfig,
)
from mlvlab_jax.config.schema import PipelineConfig
from mlvlab_jax.data.augment import augment, check_channels, erase_and_mix, normalize
from mlvlab_jax.data.augment.color import color_jitter
from mlvlab_jax.data.augment.erasing import erase
from mlvlab_jax.errors import ConfigError

KEY = jax.random.key(0)
JITTER = ColorJitterConfig(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
EACH = {
    "crop and flip": AugmentConfig(crop_padding=2, horizontal_flip=True),
    "alternate": AugmentConfig(horizontal_flip="alternate"),
    "resized crop": AugmentConfig(random_resized_crop=RandomResizedCropConfig()),
    "randaugment": AugmentConfig(randaugment=RandAugmentConfig()),
    "three augment": AugmentConfig(three_augment=True),
    "jitter": AugmentConfig(color_jitter=JITTER),
    "erasing": AugmentConfig(erasing=ErasingConfig(probability=0.8)),
    "mixup": AugmentConfig(mixup=MixupConfig()),
    "cutmix": AugmentConfig(cutmix=CutmixConfig()),
}
EVERYTHING = AugmentConfig(
    random_resized_crop=RandomResizedCropConfig(),
    horizontal_flip=True,
    randaugment=RandAugmentConfig(),
    color_jitter=JITTER,
    erasing=ErasingConfig(probability=0.5),
    mixup=MixupConfig(),
    cutmix=CutmixConfig(),
)


def images(count, size=6):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 1), np.uint8)


def test_normalize_equals_numpy():
    image = images(3)
    config = PipelineConfig(mean=(0.3,), std=(0.2,))
    expected = (image.astype(np.float64) / 255 - 0.3) / 0.2
    np.testing.assert_allclose(normalize(jnp.asarray(image), config), expected, atol=1e-5)


def test_no_augmentation_is_the_identity():
    image = jnp.asarray(images(4))
    ids = jnp.arange(4)
    assert augment(image, ids, ids, KEY, AugmentConfig()) is image


def test_each_crop_is_a_window_of_the_padded_image_and_all_windows_are_equally_likely():
    count, pad = 4000, 1
    image = np.repeat(images(1), count, axis=0)
    config = AugmentConfig(crop_padding=pad)
    out = np.asarray(augment(jnp.asarray(image), jnp.arange(count), jnp.zeros(count, jnp.int32), KEY, config))
    padded = np.pad(image[0], ((pad, pad), (pad, pad), (0, 0)))
    windows = np.stack([padded[i : i + 6, j : j + 6] for i in range(3) for j in range(3)])
    matches = (out[:, None] == windows[None]).all(axis=(2, 3, 4))
    assert (matches.sum(axis=1) == 1).all()
    counts = matches.sum(axis=0)
    chi_square = ((counts - count / 9) ** 2 / (count / 9)).sum()
    assert chi_square < 26.1  # 0.999 quantile with 8 degrees of freedom


def test_half_of_the_images_are_mirrored():
    count = 4000
    image = np.repeat(images(1), count, axis=0)
    config = AugmentConfig(horizontal_flip=True)
    out = np.asarray(augment(jnp.asarray(image), jnp.arange(count), jnp.zeros(count, jnp.int32), KEY, config))
    mirrored = (out == image[:, :, ::-1]).all(axis=(1, 2, 3))
    assert ((out == image).all(axis=(1, 2, 3)) | mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 0.03


def test_images_that_alternate_are_mirrored_in_every_second_epoch_half_of_them_in_the_first():
    count = 4000
    image = np.repeat(images(1), count, axis=0)
    config = AugmentConfig(horizontal_flip="alternate")

    def mirrored(epoch, key=KEY):
        out = np.asarray(augment(jnp.asarray(image), jnp.arange(count), jnp.full(count, epoch), key, config))
        flags = (out == image[:, :, ::-1]).all(axis=(1, 2, 3))
        assert ((out == image).all(axis=(1, 2, 3)) | flags).all()
        return flags

    first = mirrored(0)
    assert abs(first.mean() - 0.5) < 0.03
    np.testing.assert_array_equal(mirrored(1), ~first)
    np.testing.assert_array_equal(mirrored(6), first)
    assert abs((mirrored(0, jax.random.key(1)) == first).mean() - 0.5) < 0.03


def test_crop_and_flip_are_the_three_numbers_of_the_examples_own_key():
    # Recipes promise their result bit for bit: these numbers must never be drawn otherwise.
    image, ids, epochs = images(16), np.arange(3, 19), np.arange(16) // 6
    out = augment(jnp.asarray(image), jnp.asarray(ids), jnp.asarray(epochs), KEY, EACH["crop and flip"])
    padded = np.pad(image, ((0, 0), (2, 2), (2, 2), (0, 0)))
    for one, example_id, epoch, found in zip(padded, ids, epochs, out, strict=True):
        key = jax.random.fold_in(jax.random.fold_in(KEY, epoch), example_id)
        top, left, mirrored = (int(b) % m for b, m in zip(jax.random.bits(key, (3,)), (5, 5, 2), strict=True))
        expected = one[top : top + 6, left : left + 6]
        np.testing.assert_array_equal(found, expected[:, ::-1] if mirrored else expected)


def test_each_kind_of_change_has_a_stream_of_its_own():
    image, ids = jnp.asarray(images(2)), jnp.arange(2)
    jitter, erasing = ColorJitterConfig(brightness=0.9), ErasingConfig(probability=1.0, fill="mean")
    keys = [jax.random.fold_in(jax.random.fold_in(KEY, 4), example_id) for example_id in ids]
    jittered = augment(image, ids, ids * 0 + 4, KEY, AugmentConfig(color_jitter=jitter))
    erased = erase_and_mix(jittered / 255.0, ids, ids, ids * 0 + 4, KEY, AugmentConfig(erasing=erasing))["image"]
    for one, key, found, rest in zip(image, keys, jittered, erased, strict=True):
        np.testing.assert_array_equal(found, color_jitter(one, jax.random.fold_in(key, 6), jitter))
        np.testing.assert_allclose(rest, erase(found / 255.0, jax.random.fold_in(key, 7), erasing), atol=1e-6)


def compiled(config):
    """Both halves of what happens to pixels, with random choices keyed by `KEY`."""

    @jax.jit
    def change(image, label, ids, epochs):
        pixels = augment(image, ids, epochs, KEY, config)
        return erase_and_mix(pixels / 255.0, label, ids, epochs, KEY, config)

    return change


@pytest.mark.parametrize(
    ("name", "channels"), [(name, 3) for name in EACH if "mix" not in name] + [("randaugment", 1), ("three augment", 1)]
)
def test_an_examples_changes_depend_on_key_epoch_and_id_only(name, channels):
    change = compiled(EACH[name])
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (16, 8, 8, channels), np.uint8))
    ids, epochs = jnp.arange(16) + 5, jnp.arange(16) // 5
    straight = np.asarray(change(image, ids, ids, epochs)["image"])
    turned = np.asarray(change(image[::-1], ids, ids[::-1], epochs[::-1])["image"])
    np.testing.assert_array_equal(turned[::-1], straight)
    few = np.asarray(change(image[3:6], ids[:3], ids[3:6], epochs[3:6])["image"])
    np.testing.assert_array_equal(few, straight[3:6])
    for other in (change(image, ids, ids + 100, epochs), change(image, ids, ids, epochs + 1)):
        assert (np.asarray(other["image"]) != straight).any((1, 2, 3)).mean() > 0.4


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixing_draws_by_key_epoch_and_id_and_takes_pixels_of_the_one_before(name):
    change = compiled(EACH[name])
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, 6, 6, 1), np.uint8))
    ids, epochs, label = jnp.arange(8) + 5, jnp.arange(8) // 3, jnp.arange(8)
    straight = change(image, label, ids, epochs)
    rolled = change(*(jnp.roll(value, 3, axis=0) for value in (image, label, ids, epochs)))
    for field, values in straight.items():
        np.testing.assert_array_equal(np.roll(rolled[field], -3, axis=0), values)
    again = change(image, label, ids, epochs + 1)
    assert (np.asarray(again["label_weight"]) != np.asarray(straight["label_weight"])).mean() > 0.5


def test_everything_is_the_same_on_one_device_and_on_eight():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), np.uint8))
    batch = (image, jnp.arange(16), jnp.arange(16) + 3, jnp.arange(16) // 7)
    expected = compiled(EVERYTHING)(*batch)
    program = compiled(EVERYTHING).lower(*jax.device_put(batch, spread)).compile()
    found = program(*jax.device_put(batch, spread))
    assert found["image"].sharding.is_equivalent_to(spread, 4)
    for field, values in expected.items():
        np.testing.assert_allclose(found[field], values, atol=1e-6)
    collectives = ("all-gather", "all-reduce", "all-to-all", "reduce-scatter")
    assert not [name for name in collectives if name in program.as_text()]  # neighbours pass on an example, no more


def test_changes_come_in_the_documented_order_with_or_without_jit():
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8))
    ids = jnp.arange(3)
    parts = ({"crop_padding": 2, "horizontal_flip": True}, {"three_augment": True}, {"color_jitter": JITTER})
    step_by_step, together = image, {}
    for part in parts:
        step_by_step = augment(step_by_step, ids, ids, KEY, AugmentConfig(**part))
        together |= part
    expected = compiled(AugmentConfig(**together))(image, ids, ids, ids)["image"]
    np.testing.assert_allclose(step_by_step / 255.0, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("rules", "channels", "path"),
    [
        ({"color_jitter": ColorJitterConfig(hue=0.1)}, 1, "color_jitter.hue"),
        ({"color_jitter": ColorJitterConfig(saturation=0.1)}, 1, "color_jitter.saturation"),
        ({"color_jitter": ColorJitterConfig(brightness=0.1)}, 4, "color_jitter"),
        ({"randaugment": RandAugmentConfig()}, 2, "randaugment"),
        ({"three_augment": True}, 4, "three_augment"),
    ],
)
def test_colours_that_the_images_do_not_have_are_refused(rules, channels, path):
    with pytest.raises(ConfigError, match=f"images of {channels} channels; expected images of") as caught:
        check_channels(AugmentConfig(**rules), channels)
    assert caught.value.path == f"pipeline.augment.{path}"


def test_grey_images_may_have_everything_without_colour():
    check_channels(dataclasses.replace(EVERYTHING, color_jitter=ColorJitterConfig(brightness=0.4, contrast=0.4)), 1)
    check_channels(AugmentConfig(), 7)
