"""`mlvlab serve --model NAME@ALIAS | --package DIR`: answers over HTTP, to programs and to people."""

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlvlab_jax.cli import run_command

if TYPE_CHECKING:
    from mlvlab_jax.serving.sources import Source

_EXTRA = ("fastapi", "uvicorn", "httptools", "prometheus_client")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(prog="mlvlab serve", description=__doc__)
    served = parser.add_mutually_exclusive_group(required=True)
    served.add_argument(
        "--model", metavar="NAME@ALIAS|NAME:VERSION", help="model of the registry; where an alias points is followed"
    )
    served.add_argument("--package", type=Path, metavar="PATH", help="model package, a folder or a tar")
    parser.add_argument(
        "--registry",
        default="experiments/registry",
        metavar="PLACE",
        help="folder, or address of an MLflow server or database (default: experiments/registry)",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of the server")
    parser.add_argument(
        "--host", help="address to listen on (default: 127.0.0.1); any other than loopback needs a token"
    )
    parser.add_argument("--port", type=int, help="port to listen on (default: 8000); 0 takes a free one")
    parser.add_argument("--token-file", metavar="FILE", help="private file with the token that each request must carry")
    parser.add_argument(
        "--insecure", action="store_true", help="let anyone who reaches the address ask, without a token"
    )
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="single values, over the file")
    parsed = parser.parse_intermixed_args(arguments)
    return run_command(lambda: _serve(parsed, started=started))


def _serve(parsed: argparse.Namespace, *, started: float) -> int:
    from mlvlab_jax.config.load import read_section
    from mlvlab_jax.config.serving import ServingConfig

    options = {"host": parsed.host, "port": parsed.port, "token_file": parsed.token_file}
    given = [f"{name}={json.dumps(value)}" for name, value in options.items() if value is not None]
    config, _ = read_section(ServingConfig, parsed.config, [*parsed.overrides, *given])
    _check_extra()
    from mlvlab_jax.serving.auth import check_exposure, read_token
    from mlvlab_jax.serving.tls import make_tls_context

    token = read_token(config.token_file)
    check_exposure(config.host, token=token, insecure=parsed.insecure)
    context = make_tls_context(config.tls)
    from mlvlab_jax.serving.launch import launch

    launch(config, _make_source(parsed), token=token, context=context, started=started)
    return 0


def _make_source(parsed: argparse.Namespace) -> "Source":
    from mlvlab_jax.serving.sources import FolderSource, RegistrySource

    if parsed.package is not None:
        return FolderSource(parsed.package)
    from mlvlab_jax.registry.model_registry import ModelRegistry, open_store
    from mlvlab_jax.registry.names import parse_reference

    name, version, alias = parse_reference(parsed.model)
    return RegistrySource(ModelRegistry(open_store(parsed.registry)), name=name, version=version, alias=alias)


def _check_extra() -> None:
    from mlvlab_jax.errors import ConfigError

    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"serving needs {', '.join(missing)}, not installed: pip install 'mlvlab_jax[serve]'")


if __name__ == "__main__":
    sys.exit(main())
