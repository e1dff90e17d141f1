"""The unreadable examples that several processes met, known to all of them alike."""

from collections.abc import Sequence

from mlvlab_jax.data.quarantine import BadExample, Quarantine
from mlvlab_jax.engine.distributed import gather, is_joined


class SharedQuarantine:
    """Keeps what this process met until all of them `share`, so that they stop together; alone it is the quarantine.

    Args:
        quarantine: Where it goes then.
    """

    def __init__(self, quarantine: Quarantine) -> None:
        self._quarantine = quarantine
        self._met: list[BadExample] = []

    @property
    def num_bad(self) -> int:
        """Unreadable examples that all know of."""
        return self._quarantine.num_bad

    def add(self, found: Sequence[BadExample]) -> None:
        """Takes what could not be read.

        Raises:
            DataError: As `Quarantine.add`, of a process that is alone.
        """
        self._met += found
        if not is_joined():
            self.share()

    def share(self) -> None:
        """Tells all processes; each of them must call it.

        Raises:
            DataError: More than the allowed share of a split is unreadable; in all processes.
        """
        met, self._met = self._met, []
        everyone = gather([list(example) for example in met])
        self._quarantine.add([BadExample(*example) for found in everyone for example in found])
