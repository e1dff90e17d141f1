"""CLU's metric writers without TensorFlow.

`clu.metric_writers` imports TensorFlow for its own SummaryWriter. Putting a module with ours in its place before the
first import of CLU leaves all of CLU usable, with event files written by tensorboardX.
"""

import importlib
import struct
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlvlab_jax.tracking.lasting import LastingFile

#: What tensorboardX's table of file systems has ours under: "lasting:FOLDER" is a folder of lasting files.
_LASTING = "lasting"
_REPLACED = "clu.metric_writers.summary_writer"


def import_metric_writers() -> Any:
    """The package `clu.metric_writers`, whose SummaryWriter is the one below."""
    if _REPLACED not in sys.modules:
        stand_in: Any = types.ModuleType(_REPLACED)
        stand_in.SummaryWriter = SummaryWriter
        sys.modules[_REPLACED] = stand_in
        importlib.import_module("clu.metric_writers").MetricWriter.register(SummaryWriter)
    return importlib.import_module("clu.metric_writers")


class SummaryWriter:
    """CLU's MetricWriter interface on tensorboardX event files.

    Args:
        logdir: Folder of the event files.
        purge_step: TensorBoard is to forget what earlier files say of this step and later ones; None for none.
    """

    def __init__(self, logdir: str, *, purge_step: int | None = None) -> None:
        import tensorboardX
        from tensorboardX.record_writer import register_writer_factory

        register_writer_factory(_LASTING, _LastingFiles())
        suffix = f".{purge_step or 0}"  # two files begun in the same second must not share a name
        self._writer = tensorboardX.SummaryWriter(
            f"{_LASTING}:{logdir}", purge_step=purge_step, flush_secs=10, filename_suffix=suffix
        )

    def write_summaries(self, step: int, values: Any, metadata: Any = None) -> None:
        """Not supported: raw summaries are TensorFlow's."""
        raise NotImplementedError("raw summaries need TensorFlow; write scalars, images, texts or histograms")

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """One point on each curve."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, float(value), step)

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """Images (n h w c) as a grid each; one channel is shown as grey."""
        for name, value in images.items():
            batch = np.asarray(value)
            shown = np.repeat(batch, 3, axis=-1) if batch.shape[-1] == 1 else batch
            self._writer.add_images(name, shown, step, dataformats="NHWC")

    def write_videos(self, step: int, videos: Mapping[str, Any]) -> None:
        """Videos (n t h w c)."""
        for name, value in videos.items():
            self._writer.add_video(name, np.moveaxis(np.asarray(value), -1, -3), step)

    def write_audios(self, step: int, audios: Mapping[str, Any], *, sample_rate: int) -> None:
        """Sounds (n t c), sample_rate in Hz."""
        for name, value in audios.items():
            self._writer.add_audio(name, np.asarray(value), step, sample_rate=sample_rate)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Markdown."""
        for name, value in texts.items():
            self._writer.add_text(name, value, step)

    def write_histograms(
        self, step: int, arrays: Mapping[str, Any], num_buckets: Mapping[str, int] | None = None
    ) -> None:
        """Distributions, in 64 buckets unless told otherwise."""
        for name, value in arrays.items():
            self._writer.add_histogram(name, np.asarray(value), step, bins=(num_buckets or {}).get(name, 64))

    def write_pointcloud(self, step: int, point_clouds: Any, **details: Any) -> None:
        """Not supported: point clouds are a TensorFlow plugin's."""
        raise NotImplementedError("point clouds need TensorFlow; write scalars, images, texts or histograms")

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """The table of hyper-parameters."""
        self._writer.add_hparams(dict(hparams), {}, name=".", global_step=0)

    def flush(self) -> None:
        """Writes what is buffered."""
        self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        self._writer.close()


class _LastingFiles:
    """tensorboardX's way to name another file system: here one whose files outlast deletion and read-only disks."""

    def directory_check(self, path: str) -> None:
        """Nothing: the file makes its folder."""

    def open(self, path: str) -> "_RecordFile":
        return _RecordFile(Path(path.removeprefix(f"{_LASTING}:")))


class _RecordFile:
    """Takes a record's pieces (length, its checksum, bytes, their checksum), and appends each record as a whole."""

    def __init__(self, path: Path) -> None:
        self._file = LastingFile(path)
        self._pieces = bytearray()

    def write(self, piece: bytes) -> None:
        self._pieces += piece
        if len(self._pieces) > 8 and len(self._pieces) == struct.unpack_from("Q", self._pieces)[0] + 16:
            self._file.append(bytes(self._pieces))
            self._pieces.clear()

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()
