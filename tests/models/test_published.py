"""Every named variant has the published number of parameters, and the arithmetic that is said of it."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from mlvlab_jax.config.fields import params_from
from mlvlab_jax.engine.flops import count_flops
from mlvlab_jax.plugins import MODELS, Spec
from mlvlab_jax.trees import count_elements
from mlvlab_jax.types import ImageSpec

VARIANTS = [(name, variant) for name in MODELS.names() for variant in MODELS.entry(name).variants]

#: As published, with 1,000 classes: timm 1.0.31 built on its meta device, which holds shapes without numbers. torchvision
#: has the same for ResNet, ConvNeXt and EfficientNetV2, Dosovitskiy et al. 2020 and Tolstikhin et al. 2021 round them.
PUBLISHED = {
    ("resnet", "18"): 11_689_512,  # resnet18
    ("resnet", "34"): 21_797_672,
    ("resnet", "50"): 25_557_032,
    ("resnet", "101"): 44_549_160,
    ("resnet", "152"): 60_192_808,
    ("resnet", "18-D"): 11_708_744,  # resnet18d
    ("resnet", "50-D"): 25_576_264,
    ("resnet", "50-GN"): 25_557_032,  # resnet50_gn
    ("convnext", "T"): 28_589_128,  # convnext_tiny
    ("convnext", "S"): 50_223_688,
    ("convnext", "B"): 88_591_464,
    ("convnext", "L"): 197_767_336,
    ("convnext", "XL"): 350_196_968,
    ("efficientnet_v2", "B0"): 7_139_704,  # tf_efficientnetv2_b0
    ("efficientnet_v2", "B1"): 8_141_052,
    ("efficientnet_v2", "B2"): 10_096_086,
    ("efficientnet_v2", "B3"): 14_358_406,
    ("efficientnet_v2", "S"): 21_458_488,
    ("efficientnet_v2", "M"): 54_139_356,
    ("efficientnet_v2", "L"): 118_515_272,
    ("mixer", "S/32"): 19_104_624,  # mixer_s32_224
    ("mixer", "S/16"): 18_528_264,
    ("mixer", "B/32"): 60_293_428,
    ("mixer", "B/16"): 59_880_472,
    ("mixer", "L/32"): 206_939_264,
    ("mixer", "L/16"): 208_196_168,
    ("vision_transformer", "Ti/16"): 5_717_416,  # vit_tiny_patch16_224
    ("vision_transformer", "S/32"): 22_878_952,
    ("vision_transformer", "S/16"): 22_050_664,
    ("vision_transformer", "B/32"): 88_224_232,
    ("vision_transformer", "B/16"): 86_567_656,
    ("vision_transformer", "B/8"): 86_576_872,
    ("vision_transformer", "L/32"): 306_535_400,
    ("vision_transformer", "L/16"): 304_326_632,
    ("vision_transformer", "L/14"): 304_203_752,
    ("vision_transformer", "H/14"): 632_045_800,
    ("vision_transformer", "g/14"): 1_012_611_432,  # vit_giant_patch14_224
    ("vision_transformer", "G/14"): 1_844_440_680,  # vit_gigantic_patch14_224
    ("vision_transformer", "DeiT-III-S/16"): 22_059_496,  # deit3_small_patch16_224
    ("vision_transformer", "DeiT-III-B/16"): 86_585_320,
    ("vision_transformer", "DeiT-III-L/16"): 304_374_760,
    ("vision_transformer", "DeiT-III-H/14"): 632_126_440,
    ("vision_transformer", "SigLIP-B/16"): 93_653_224,  # vit_base_patch16_siglip_224
    ("vision_transformer", "SigLIP-So400m/14"): 428_833_704,
    ("vision_transformer", "RoPE-S/16"): 21_984_232,  # vit_small_patch16_rope_224
    ("vision_transformer", "RoPE-B/16"): 86_434_792,
    ("vision_transformer", "RoPE-L/16"): 304_174_056,
    ("vision_transformer", "B/16-reg4"): 86_615_272,  # vit_base_patch16_reg4_gap_256
}


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_a_variant_has_the_published_parameters_and_the_arithmetic_that_is_said(name, variant):
    entry = MODELS.entry(name)
    published = entry.variants[variant]
    params = params_from(entry.params, published.params)
    if hasattr(params, "scan_layers"):  # one trace for all blocks; the numbers are the same
        params = dataclasses.replace(params, scan_layers=True)
    image = ImageSpec(published.side, published.side, 3)
    model = MODELS.build(Spec(name, params), num_classes=1000, image=image, dtype=jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    assert count_elements(variables.params) == PUBLISHED[name, variant] == published.num_params
    forward = lambda variables, image: model.apply(variables, image, jax.random.key(0), False)[0]  # noqa: E731
    flops = count_flops(forward, variables, jax.ShapeDtypeStruct((1, *image), jnp.float32))
    assert round(flops / 1e9, 2) == published.gflops


def test_every_published_figure_is_of_a_variant():
    assert set(PUBLISHED) == set(VARIANTS)
