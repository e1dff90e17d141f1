"""Errors a person can act on: each names place, value, expectation and fix, and carries its exit code."""

#: Exit code of a command that ends by an error that nobody foresaw.
INTERNAL_EXIT_CODE = 70


class MlvlabError(Exception):
    """Base of every error meant for the person at the keyboard.

    Args:
        message: What was found, what was expected and how to fix it.
        path: Dotted config path the error is about ("model.params.num_heads"), or None.
    """

    exit_code = INTERNAL_EXIT_CODE

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class ConfigError(MlvlabError):
    """The configuration cannot be used as written."""

    exit_code = 64


class DataError(MlvlabError):
    """The data on disk is missing, empty or not what the configuration says."""

    exit_code = 65


class PackageError(MlvlabError):
    """A model package is incomplete, altered, or holds what a package may not hold."""

    exit_code = 65


class RegistryError(MlvlabError):
    """The registry has no such model, version or alias, has it already, or refuses the change."""

    exit_code = 65


class CheckpointError(MlvlabError):
    """No checkpoint answers the request."""

    exit_code = 66


class RunFolderError(MlvlabError):
    """The run folder cannot be written: another live process owns it."""

    exit_code = 73


class DiskError(MlvlabError):
    """The disk refused a write."""

    exit_code = 74


class JoinError(MlvlabError):
    """The processes of a run did not all come together."""

    exit_code = 76


class CorruptionError(MlvlabError):
    """Devices computed or hold different bits where they should be the same."""


class NonFiniteError(MlvlabError):
    """The loss or a parameter became NaN or infinite.

    Args:
        message: As of every error.
        path: As of every error.
        step: Of training at which it was found, where it was there.
        what: The finding alone.
    """

    exit_code = 77

    def __init__(self, message: str, *, path: str | None = None, step: int | None = None, what: str = "") -> None:
        super().__init__(message, path=path)
        self.step = step
        self.what = what


#: Exit code of a run that was asked to stop, saved its state and wants to be started again.
PREEMPTED_EXIT_CODE = 75
