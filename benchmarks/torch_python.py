"""An interpreter with PyTorch and timm, apart from this project's, for benchmarks that have them as their peer."""

import os
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "requirements-torch.txt"


def find_torch_python(given: str | None, *, make: bool) -> tuple[str | None, str]:
    """An interpreter that imports both, and words: its versions, or why there is none.

    Args:
        given: A path; TORCH_PYTHON, then an environment made before, where it is None.
        make: Make that environment if there is none, which downloads some gigabytes.
    """
    own = _folder() / "bin" / "python"
    named = given or os.environ.get("TORCH_PYTHON")
    if named is None and make and not own.exists():
        try:
            _make(_folder())
        except subprocess.CalledProcessError as error:
            return None, f"{_folder()} could not be made: {(error.stderr or str(error)).strip().splitlines()[-1]}"
    if named is None and not own.exists():
        return None, "no interpreter with PyTorch: set TORCH_PYTHON, or let --make-torch make one"
    python = named or str(own)
    ask = [python, "-c", "import timm, torch; print('torch', torch.__version__, 'timm', timm.__version__)"]
    try:
        asked = subprocess.run(ask, capture_output=True, text=True, check=False)
    except OSError as error:
        return None, f"{python}: {error.strerror}"
    if asked.returncode:
        return None, f"{python}: {asked.stderr.strip().splitlines()[-1]}"
    return python, asked.stdout.splitlines()[-1]


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "mlvlab_jax" / "torch"


def _make(folder: Path) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    commands = (
        [sys.executable, "-m", "venv", "--clear", str(partial)],
        [str(partial / "bin" / "python"), "-m", "pip", "install", "--quiet", "--requirement", str(REQUIREMENTS)],
    )
    for command in commands:
        subprocess.run(command, capture_output=True, text=True, check=True)
    partial.rename(folder)
