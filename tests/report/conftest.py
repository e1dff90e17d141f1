import pytest
import yaml

from mlvlab_jax import train
from tests.conftest import TINY, merge


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Folder of a run of a few seconds, that ends with its page."""
    folder = tmp_path_factory.mktemp("trained")
    changes = {
        "mesh": {"data": -1},
        "training": {"num_epochs": 2},
        "evaluation": {"metrics": [{"name": name} for name in ("loss", "accuracy", "confusion_matrix")]},
    }
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(merge(TINY, changes)))
    assert train.main(["--config", str(config), "--workdir", str(folder / "run")]) == 0
    return folder / "run"
