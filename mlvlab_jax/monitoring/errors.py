"""What a true class that is told later may be refused for."""

from mlvlab_jax.errors import DataError


class UnknownPredictionError(DataError):
    """No such answer is remembered: never given, of a version no longer watched, too long ago, or labelled already."""


class UnknownLabelError(DataError):
    """The model has no such class."""
