"""What the commands share: arguments, exit codes, errors in words, and the one console script."""

import argparse
import importlib
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlvlab_jax import __version__
from mlvlab_jax.errors import INTERNAL_EXIT_CODE, DiskError, MlvlabError
from mlvlab_jax.files import DISK_ERRNOS
from mlvlab_jax.malloc import keep_freed_memory

if TYPE_CHECKING:
    from mlvlab_jax.config.load import LoadedConfig

#: Command -> its module, and what it does.
COMMANDS = {
    "train": ("train", "train a model from a configuration, or go on training"),
    "plan": ("plan", "say what a run needs, how long it takes and what it costs, before it runs"),
    "evaluate": ("evaluate", "measure a checkpoint of a run"),
    "probe": ("probe", "measure what a network's features tell of other data: linear, neighbours, few shots"),
    "soup": ("soup", "make one network of several runs: the mean of their weights"),
    "package": ("package_model", "make one folder of a trained model, to hand on; or check one"),
    "checkpoint": ("checkpoints", "look at what a run has saved: ls, verify, show, export"),
    "weights": ("weights_command", "weights of timm, transformers and big_vision: import, export, inspect"),
    "verify-resume": ("verify_resume", "kill a run again and again, and prove that it ends as if it had not been"),
    "replay": ("replay", "make a step of a run again, and compare it with what was logged"),
    "compare": ("compare", "tell two runs apart on the same examples"),
    "registry": ("register", "keep models by name and version: list, show, register, promote, rollback, verify"),
    "serve": ("serve", "answer over HTTP with a model of the registry, or with a package"),
    "models": ("list_models", "list the models with their sizes, or the parameters of one"),
    "bench": ("bench", "measure speed beside other libraries, in a checkout"),
    "report": ("report_run", "write one page about a run"),
    "pack": ("pack", "pack a data source into a few large files that read fast"),
    "data": ("data_page", "look at the training images: data show"),
    "validate": ("validate", "check every example of the data, and list what is wrong"),
    "shadow": ("shadow", "put recorded requests to another version, and see where it differs"),
    "sweep": ("sweep", "search a space of configurations, and write down the best"),
    "monitor": ("monitor", "tell whether a served model still sees what it was trained on: report, status"),
}
#: Those that call large programs of XLA many times.
_COMPUTING = ("train", "evaluate", "probe", "soup")


def main(arguments: Sequence[str] | None = None) -> int:
    """`mlvlab COMMAND ...`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    listed = "\n".join(f"  {name:<15}{text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="mlvlab",
        description="One YAML file in, a reproducible vision model out.",
        epilog=f"commands:\n{listed}\n\n'mlvlab COMMAND --help' explains one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mlvlab_jax {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    command = parser.parse_args(words[:1]).command
    if command in _COMPUTING:
        keep_freed_memory(arguments)
    module = importlib.import_module(f"mlvlab_jax.{COMMANDS[command][0]}")
    return int(module.main(words[1:]))


def pick_action(command: str, description: str | None, texts: Mapping[str, str], arguments: Sequence[str]) -> str:
    """The first argument of `mlvlab COMMAND ACTION ...`, or the help that lists the actions.

    Args:
        command: Its name.
        description: Of the command.
        texts: Action -> what it does.
        arguments: Those after the command.
    """
    listed = "\n".join(f"  {name:<10}{text}" for name, text in texts.items())
    parser = argparse.ArgumentParser(
        prog=f"mlvlab {command}",
        description=description,
        epilog=f"actions:\n{listed}\n\n'mlvlab {command} ACTION --help' explains one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=texts, metavar="ACTION")
    action: str = parser.parse_args(arguments[:1]).action
    return action


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """--config, overrides, --print-config and --schema."""
    parser.add_argument(
        "--config", action="append", default=[], type=Path, metavar="FILE", help="YAML file; repeatable, later ones win"
    )
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="single values, over all files")
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and exit")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of configuration files and exit")


def parse_checkpoint(text: str) -> str | int:
    """Value of --checkpoint: best, last, or a step."""
    if text in ("best", "last"):
        return text
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not 'best', 'last' or a step number")


def print_config(arguments: argparse.Namespace) -> bool:
    """Answers --schema and --print-config; says whether one was asked for."""
    from mlvlab_jax.config.load import json_schema, load_config, to_yaml

    if arguments.schema:
        print(json.dumps(json_schema(), indent=2))
    elif arguments.print_config:
        print(to_yaml(load_config(arguments.config, arguments.overrides).config), end="")
    return bool(arguments.schema or arguments.print_config)


def run_configured(arguments: argparse.Namespace, command: "Callable[[LoadedConfig], int]") -> int:
    """Runs `command` on the configuration that `arguments` name, as `run_command`; or answers as `print_config`."""
    loaded: list[LoadedConfig] = []

    def configured() -> int:
        if print_config(arguments):
            return 0
        from mlvlab_jax.config.load import load_config

        loaded.append(load_config(arguments.config, arguments.overrides))
        return command(loaded[0])

    return run_command(configured, loaded=lambda: loaded[0] if loaded else None)


def run_command(command: Callable[[], int], *, loaded: "Callable[[], LoadedConfig | None]" = lambda: None) -> int:
    """Runs `command`; an error meant for the user becomes one message on standard error and its exit code.

    Any other becomes its traceback and exit code 70.

    Args:
        command: Does the work and gives the exit code.
        loaded: Gives the configuration, if one was read by then, so that the message can name file and line.
    """
    try:
        return command()
    except MlvlabError as error:
        print(f"error: {_with_place(error, loaded())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001 - the edge: what nobody foresaw ends with a code of its own
        if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
            place = f"{error.filename}: " if error.filename else ""
            print(f"error: {place}{error.strerror}; free some space, or choose a folder elsewhere", file=sys.stderr)
            return DiskError.exit_code
        traceback.print_exc()
        return INTERNAL_EXIT_CODE


def _with_place(error: MlvlabError, loaded: "LoadedConfig | None") -> str:
    if error.path is None:
        return str(error)
    place = loaded.locate(error.path) if loaded else ""
    return f"{place + ': ' if place else ''}{error.path}: {error}"


if __name__ == "__main__":
    sys.exit(main())
