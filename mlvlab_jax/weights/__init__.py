"""Weights in and out: read as timm, transformers and big_vision keep them, and written so that these read them."""
