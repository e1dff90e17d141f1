"""Configuration of the random changes of training images; a section left out, or null, is off."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mlvlab_jax.config.fields import configclass

Probability = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
AboveZero = Annotated[float, Field(gt=0)]


def _check_range(name: str, values: tuple[float, float]) -> None:
    if values[0] > values[1]:
        raise ValueError(f"{name} {list(values)} is empty; expected [smallest, largest]; {list(values[::-1])} fits")


@configclass
class RandomResizedCropConfig:
    """A random part of the image, resized to the image's own size."""

    scale: tuple[Share, Share] = (0.08, 1.0)
    """Smallest and largest part, as a share of the image's area; 0.08 is the paper's, small images want more."""
    ratio: tuple[AboveZero, AboveZero] = (0.75, 1.3333)
    """Smallest and largest width / height of the part, in pixels."""

    @model_validator(mode="after")
    def _ranges(self) -> "RandomResizedCropConfig":
        _check_range("scale", self.scale)
        _check_range("ratio", self.ratio)
        return self


@configclass
class ColorJitterConfig:
    """Random brightness, contrast, saturation and hue, in this order; 0 leaves one alone. 0.4, 0.4, 0.4 is usual."""

    brightness: Strength = 0.0
    """Pixels are multiplied by a number within this of 1, never below 0."""
    contrast: Strength = 0.0
    """Distances from the mean grey are multiplied by a number within this of 1, never below 0."""
    saturation: Strength = 0.0
    """Distances from the pixel's grey are multiplied by a number within this of 1, never below 0. Needs RGB."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest turn of the colour circle, in turns. Needs RGB."""


@configclass
class RandAugmentConfig:
    """RandAugment: operations drawn at random from 14, all with one magnitude."""

    num_ops: Annotated[int, Field(gt=0)] = 2
    """Operations one after the other, drawn with replacement."""
    magnitude: Annotated[float, Field(ge=0, le=10)] = 9.0
    """Strength in tenths of each operation's range: 9 as in DeiT; torchvision's default, 9 of 30, is 3 here."""


@configclass
class ErasingConfig:
    """A random rectangle is blotted out, after normalisation."""

    probability: Probability = 0.25
    """Share of images changed."""
    area: tuple[Share, Share] = (0.02, 0.3333)
    """Smallest and largest rectangle, as a share of the image's area."""
    ratio: tuple[AboveZero, AboveZero] = (0.3, 3.3)
    """Smallest and largest width / height of the rectangle, in pixels."""
    fill: Literal["noise", "mean"] = "noise"
    """Standard normal noise in each value, or pipeline.mean (0 after normalisation)."""

    @model_validator(mode="after")
    def _ranges(self) -> "ErasingConfig":
        _check_range("area", self.area)
        _check_range("ratio", self.ratio)
        return self


@configclass
class MixupConfig:
    """Weighted means of two images and of their labels."""

    alpha: AboveZero = 0.8
    """The weight is drawn from Beta(alpha, alpha); below 1 it is mostly near 0 or 1."""


@configclass
class CutmixConfig:
    """A rectangle of another image is pasted in; labels are weighted by area."""

    alpha: AboveZero = 1.0
    """The rectangle's share of the area is drawn from Beta(alpha, alpha); 1 makes all shares equally likely."""


@configclass
class AugmentConfig:
    """Random changes of training images, made on the device in the order of these fields."""

    crop_padding: Annotated[int, Field(ge=0)] = 0
    """Pixels of padding before a random crop back to the image size; 0 is off. 4 is usual for 32x32."""
    random_resized_crop: RandomResizedCropConfig | None = None
    """A random part, resized; usual for photographs. Not together with crop_padding."""
    horizontal_flip: bool | Literal["alternate"] = False
    """Mirror half of the images; alternate: each in every second epoch, so that none is seen the same way again and
    again. Wrong for digits and text."""
    randaugment: RandAugmentConfig | None = None
    """Operations drawn from 14. Not together with three_augment."""
    three_augment: bool = False
    """One of grey, solarised and blurred for each image; DeiT III adds a color_jitter of 0.3, 0.3, 0.3."""
    color_jitter: ColorJitterConfig | None = None
    """Random brightness, contrast, saturation and hue."""
    erasing: ErasingConfig | None = None
    """A rectangle is blotted out."""
    mixup: MixupConfig | None = None
    """Two images are averaged."""
    cutmix: CutmixConfig | None = None
    """A rectangle of another image is pasted in."""
    mix_probability: Probability = 1.0
    """Share of examples that mixup or cutmix changes, where one of them is on."""
    mix_switch_probability: Probability = 0.5
    """Share of cutmix among the mixed examples, where both are on."""

    @model_validator(mode="after")
    def _one_of_a_kind(self) -> "AugmentConfig":
        if self.crop_padding and self.random_resized_crop is not None:
            raise ValueError(
                f"crop_padding {self.crop_padding} and random_resized_crop both crop; expected one of them; "
                "set crop_padding to 0 or random_resized_crop to null"
            )
        if self.three_augment and self.randaugment is not None:
            raise ValueError(
                "randaugment and three_augment are alternatives; expected one of them; "
                "set randaugment to null or three_augment to false"
            )
        return self
