"""Compiled programs kept between runs, in a folder only the user can read (it holds executable code)."""

import os
import stat
from pathlib import Path

import jax

from mlvlab_jax.errors import ConfigError


def compile_cache_folder() -> Path:
    """$XDG_CACHE_HOME/mlvlab_jax/xla, by default below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "mlvlab_jax" / "xla"


def enable_compile_cache(folder: Path) -> None:
    """Keeps every program that took a tenth of a second or more to compile in `folder`.

    Raises:
        ConfigError: The folder belongs to someone else or others can write to it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"{folder}: owned by or writable for others, and it holds code that will be run; "
            "expected a private folder; chmod 700 it, or set compile_cache: false",
            path="compile_cache",
        )
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
