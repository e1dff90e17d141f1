"""The command as a person types it, in this process; one test starts it by its name."""

import json
import subprocess
import sys

import pytest

from mlvlab_jax.cli import main as mlvlab
from mlvlab_jax.register import main
from mlvlab_jax.registry import ModelRegistry
from mlvlab_jax.registry.file_store import FileStore
from tests.registry.packages import make_package


@pytest.fixture
def packages(tmp_path):
    return [
        str(make_package(tmp_path / "first", wrong=range(20), seed=1)),
        str(make_package(tmp_path / "second", wrong=range(5, 15), seed=2)),
        str(make_package(tmp_path / "third", wrong=range(60), seed=3, data_version=())),
    ]


@pytest.fixture
def registry(tmp_path, capsys, monkeypatch):
    """Runs an action; gives exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        code = main([*arguments, "--registry", str(tmp_path / "registry")])
        return code, *capsys.readouterr()

    return run


def lines(text):
    return [line.rstrip() for line in text.splitlines()]


def test_a_life_of_three_versions(registry, packages, tmp_path):
    for version, package in zip(("1.0.0", "1.1.0", "1.2.0-rc.1"), packages, strict=True):
        said = registry("register", f"digits:{version}", package, "--metadata", "note=by hand", "--metadata", "a=b=c")
        assert said == (0, f"digits {version}: registered\n", "")
    assert registry("promote", "digits:1.0.0")[0] == 0

    code, out, err = registry("promote", "digits:1.1.0", "metric_floors.test/accuracy=0.95")
    assert (code, err) == (0, "")
    assert lines(out) == [
        "gate",
        "digests        passed  13 files",
        "data version   passed  data/raw aaaaaaaaaaaa",
        "test/accuracy  passed  0.9900, floor 0.95",
        "champion       passed  +1.00 points against 1.0.0 on 1,000 examples, 95 % [+0.54, +1.83], tolerance 2",
        "latency        passed  not asked for",
        "digits@champion is 1.1.0",
    ]

    (tmp_path / "policy.yaml").write_text("metric_floors: {test/accuracy: 0.9}\ntolerance_points: 0.5\n")
    code, out, err = registry(
        "promote", "digits:1.2.0-rc.1", "--policy", str(tmp_path / "policy.yaml"), "data_version=any"
    )
    assert code == 65
    assert "test/accuracy  passed   0.9400, floor 0.9" in lines(out)
    assert "champion       REFUSED  -5.00 points against 1.1.0 on 1,000 examples, 95 % [-6.53" in out
    assert err == "error: digits 1.2.0-rc.1 as champion: refused by champion; nothing was changed\n"

    code, out, _ = registry("list")
    assert code == 0
    assert [line.split()[:3] for line in lines(out)][1:3] == [
        ["digits", "1.0.0", lines(out)[1].split()[2]],
        ["digits", "1.1.0", "champion"],
    ]
    assert registry("verify", "digits") == (0, "digits 1.0.0, 1.1.0, 1.2.0-rc.1: good\n", "")
    assert registry("rollback", "digits@champion") == (0, "digits@champion is 1.0.0 again\n", "")
    code, out, _ = registry("show", "digits")
    assert [line.split("  ")[-1].strip() for line in lines(out)] == [
        "what",
        "1.0.0 registered",
        "1.1.0 registered",
        "1.2.0-rc.1 registered",
        "champion -> 1.0.0 (promote)",
        "champion -> 1.1.0 (promote, was 1.0.0)",
        "champion -> 1.0.0 (rollback, was 1.1.0)",
    ]


def test_json_of_each_action(registry, packages):
    code, out, _ = registry("register", "digits:1.0.0", packages[0], "--json", "--metadata", "a=b=c")
    record = json.loads(out)
    assert (record["version"], record["metadata"]) == ("1.0.0", {"a": "b=c"})
    promoted = json.loads(registry("promote", "digits:1.0.0", "--json")[1])
    assert promoted["promoted"] is True
    assert [gate["name"] for gate in promoted["gates"]] == ["digests", "data version", "champion", "latency"]
    assert json.loads(registry("list", "--json")[1]) == [record | {"aliases": ["champion"]}]
    assert json.loads(registry("show", "digits@champion", "--json")[1]) == record | {"aliases": ["champion"]}
    assert json.loads(registry("show", "digits:1.0.0")[1]) == record | {"aliases": ["champion"]}
    history = json.loads(registry("show", "digits", "--json")[1])
    assert (history["aliases"], [e["action"] for e in history["history"]]) == (
        {"champion": "1.0.0"},
        ["register", "promote"],
    )
    assert json.loads(registry("verify", "digits", "--json")[1]) == {"name": "digits", "good": ["1.0.0"], "bad": {}}

    registry("register", "digits:1.1.0", packages[1])
    registry("promote", "digits:1.1.0")
    code, out, err = registry("promote", "digits:1.0.0", "--json", "tolerance_points=1")
    refused = json.loads(out)
    assert (code, refused["promoted"]) == (65, False)
    assert [gate["name"] for gate in refused["gates"] if not gate["passed"]] == ["champion"]
    assert err == "error: digits 1.0.0 as champion: refused by champion; nothing was changed\n"
    assert json.loads(registry("rollback", "digits@champion", "--json")[1])["version"] == "1.0.0"


def test_an_alias_can_be_promoted_to_another(registry, packages):
    registry("register", "digits:1.0.0", packages[0])
    registry("promote", "digits:1.0.0", "--alias", "candidate")
    assert (
        registry("promote", "digits@candidate", "--alias", "champion")[1].splitlines()[-1] == "digits@champion is 1.0.0"
    )


def test_verify_names_every_damaged_version(registry, packages, tmp_path):
    for version, package in zip(("1.0.0", "1.1.0", "1.2.0"), packages, strict=True):
        registry("register", f"digits:{version}", package)
    store = ModelRegistry(FileStore(tmp_path / "registry"))
    (store.open_package("digits", "1.0.0") / "labels.json").unlink()
    (store.open_package("digits", "1.2.0") / "extra").write_text("")
    code, out, err = registry("verify", "digits")
    assert (code, out) == (65, "digits 1.1.0: good\n")
    assert [line.split(":")[0] for line in err.removeprefix("error: ").splitlines()] == ["digits 1.0.0", "digits 1.2.0"]
    assert registry("verify", "digits:1.1.0") == (0, "digits 1.1.0: good\n", "")


BAD = {
    "no version": (["register", "digits", "P"], 65, "'digits': expected NAME:VERSION"),
    "alias for version": (["register", "digits@champion", "P"], 65, "'digits@champion': expected NAME:VERSION"),
    "not semver": (["register", "digits:1.0", "P"], 65, "semver.org"),
    "name": (["register", "../digits:1.0.0", "P"], 65, "model name '../digits'"),
    "no package": (["register", "digits:1.0.0", "gone"], 65, "gone: no such folder or file"),
    "note": (["register", "digits:1.0.0", "P", "--metadata", "=x"], 64, "expected KEY=VALUE"),
    "no alias": (["rollback", "digits"], 65, "'digits': expected NAME@ALIAS"),
    "reserved alias": (["rollback", "digits@latest"], 65, "alias 'latest'"),
    "no model": (["promote", "digits:1.0.0"], 65, "no model 'digits' is registered"),
    "policy typo": (
        ["promote", "digits:1.0.0", "metric_floor=1"],
        64,
        "metric_floor: unknown key; did you mean 'metric_floors'?",
    ),
    "policy value": (["promote", "digits:1.0.0", "tolerance_points=-1"], 64, "tolerance_points: expected"),
    "policy file": (["promote", "digits:1.0.0", "--policy", "gone.yaml"], 64, "gone.yaml: No such file"),
    "show nothing": (["show", "digits"], 65, "no model 'digits' is registered"),
    "verify nothing": (["verify", "digits@champion"], 65, "no model 'digits' is registered"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_and_an_exit_code_and_leaves_nothing(case, registry, packages, tmp_path):
    arguments, code, expected = BAD[case]
    before = sorted(tmp_path.rglob("*"))
    found, out, err = registry(*(packages[0] if argument == "P" else argument for argument in arguments))
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert expected in err
    assert len(err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_policy_file_is_read_by_the_rules_of_configurations(registry, tmp_path):
    (tmp_path / "policy.yaml").write_text("data_version: recorded\ntolerance: 1\nlatency_budget_ms: fast\n")
    code, out, err = registry("promote", "digits:1.0.0", "--policy", str(tmp_path / "policy.yaml"))
    assert (code, out) == (64, "")
    assert "policy.yaml:2: tolerance: unknown key; did you mean 'tolerance_points'?" in err
    assert "policy.yaml:3: latency_budget_ms: expected a number, found 'fast'" in err


def test_an_address_is_taken_for_mlflow(uri, packages, capsys):
    assert main(["register", "digits:1.0.0", packages[0], "--registry", uri]) == 0
    assert main(["promote", "digits:1.0.0", "--registry", uri]) == 0
    assert main(["list", "--registry", uri]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:3] == ["digits", "1.0.0", "champion"]


def test_an_empty_registry_lists_nothing(registry):
    assert registry("list", "--json") == (0, "[]\n", "")


def test_the_command_is_in_mlvlab_and_its_help_comes_without_jax(capsys):
    with pytest.raises(SystemExit):
        mlvlab(["registry", "--help"])
    assert "rollback  let an alias point to what it did before its last promotion" in capsys.readouterr().out
    code = (
        "import sys; from mlvlab_jax.cli import main\ntry: main(['registry', 'promote', '--help'])\nexcept SystemExit: pass\n"
        "sys.exit(sum(m in sys.modules for m in ('jax', 'numpy', 'pydantic', 'mlflow')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--policy FILE" in done.stdout
    with pytest.raises(SystemExit) as caught:
        mlvlab(["registry", "promot"])
    assert caught.value.code == 2
