"""`mlvlab weights ACTION ...`: weights of timm, transformers and big_vision, read and written."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlvlab_jax.cli import parse_checkpoint, pick_action, run_command

if TYPE_CHECKING:
    from mlvlab_jax.config.weights import WeightsConfig
    from mlvlab_jax.weights.exporting import Weights
    from mlvlab_jax.weights.files import WeightFile
    from mlvlab_jax.weights.importing import Target

_FORMATS = ("timm", "transformers", "augreg", "big_vision")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    texts = {name: text for name, (_, text) in _ACTIONS.items()}
    action = pick_action("weights", __doc__, texts, arguments)
    # Not a sub-parser: those do not take positional arguments after options.
    parsed = _make_parser(action).parse_intermixed_args(arguments[1:])
    return run_command(lambda: _ACTIONS[action][0](parsed))


def _make_parser(action: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"mlvlab weights {action}", description=_ACTIONS[action][1])
    if action == "export":
        parser.add_argument("source", type=Path, metavar="SOURCE", help="package, run folder, or imported weights")
        parser.add_argument("--format", choices=_FORMATS, required=True, help="whose names and layout")
        parser.add_argument(
            "--checkpoint", type=parse_checkpoint, default="best", help="of a run: best, last or a step"
        )
        parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="new .safetensors or .npz file")
        return parser
    parser.add_argument("file", metavar="FILE", help="weights: a file, a folder of one, or hf:owner/name")
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=value", help="of the configuration, or of --model's params"
    )
    network = parser.add_mutually_exclusive_group(required=action == "import")
    network.add_argument("--config", type=Path, help="YAML file: the network, its data and how weights are made to fit")
    network.add_argument("--model", metavar="NAME", help="the network, without data")
    parser.add_argument("--image-size", type=int, default=224, metavar="PX", help="with --model (default: 224)")
    parser.add_argument("--channels", type=int, default=3, choices=(1, 3), help="with --model (default: 3)")
    parser.add_argument("--num-classes", type=int, metavar="N", help="with --model (default: those of the file)")
    if action == "import":
        parser.add_argument("--head", choices=("keep", "new"), help="the last layer: as it is, or zeros")
        parser.add_argument(
            "--output", type=Path, required=True, metavar="DIR|FILE", help="new .safetensors, or folder"
        )
    else:
        parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _inspect(parsed: argparse.Namespace) -> int:
    from mlvlab_jax.weights.files import read_weights
    from mlvlab_jax.weights.importing import import_weights, recognise

    network = _read_network(parsed)
    file = read_weights(parsed.file)
    kinds = [f"{peer.format} {peer.model}".strip() for peer in recognise(file)]
    rows = [(name, str(array.dtype), list(array.shape)) for name, array in file.arrays.items()]
    total = sum(array.size for array in file.arrays.values())
    if parsed.json:
        head = {"path": str(file.path), "container": file.container, "sha256": file.sha256, "recognised_as": kinds}
        arrays = [{"name": name, "dtype": dtype, "shape": shape} for name, dtype, shape in rows]
        print(json.dumps(head | {"num_values": total, "arrays": arrays}))
    else:
        width = max(len(name) for name, _, _ in rows)
        print(f"{file.path}: {file.container}, SHA-256 {file.sha256}")
        print(f"{len(rows)} arrays, {total:,} numbers, read as {' or '.join(kinds) or 'nothing known'}")
        for name, dtype, shape in rows:
            print(f"  {name:<{width}}  {dtype:<9} {tuple(shape)}")
    if network:
        target, options = network(file)
        found = import_weights(file, target, options)
        if not parsed.json:
            lines = [*found.provenance["changed"], *(f"note: {note}" for note in found.notes)]
            print(f"fits {target.spec.name}" + "".join(f"\n  {line}" for line in lines))
    return 0


def _import(parsed: argparse.Namespace) -> int:
    network = _read_network(parsed)
    assert network is not None, "argparse asks for one"
    from mlvlab_jax.weights.files import read_weights
    from mlvlab_jax.weights.importing import fill_head, import_weights
    from mlvlab_jax.weights.store import name_output, write_imported

    name_output(parsed.output)  # before anything is read, which may take long
    file = read_weights(parsed.file)
    target, options = network(file)
    imported = fill_head(import_weights(file, target, options), target)
    written = write_imported(parsed.output, imported, target)
    total = sum(array.size for array in imported.arrays.values())
    print(f"{written}: {len(imported.arrays)} arrays, {total:,} numbers, of {file.source}")
    for line in (*imported.provenance["changed"], *(f"note: {note}" for note in imported.notes)):
        print(f"  {line}")
    return 0


def _export(parsed: argparse.Namespace) -> int:
    from mlvlab_jax.weights.exporting import check_output, export_arrays, write_export

    check_output(parsed.output, parsed.format)  # before anything is read, which may take long
    exported = export_arrays(_open_source(parsed), parsed.format)
    write_export(parsed.output, exported.arrays, parsed.format)
    print(f"{parsed.output}: {len(exported.arrays)} arrays as {parsed.format} has them")
    for line in exported.notes:
        print(f"  note: {line}")
    return 0


def _open_source(parsed: argparse.Namespace) -> "Weights":
    from mlvlab_jax.weights.exporting import Weights

    source: Path = parsed.source
    if (source / "config.yaml").is_file():
        from mlvlab_jax.engine.folder import read_config
        from mlvlab_jax.engine.restored import restore_checkpoint
        from mlvlab_jax.models.nets.lora import merge_adapters
        from mlvlab_jax.package.network import name_weights

        config = read_config(source)
        restored = restore_checkpoint(source, config, parsed.checkpoint)
        arrays = name_weights(merge_adapters(restored.state.evaluated, config.training.lora))
        return Weights(config.model.name, config.model.params, restored.experiment.data.spec, arrays)
    if (source / "labels.json").is_file():
        from mlvlab_jax.errors import PackageError
        from mlvlab_jax.package.arrays import read_arrays
        from mlvlab_jax.package.documents import read_documents
        from mlvlab_jax.package.load import verify_files

        verify_files(source)
        documents = read_documents(source)
        if documents.config is None:
            raise PackageError(f"{source}: its network is of a plugin; expected one of this package's models")
        model = documents.config.model
        return Weights(model.name, model.params, documents.image, read_arrays(source / "model.safetensors"))
    from mlvlab_jax.weights.store import read_imported

    return read_imported(source)


def _read_network(parsed: argparse.Namespace) -> "Callable[[WeightFile], tuple[Target, WeightsConfig]] | None":
    """The network that was asked for, checked now; its classes may be those of the file."""
    if parsed.config is None and parsed.model is None:
        return None
    config = _read_config(parsed)
    settings = {"path": parsed.file} | ({"head": parsed.head} if getattr(parsed, "head", None) else {})

    def resolve(file: "WeightFile") -> "tuple[Target, WeightsConfig]":
        import dataclasses

        from mlvlab_jax.config.weights import WeightsConfig
        from mlvlab_jax.types import ImageSpec
        from mlvlab_jax.weights.adapt import Classes
        from mlvlab_jax.weights.importing import Target, count_classes

        given = config.weights or WeightsConfig(path=parsed.file)
        options = dataclasses.replace(given, **settings)
        if parsed.config:
            from mlvlab_jax.data.open import open_data

            data = open_data(config.data, config.pipeline, seed=config.seed)
            return Target(config.model, data.spec, Classes(len(data.class_names), data.class_names)), options
        image = ImageSpec(parsed.image_size, parsed.image_size, parsed.channels)
        own = count_classes(file, config.model, image)
        number = parsed.num_classes or (len(options.classes) if options.classes else own)
        names = file.class_names if number == own and not options.classes else None
        return Target(config.model, image, Classes(number, names)), options

    return resolve


def _read_config(parsed: argparse.Namespace) -> Any:
    from mlvlab_jax.config.load import config_from_tree, load_config, make_override, override_config
    from mlvlab_jax.config.reader import parse_value

    if parsed.config:
        return load_config([parsed.config], parsed.overrides).config
    from mlvlab_jax.errors import ConfigError

    layers = []
    for text in parsed.overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{text!r}: expected name=value, for example variant=S")
        key = key.strip().removeprefix("model.").removeprefix("params.")
        path = key if key.startswith("weights.") else f"model.params.{key}"
        layers.append(make_override(path, parse_value(value), place=f"{text!r}"))
    base = {"model": {"name": parsed.model}, "weights": {"path": parsed.file}}
    return override_config(config_from_tree(base), layers)


_ACTIONS: dict[str, tuple[Callable[[argparse.Namespace], int], str]] = {
    "import": (_import, "write weights of another library under our names, all of them or a list of what does not fit"),
    "export": (_export, "write a package, a run or imported weights as another library reads them"),
    "inspect": (_inspect, "list the arrays of a file, what it is read as, and where it differs from a network"),
}


if __name__ == "__main__":
    sys.exit(main())
