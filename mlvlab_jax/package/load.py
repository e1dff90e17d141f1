"""Opens a package: its files verified, its outputs compared with those it was made with."""

from mlvlab_jax.package.verify import verify_files

__all__ = ["verify_files"]
