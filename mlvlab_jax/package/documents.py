"""The JSON documents of a package, each of a fixed form: an unknown key is refused, and nothing in them is imported."""

import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from mlvlab_jax.config.fields import configclass, dump_params, params_from
from mlvlab_jax.config.load import config_from_tree
from mlvlab_jax.config.schema import Config, PreprocessSpec
from mlvlab_jax.data.profile import DataProfile
from mlvlab_jax.errors import ConfigError, DataError, PackageError
from mlvlab_jax.package.members import MEMBERS
from mlvlab_jax.types import ImageSpec

D = TypeVar("D")


@configclass
class Preprocess:
    """preprocess.json: from the bytes of an image file to the network's input."""

    preprocess: PreprocessSpec
    """How a file becomes pixels, with size and channels."""
    mean: tuple[float, ...]
    """Subtracted after scaling pixels to [0, 1]; the network does it itself."""
    std: tuple[float, ...]
    """Divided by after the mean; the network does it itself."""
    image: tuple[int, int, int]
    """Height, width and channels of the pixels the network takes."""
    sha256: str
    """Of the entries above: equal digests promise equal pixels."""

    @classmethod
    def of(cls, spec: PreprocessSpec, *, mean: tuple[float, ...], std: tuple[float, ...]) -> "Preprocess":
        """The document of these settings.

        Raises:
            PackageError: The size or the channels are left open.
        """
        if spec.size is None or spec.channels is None:
            raise PackageError(f"preprocess: size {spec.size}, channels {spec.channels}; expected both to be given")
        image = (*spec.size, spec.channels)
        tree = {"preprocess": dump_params(spec), "mean": list(mean), "std": list(std), "image": list(image)}
        return cls(preprocess=spec, mean=mean, std=std, image=image, sha256=hashlib.sha256(render(tree)).hexdigest())


@configclass
class Labels:
    """labels.json: what the outputs mean."""

    class_names: Annotated[tuple[str, ...], Field(min_length=1)]
    """Of the logits, in their order."""


@configclass
class Calibration:
    """calibration.json: how far the model's confidence can be believed."""

    temperature: Annotated[float, Field(gt=0)] | None = None
    """Logits are divided by it before the softmax; null: none was fitted, 1 is used."""
    fitted_on: Literal["validation"] | None = None
    """Split it was fitted on."""
    before: dict[str, Any] | None = None
    """Measures of calibration without it; null: not measured."""
    after: dict[str, Any] | None = None
    """The same with it."""


@dataclasses.dataclass(frozen=True)
class Documents:
    """All documents of a package that say how to use it.

    config is None where the network is of a plugin that this process has not imported: a package imports nothing.
    """

    config_tree: dict[str, Any]
    config: Config | None
    preprocess: Preprocess
    class_names: tuple[str, ...]
    calibration: Calibration
    profile: DataProfile

    @property
    def image(self) -> ImageSpec:
        """Shape of the images the network takes."""
        return ImageSpec(*self.preprocess.image)


def read_documents(folder: Path) -> Documents:
    """The documents of the package in `folder`, each checked, and against each other.

    Raises:
        PackageError: One is missing, malformed, or contradicts another.
    """
    preprocess = parse(Preprocess, read_document(folder, "preprocess.json"), folder / "preprocess.json")
    expected = Preprocess.of(preprocess.preprocess, mean=preprocess.mean, std=preprocess.std)
    if preprocess != expected:
        raise PackageError(f"{folder / 'preprocess.json'}: contradicts itself; expected {expected}; fetch it again")
    tree = read_document(folder, "config.json")
    try:
        profile = DataProfile.from_json(json.dumps(read_document(folder, "profile.json")))
    except DataError as error:
        raise PackageError(f"{folder / 'profile.json'}: {error}") from None
    documents = Documents(
        config_tree=tree,
        config=_read_config(tree, folder / "config.json"),
        preprocess=preprocess,
        class_names=parse(Labels, read_document(folder, "labels.json"), folder / "labels.json").class_names,
        calibration=parse(Calibration, read_document(folder, "calibration.json"), folder / "calibration.json"),
        profile=profile,
    )
    _check_agree(documents, folder)
    return documents


def _read_config(tree: dict[str, Any], path: Path) -> Config | None:
    """The configuration, or None where reading it would take a plugin that nobody has imported yet."""
    plugins = tree.get("plugins")
    if not isinstance(plugins, list) or not all(isinstance(name, str) for name in plugins):
        raise PackageError(f"{path}: plugins is {plugins!r}; expected a list of names; fetch the package again")
    if unknown := tree.keys() - {field.name for field in dataclasses.fields(Config)}:
        raise PackageError(f"{path}: holds {sorted(unknown)}; expected a configuration of this version; take it out")
    if not sys.modules.keys() >= set(plugins):
        return None
    try:
        return config_from_tree(tree)  # imports nothing: what it would import is there
    except ConfigError as error:
        raise PackageError(
            f"{path}: {'; '.join(str(error).splitlines())}; expected a configuration of this version"
        ) from None


def _check_agree(documents: Documents, folder: Path) -> None:
    config, preprocess = documents.config, documents.preprocess
    if config is not None and (config.pipeline.mean, config.pipeline.std) != (preprocess.mean, preprocess.std):
        raise PackageError(f"{folder}: config.json and preprocess.json differ in mean or std; fetch the package again")
    sizes = len(documents.profile.labels), len(documents.profile.pixels)
    expected = len(documents.class_names), documents.image.channels
    if sizes != expected:
        raise PackageError(
            f"{folder / 'profile.json'}: of (classes, channels) {sizes}; expected {expected}, as in labels.json and "
            "preprocess.json; fetch the package again"
        )


def read_document(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of the package in `folder`.

    Args:
        folder: Of the package.
        name: One of `MEMBERS`.

    Raises:
        PackageError: Missing, too long, not a JSON object, or with a key given twice.
    """
    path, limit = folder / name, MEMBERS[name]
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise PackageError(f"{path}: {error.strerror}; expected a file of a model package; check the path") from None
    if len(data) > limit:
        raise PackageError(f"{path}: over {limit} bytes; expected less of a model package; fetch it again")
    try:
        tree = json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise PackageError(f"{path}: not JSON as a package holds it ({error}); fetch it again") from None
    if not isinstance(tree, dict):
        raise PackageError(f"{path}: holds a {type(tree).__name__}; expected a JSON object; fetch it again")
    return tree


def render(tree: dict[str, Any]) -> bytes:
    """`tree` as a document; the same tree gives the same bytes."""
    return (json.dumps(tree, indent=2, allow_nan=False) + "\n").encode()


def parse(cls: type[D], tree: dict[str, Any], path: Path) -> D:
    """`tree` as an instance of the configclass `cls`.

    Raises:
        PackageError: It is none; names the file, the first entry that is wrong, and how many more there are.
    """
    try:
        return params_from(cls, tree)
    except (ValidationError, RecursionError) as error:
        raise PackageError(f"{path}: {_describe(error)}; expected {cls.__doc__}; fetch the package again") from None


def _describe(error: ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "too deeply nested"
    first = error.errors(include_url=False, include_input=False)[0]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}{more}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError(f"a key is given twice in {sorted(key for key, _ in pairs)[:20]}")
    return tree


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")
