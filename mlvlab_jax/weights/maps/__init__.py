"""One table a library and kind of network: whose array is which."""

from mlvlab_jax.weights.maps import (
    augreg_vit,
    ours,
    timm_convnext,
    timm_efficientnet,
    timm_mixer,
    timm_resnet,
    timm_vit,
    transformers_convnext,
    transformers_deit,
    transformers_resnet,
    transformers_vit,
)

#: Every kind of file that is known.
PEERS = (
    ours.PEER,
    timm_vit.PEER,
    timm_resnet.PEER,
    timm_convnext.PEER,
    timm_mixer.PEER,
    timm_efficientnet.PEER,
    transformers_vit.PEER,
    transformers_deit.PEER,
    transformers_resnet.PEER,
    transformers_convnext.PEER,
    augreg_vit.AUGREG,
    augreg_vit.BIG_VISION,
)
