"""What holds in every store."""

import pytest

from mlvlab_jax.errors import PackageError, RegistryError
from mlvlab_jax.package.archive import write_archive
from mlvlab_jax.registry import ModelRegistry
from mlvlab_jax.registry.gate import RefusedError
from mlvlab_jax.registry.model_registry import open_store
from mlvlab_jax.registry.policy import PromotionPolicy
from mlvlab_jax.registry.store import make_move
from tests.registry.packages import make_package
from tests.registry.test_names import BAD_NAMES


class VisionTransformer:
    def __init__(self):
        raise AssertionError("a registry builds nothing")


@pytest.fixture
def registry(store):
    return ModelRegistry(store)


@pytest.fixture
def packages(tmp_path):
    """Three of a kind: the second better than the first, the third worse and of unknown data."""
    return [
        make_package(tmp_path / "first", wrong=range(20), seed=1),
        make_package(tmp_path / "second", wrong=range(5, 15), seed=2),
        make_package(tmp_path / "third", wrong=range(60), seed=3, data_version=()),
    ]


def test_the_guide_registers_a_class(registry):
    registry.register(
        name="vision_transformer",
        version="1.0.0",
        model_class=VisionTransformer,
        metadata={
            "description": "Vision Transformer implementation",
            "architecture": "ViT-B/16",
            "parameters": "86M",
            "input_size": (224, 224),
            "dataset": "ImageNet-1K",
        },
    )
    record = registry.get("vision_transformer", "1.0.0")
    assert record.model_class == f"{__name__}.VisionTransformer"
    assert record.metadata["architecture"] == "ViT-B/16"
    assert record.metadata["input_size"] == [224, 224]
    assert record.environment["versions"]["jax"]
    assert record.environment["git"].keys() == {"commit", "dirty"}
    assert registry.list() == (record,)
    assert [(event.action, event.version) for event in registry.history("vision_transformer")] == [
        ("register", "1.0.0")
    ]
    registry.verify("vision_transformer", "1.0.0")
    with pytest.raises(RegistryError, match="1.0.0 is a class; expected a package"):
        registry.promote("vision_transformer", "1.0.0")
    with pytest.raises(RegistryError, match="registered as a class"):
        registry.open_package("vision_transformer", "1.0.0")


def test_a_version_never_changes(registry, packages):
    first = registry.register(name="m", version="1.0.0", package=packages[0])
    with pytest.raises(RegistryError, match="m 1.0.0: exists in .*raise the number") as caught:
        registry.register(name="m", version="1.0.0", package=packages[1])
    assert caught.value.exit_code == 65
    assert registry.list("m") == (first,)
    assert len(registry.history("m")) == 1
    registry.verify("m", "1.0.0")


def test_versions_come_in_their_order_and_names_in_theirs(registry):
    for name, version in (("b", "1.10.0"), ("b", "1.9.0"), ("b", "1.10.0-rc.1"), ("a", "0.1.0")):
        registry.register(name=name, version=version, model_class=VisionTransformer)
    assert [(record.name, record.version) for record in registry.list()] == [
        ("a", "0.1.0"),
        ("b", "1.9.0"),
        ("b", "1.10.0-rc.1"),
        ("b", "1.10.0"),
    ]


def test_promote_and_roll_back(registry, store, packages):
    for version, package in zip(("1.0.0", "1.1.0", "1.2.0"), packages, strict=True):
        registry.register(name="m", version=version, package=package)
    registry.promote("m", "1.0.0")
    results = registry.promote("m", "1.1.0", policy=PromotionPolicy(metric_floors={"test/accuracy": 0.95}))
    assert [(result.name, result.passed) for result in results] == [
        ("digests", True),
        ("data version", True),
        ("test/accuracy", True),
        ("champion", True),
        ("latency", True),
    ]
    assert registry.get("m", "champion").version == "1.1.0"
    assert (registry.open_package("m", "champion") / "manifest.json").read_bytes() == (
        packages[1] / "manifest.json"
    ).read_bytes()

    with pytest.raises(RefusedError, match=r"m 1.2.0 as champion: refused") as caught:
        registry.promote("m", "1.2.0", policy=PromotionPolicy(metric_floors={"test/accuracy": 0.95}))
    assert [r.name for r in caught.value.results if not r.passed] == ["data version", "test/accuracy", "champion"]
    assert "0.9400, floor 0.95: 0.01 short" in str(caught.value)
    assert "-5.00 points against 1.1.0" in str(caught.value)
    assert registry.aliases("m") == {"champion": "1.1.0"}

    assert registry.promote("m", "1.1.0")[0].message == "champion is 1.1.0 already; nothing to do"
    registry.promote("m", "1.2.0", alias="candidate", policy=PromotionPolicy(data_version="any"))
    assert registry.aliases("m") == {"candidate": "1.2.0", "champion": "1.1.0"}

    assert registry.rollback("m").version == "1.0.0"
    assert registry.aliases("m") == {"candidate": "1.2.0", "champion": "1.0.0"}
    with pytest.raises(RegistryError, match="m@champion: is 1.0.0 and was nothing before"):
        registry.rollback("m")
    registry.promote("m", "1.1.0")
    assert registry.rollback("m").version == "1.0.0"

    moves = [event for event in registry.history("m") if event.action != "register"]
    assert [(event.action, event.alias, event.previous, event.version) for event in moves] == [
        ("promote", "champion", None, "1.0.0"),
        ("promote", "champion", "1.0.0", "1.1.0"),
        ("promote", "candidate", None, "1.2.0"),
        ("rollback", "champion", "1.1.0", "1.0.0"),
        ("promote", "champion", "1.0.0", "1.1.0"),
        ("rollback", "champion", "1.1.0", "1.0.0"),
    ]
    assert moves[1].details["policy"]["metric_floors"] == {"test/accuracy": 0.95}
    assert moves[1].details["gates"][3]["message"].startswith("+1.00 points against 1.0.0 on 1,000 examples")
    assert all("@" in event.who for event in moves)


