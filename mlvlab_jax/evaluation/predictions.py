"""What a model said of every example of a split, and the Parquet file that keeps it."""

import dataclasses
import functools
import io
import json
from pathlib import Path

import numpy as np

from mlvlab_jax.errors import DataError
from mlvlab_jax.files import write_atomic

_METADATA_KEY = b"mlvlab"
_COLUMNS = ("id", "index", "label", "logits")


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """Logits of n examples over k classes.

    ids: names of the examples, the same whatever the model. index: int64 (n), in the source. label: int32 (n).
    logits: float32 (n, k). config_hash and step: which model.
    """

    ids: tuple[str, ...]
    index: np.ndarray
    label: np.ndarray
    logits: np.ndarray
    class_names: tuple[str, ...]
    split: str
    step: int
    config_hash: str

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def prediction(self) -> np.ndarray:
        """Most likely class, the first of equals, int32 (n)."""
        return self.logits.argmax(1).astype(np.int32)

    @functools.cached_property
    def correct(self) -> np.ndarray:
        """Whether the prediction is the label, bool (n)."""
        return self.prediction == self.label

    @functools.cached_property
    def log_probability(self) -> np.ndarray:
        """Log of the probability of each class, float64 (n, k)."""
        return compute_log_probability(self.logits)

    @functools.cached_property
    def confidence(self) -> np.ndarray:
        """Probability of the prediction, float64 (n)."""
        return np.exp(self.log_probability.max(1))

    @functools.cached_property
    def nll(self) -> np.ndarray:
        """Negative log of the label's probability in nats, float64 (n)."""
        return -self.log_probability[np.arange(len(self)), self.label]


def compute_log_probability(logits: np.ndarray) -> np.ndarray:
    """Log-softmax over the last dim, float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Writes `predictions` as Parquet, whole or not at all: one row an example, the model in the file's metadata.

    Columns: id, index, label, prediction, confidence, nll, and logits as a list of fixed size.
    """
    import pyarrow as pa
    from pyarrow import parquet

    flat = pa.array(np.ascontiguousarray(predictions.logits, np.float32).ravel())
    table = pa.table(
        {
            "id": pa.array(predictions.ids, pa.string()),
            "index": pa.array(predictions.index, pa.int64()),
            "label": pa.array(predictions.label, pa.int32()),
            "prediction": pa.array(predictions.prediction, pa.int32()),
            "confidence": pa.array(predictions.confidence.astype(np.float32)),
            "nll": pa.array(predictions.nll.astype(np.float32)),
            "logits": pa.FixedSizeListArray.from_arrays(flat, predictions.logits.shape[1]),
        }
    )
    model = {name: getattr(predictions, name) for name in ("class_names", "config_hash", "step", "split")}
    buffer = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata({_METADATA_KEY: json.dumps(model).encode()}), buffer)
    write_atomic(path, buffer.getvalue())


def read_predictions(path: Path) -> Predictions:
    """The predictions that `write_predictions` wrote.

    Raises:
        DataError: No such file, or not one of predictions.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with path.open("rb") as file:
            table = parquet.read_table(file, columns=list(_COLUMNS))
        model = json.loads(table.schema.metadata[_METADATA_KEY])
        logits = table["logits"].combine_chunks()
        return Predictions(
            ids=tuple(table["id"].to_pylist()),
            index=table["index"].to_numpy(),
            label=table["label"].to_numpy(),
            logits=logits.flatten().to_numpy().reshape(len(table), logits.type.list_size),
            class_names=tuple(model["class_names"]),
            split=model["split"],
            step=model["step"],
            config_hash=model["config_hash"],
        )
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); expected predictions; write them with mlvlab evaluate"
        ) from None
    except (pa.ArrowException, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: no predictions ({type(error).__name__}: {error}); write them anew with mlvlab evaluate"
        ) from None
