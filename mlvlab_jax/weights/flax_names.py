"""The names in an .npz of a checkpoint of Flax: parameters lie under a prefix, and blocks may be stacked into one."""

from collections.abc import Mapping

import numpy as np

#: A part of every such network, and what checkpoints put before it: of AugReg, and of big_vision.
_FIRST, _PREFIXES = "embedding/kernel", ("opt/target/", "params/img/", "params/")
_STACKED = "Transformer/encoderblock/"


def name_plainly(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters without their prefix, a name for each block; what is under no prefix is no parameter."""
    prefix = next((each for each in _PREFIXES if each + _FIRST in arrays), "")
    plain: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if not name.startswith(prefix):
            continue
        short = name.removeprefix(prefix)
        if not short.startswith(_STACKED) or array.ndim == 0:
            plain[short] = array
            continue
        last = short.removeprefix(_STACKED)
        plain |= {f"Transformer/encoderblock_{i}/{last}": part for i, part in enumerate(array)}
    return plain