def test_two_rollbacks_go_two_promotions_back(registry, packages):
    anything = PromotionPolicy(data_version="any", tolerance_points=None)
    for version, package in zip(("1.0.0", "1.1.0", "1.2.0"), packages, strict=True):
        registry.register(name="m", version=version, package=package)
        registry.promote("m", version, policy=anything)
    assert [registry.rollback("m").version for _ in range(2)] == ["1.1.0", "1.0.0"]


def test_someone_who_moved_the_alias_meanwhile_is_not_overwritten(registry, store):
    for version in ("1.0.0", "2.0.0"):
        registry.register(name="m", version=version, model_class=VisionTransformer)
    moves = [make_move("promote", alias="champion", version=v, previous=None, details={}) for v in ("1.0.0", "2.0.0")]
    store.set_alias("m", "champion", moves[0])
    with pytest.raises(RegistryError, match="someone moved it since"):
        store.set_alias("m", "champion", moves[1])
    assert registry.aliases("m") == {"champion": "1.0.0"}


@pytest.mark.parametrize("case", BAD_NAMES)
def test_names_that_could_mean_something_else_are_refused_everywhere(case, tmp_path):
    registry, name = ModelRegistry(open_store(str(tmp_path / "registry"))), BAD_NAMES[case]
    for call in (
        lambda: registry.register(name=name, version="1.0.0", model_class=VisionTransformer),
        lambda: registry.get(name, "1.0.0"),
        lambda: registry.list(name),
        lambda: registry.aliases(name),
        lambda: registry.history(name),
        lambda: registry.promote(name, "1.0.0"),
        lambda: registry.rollback(name),
        lambda: registry.verify(name, "1.0.0"),
        lambda: registry.open_package(name, "champion"),
    ):
        with pytest.raises(RegistryError, match="expected 1 to 100"):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"version": "1.0"}, "semver.org"),
        ({"version": "v1.0.0"}, "semver.org"),
        ({"version": "../1.0.0"}, "semver.org"),
        ({"model_class": None}, "expected a class as model_class, or a folder as package"),
        ({"model_class": "VisionTransformer"}, "expected a class as model_class"),
        ({"metadata": {"loss": float("nan")}}, "metadata cannot be JSON"),
        ({"metadata": {"class": VisionTransformer}}, "metadata cannot be JSON"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_written(arguments, expected, tmp_path):
    good = {"name": "m", "version": "1.0.0", "model_class": VisionTransformer}
    with pytest.raises(RegistryError, match=expected):
        ModelRegistry(open_store(str(tmp_path / "registry"))).register(**{**good, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_is_named_with_what_is(registry):
    with pytest.raises(RegistryError, match="no model 'vit' is registered; there are none"):
        registry.get("vit", "1.0.0")
    registry.register(name="vision_transformer", version="1.0.0", model_class=VisionTransformer)
    with pytest.raises(
        RegistryError, match="no model 'vision_transfomer' is registered; did you mean 'vision_transformer'?"
    ):
        registry.list("vision_transfomer")
    with pytest.raises(RegistryError, match=r"vision_transformer has no version 2.0.0; there are 1.0.0"):
        registry.promote("vision_transformer", "2.0.0")
    with pytest.raises(RegistryError, match="vision_transformer has no alias 'champion'; there are none"):
        registry.rollback("vision_transformer")


def test_a_package_in_a_tar_is_registered_as_the_folder_is(tmp_path, packages):
    write_archive(packages[0], tmp_path / "first.tar")
    registry = ModelRegistry(open_store(str(tmp_path / "registry")))
    folder = registry.register(name="m", version="1.0.0", package=packages[0])
    tar = registry.register(name="m", version="1.0.1", package=tmp_path / "first.tar")
    assert tar.package_sha256 == folder.package_sha256
    registry.verify("m", "1.0.1")


def test_a_damaged_package_is_neither_promoted_nor_rolled_back_to(tmp_path, packages):
    registry = ModelRegistry(open_store(str(tmp_path / "registry")))
    for version, package in zip(("1.0.0", "1.1.0"), packages[:2], strict=True):
        registry.register(name="m", version=version, package=package)
        registry.promote("m", version)
    readme = registry.open_package("m", "1.0.0") / "README.md"
    readme.chmod(0o644)
    readme.write_text(readme.read_text().swapcase())
    with pytest.raises(PackageError, match="README.md: was altered"):
        registry.rollback("m")
    with pytest.raises(RefusedError, match="digests: .*README.md: was altered"):
        registry.promote("m", "1.0.0", alias="other")
    assert registry.aliases("m") == {"champion": "1.1.0"}
