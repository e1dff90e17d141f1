"""Peak figures are known by the exact name of a device, or not at all."""

import pytest

from mlvlab_jax.hardware import find_hardware


def test_a_device_is_found_by_the_name_jax_gives_it():
    assert find_hardware("TPU v5 lite").name == "TPU v5e"
    assert find_hardware("TPU v5").bfloat16_flops == 459e12


@pytest.mark.parametrize("kind", ["cpu", "TPU", "NVIDIA H100", "TPU v5 lite pod", ""])
def test_an_unknown_device_is_not_guessed(kind):
    assert find_hardware(kind) is None
