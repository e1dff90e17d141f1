"""A data source in whose readers something goes wrong: a plugin of the configurations of `test_readers`."""

import dataclasses
import multiprocessing
import threading

from mlvlab_jax.config.fields import configclass
from mlvlab_jax.data.sources.synthetic import SyntheticParams, open_synthetic
from mlvlab_jax.plugins import SOURCES


@configclass
class BreakingParams:
    wrong: int | None = None


class Breaking:
    """Not in memory, so that readers read it."""

    resident = False

    def __init__(self, source, wrong):
        self._source, self._wrong, self.spec = source, wrong, source.spec

    def __len__(self):
        return len(self._source)

    def name(self, index):
        return f"image-{index}"

    def fetch(self, ids):
        reads_ahead = multiprocessing.parent_process() or threading.current_thread() is not threading.main_thread()
        if self._wrong in ids and reads_ahead:
            raise ValueError("a bug of this source")
        return self._source.fetch(ids)


@SOURCES.register("breaking", BreakingParams, example={})
def open_breaking(params):
    opened = open_synthetic(SyntheticParams(num_train=640, num_test=64, height=16, width=16))
    splits = {name: Breaking(split, params.wrong) for name, split in opened.splits.items()}
    return dataclasses.replace(opened, splits=splits)
