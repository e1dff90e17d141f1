"""The first request is no slower than those that follow: whatever an answer needs is loaded before it."""

import io
import json
import subprocess
import sys

import numpy as np
from PIL import Image

from tests.conftest import ROOT

CODE = """
import json, sys
from mlvlab_jax.serving.predictor import Predictor

predictor = Predictor.open(sys.argv[1], max_batch=1, compile_cache=False)
before = set(sys.modules)
_, pixels = predictor.decode(sys.stdin.buffer.read())
predictor.top(predictor.predict(pixels[None]).probabilities[0], 5)
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_the_first_answer_imports_nothing(made):
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "PNG")
    done = subprocess.run(
        [sys.executable, "-c", CODE, made], input=file.getvalue(), capture_output=True, check=True, cwd=ROOT
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []
