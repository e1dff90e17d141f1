"""Which program computes attention: cuDNN's fused one where it can run, else XLA's.

The conditions are those of jax 0.12 (`check_layout` and `check_is_flash_attention` in
jax/_src/cudnn/fused_attention_stablehlo.py), and NVIDIA's for its fused attention, which begins with Ampere.
"""

import re
from typing import Any, Literal, NamedTuple

from mlvlab_jax.errors import ConfigError

#: First generation with fused attention, and the one from which heads may be twice as wide.
_AMPERE, _HOPPER = (8, 0), (9, 0)
#: jax takes it with cuDNN 9.11 or newer only, and a device does not say which cuDNN it has.
_BLACKWELL_ULTRA = (10, 3)


class Accelerator(NamedTuple):
    """What decides of a device.

    platform: as jax names it (cpu, gpu, tpu). capability: CUDA compute capability; None of what is no NVIDIA GPU.
    """

    platform: str
    capability: tuple[int, int] | None = None

    @classmethod
    def of(cls, device: Any) -> "Accelerator":
        """That of a `jax.Device`."""
        found = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device, "compute_capability", "")))
        return cls(device.platform, (int(found[1]), int(found[2])) if found else None)


class Choice(NamedTuple):
    """implementation: as `jax.nn.dot_product_attention` names it. note: one line for the person watching, or None."""

    implementation: Literal["xla", "cudnn"]
    note: str | None = None


def choose_attention(
    wanted: Literal["auto", "xla", "cudnn"], *, device: Accelerator | None, dtype: str, head_dim: int
) -> Choice:
    """The implementation for a network.

    Args:
        wanted: auto takes cuDNN's where it can run, and says why not on a GPU where it cannot.
        device: Where the network runs; None for one that is to run anywhere, which is XLA's.
        dtype: Of queries, keys and values, as numpy names it.
        head_dim: Width of one head.

    Raises:
        ConfigError: cuDNN's is wanted where it cannot run; the message says why.
    """
    if wanted == "xla" or device is None:
        return Choice("xla")
    obstacle = _find_obstacle(device, dtype, head_dim)
    if wanted == "cudnn":
        if obstacle:
            raise ConfigError(
                f"'cudnn' cannot run: {obstacle}; expected what cuDNN can run; auto takes xla instead",
                path="model.params.attention",
            )
        return Choice("cudnn")
    if obstacle is None and device.capability == _BLACKWELL_ULTRA:
        obstacle = "compute capability 10.3 needs cuDNN 9.11, which may not be there (attention: cudnn takes it)"
    if obstacle is None:
        return Choice("cudnn")
    return Choice("xla", f"attention is XLA's, the slower one: {obstacle}" if device.platform == "gpu" else None)


def _find_obstacle(device: Accelerator, dtype: str, head_dim: int) -> str | None:
    """Why cuDNN's attention cannot run; None where it can."""
    if device.capability is None:
        found = "another GPU" if device.platform == "gpu" else device.platform
        return f"it needs an NVIDIA GPU, and this device is {found}"
    if device.capability < _AMPERE:
        return f"it needs compute capability 8.0, and this GPU has {device.capability[0]}.{device.capability[1]}"
    if dtype not in ("bfloat16", "float16"):
        return f"it computes in bfloat16 or float16, and training.precision is {dtype}"
    widest = 256 if device.capability >= _HOPPER else 128
    if head_dim % 8 or head_dim > widest:
        return f"it takes heads of a multiple of 8 up to {widest}, and hidden_size / num_heads is {head_dim}"
    return None
