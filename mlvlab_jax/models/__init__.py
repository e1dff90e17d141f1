"""Image classifiers. Each file here declares one model's parameters without importing jax, so that a configuration is
checked at once; the networks themselves are in `nets` and are imported when a model is built.
"""

from mlvlab_jax.models import cnn, convnext, efficientnet, mixer, resnet, vit  # noqa: F401
