"""Model FLOPs utilisation (MFU): arithmetic the model asks for over what the devices could do at best."""

import jax
import jax.numpy as jnp

from mlvlab_jax.engine.experiment import Experiment
from mlvlab_jax.engine.flops import count_flops
from mlvlab_jax.hardware import find_hardware


class Utilization:
    """MFU of training, where the device's peak and the model's arithmetic are known.

    The arithmetic is three times that of the forward pass on one batch (`count_flops`): forward, and twice as much for
    the gradients of weights and activations. Rematerialised parts count once, augmentation and the optimiser not at
    all. The peak is that of bfloat16 products whatever the precision of the run, times the number of devices.

    References:
        A. Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022, appendix B.
    """

    def __init__(self, experiment: Experiment, *, batch_size: int) -> None:
        devices = experiment.mesh.devices
        hardware = find_hardware(devices.flat[0].device_kind)
        self._peak = hardware.bfloat16_flops * devices.size if hardware else None
        self._experiment = experiment
        self._batch_size = batch_size
        self._flops_per_image: float | None = None

    def read(self, images_per_second: float) -> float | None:
        """In [0, 1]; None where it is not known. The model is traced at the first call, and only for a known device."""
        if self._peak is None:
            return None
        if self._flops_per_image is None:
            self._flops_per_image = self._count()
        if not self._flops_per_image:
            self._peak = None
            return None
        return images_per_second * self._flops_per_image / self._peak

    def _count(self) -> float:
        experiment = self._experiment
        variables = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), experiment.state.variables)
        image = jax.ShapeDtypeStruct((self._batch_size, *experiment.data.spec), jnp.float32)
        try:
            flops = count_flops(
                lambda variables, image: experiment.model.apply(variables, image, jax.random.key(0), True)[0],
                variables,
                image,
            )
        except Exception:  # noqa: BLE001 - what only measures never stops the run
            return 0.0
        return 3 * (flops or 0.0) / self._batch_size
