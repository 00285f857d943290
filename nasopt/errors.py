"""Errors a user can mend.

Every one of them becomes a single line on stderr and an exit code (see :mod:`nasopt.cli`), so its message says what is
wrong, where, and how to mend it. Anything that is not a :class:`NasoptError` is a defect of ours.
"""

from __future__ import annotations

from collections.abc import Iterable


class NasoptError(Exception):
    """Base class of every error that the user can mend.

    Attributes:
        exit_code: the exit code of a command that ends with the error: 2 if it was asked for something impossible, 1 if
            it failed after it had begun to work.
    """

    exit_code: int = 2


class StudyFileError(NasoptError):
    """A study file that is missing, malformed or holds values that are not allowed."""


class DatasetError(NasoptError):
    """A data set, split or column that does not exist or does not fit the task."""


class UnsupportedModelError(NasoptError):
    """A model that nasopt cannot load or cut exactly."""


class HeadMismatchError(UnsupportedModelError):
    """A model whose head is not of the study's labels."""


class StorageError(NasoptError):
    """A database that cannot be reached or does not hold what was asked for."""


class StudyNotFoundError(StorageError):
    """A study that does not exist in the database."""


class StudyExistsError(StorageError):
    """A study that exists already."""


class UntrustedStudyError(NasoptError):
    """A study that would run code, or write to an object store, that is not trusted on this machine."""


class TrialNotFoundError(NasoptError):
    """A trial that is missing, failed or has no checkpoint."""


class CheckpointError(NasoptError):
    """A checkpoint that is missing or damaged."""


class ArtifactFolderError(NasoptError):
    """An artifact folder that is missing or cannot be written."""


class DeviceNotFoundError(NasoptError):
    """A device that is not present on this machine."""


class LookupTableError(NasoptError):
    """A look-up table of latencies that is missing, malformed, or not for the model or device at hand."""


class DeviceChangedError(NasoptError):
    """A study that would go on with values of another device, which do not compare."""


class PortInUseError(NasoptError):
    """A port that the dashboard cannot listen on."""


class ExportError(NasoptError):
    """A model that cannot be written in the requested form, or did not survive being read back."""


class FigureError(NasoptError):
    """A figure that cannot be drawn, because the study stores nothing of that kind, or cannot be written."""


class MissingExtraError(NasoptError):
    """An optional dependency that is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"the package `{package}` is not installed: pip install 'nasopt[{extra}]'")


class MissingToolError(NasoptError):
    """A program that is not installed on this machine, or does not work."""


class MachineError(NasoptError):
    """A disk, a folder, a database or a GPU that failed while trials ran: the work ends, and no candidate is blamed."""

    exit_code = 1


class SearchFailedError(NasoptError):
    """A search of which no trial could be completed."""

    exit_code = 1


class EvaluationFailedError(NasoptError):
    """A model that a user gave, and that could not be trained, evaluated or measured."""

    exit_code = 1


class WorkerFailedError(NasoptError):
    """An error that ended a worker process.

    Args:
        message: the error's message.
        exit_code: the error's exit code.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class TrainingDivergedError(Exception):
    """A loss that is not finite; it fails the trial."""


def choices(allowed: Iterable[object]) -> str:
    """`a, b, c` for the end of an error message."""
    return ", ".join(str(item) for item in allowed)
