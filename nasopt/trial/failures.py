"""Tells whose fault a failure is: the one place where errors that come up in a trial are classed.

A failure of the *candidate* (a loss that is not finite, memory that runs out, an error in what builds it) fails its
trial, and the search goes on. A failure of the *machine* (a full disk, a folder that is gone or cannot be written, a
GPU that fell out, a package that is missing) would fail every other trial too: it ends the work, and no trial is
charged with it. Failures of the database are told by :func:`nasopt.storage.rdb.explaining_failures`.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nasopt.errors import (
    ArtifactFolderError,
    DeviceNotFoundError,
    MachineError,
    MissingExtraError,
    MissingToolError,
    NasoptError,
)
from nasopt.host.files import gone_words, is_there

PROBE_BYTES = 65536
"""Written into the study's folder, and removed, to see whether that is possible at all."""

CURE = "once that is mended, `nasopt study optimize` goes on where this stopped"

_MEMORY = (errno.ENOMEM,)
"""Errors of the operating system that are a candidate's: it was too large."""
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_IN_WORDS = re.compile("|".join([*(re.escape(os.strerror(number)) for number in _DISK), r"\(os error \d+\)"]))
"""Libraries that are not written in Python pass such errors on in their message."""
_LACKING = (ArtifactFolderError, DeviceNotFoundError, MachineError, MissingExtraError, MissingToolError)


def machine_failure(error: BaseException, folder: Path) -> str | None:
    """Says what of the machine failed, on one line; None if the candidate is to blame.

    Args:
        error: the error that came up.
        folder: the study's artifact folder, which is tried out where the error itself does not tell.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, _LACKING):
            return str(link)
        if _is_machine_s(link):
            return in_one_line(link) if is_there(folder) else gone_words(folder)
        link = link.__cause__
    return _unusable(folder)


@contextmanager
def explaining_machine(folder: Path) -> Iterator[None]:
    """Makes one line of a failure of the machine outside of a trial: while a study is prepared, or between trials.

    Args:
        folder: the study's artifact folder.

    Raises:
        MachineError: with that line.
    """
    try:
        yield
    except NasoptError:
        raise
    except Exception as error:
        reason = machine_failure(error, folder)
        if reason is None:
            raise
        raise MachineError(f"{reason}; {CURE}") from error


def in_one_line(error: BaseException) -> str:
    """The error's type and the first line of its message."""
    return f"{type(error).__name__}: {str(error) or 'no message'}".splitlines()[0]


def _is_machine_s(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno not in _MEMORY
    if type(error).__name__ == "AcceleratorError":  # torch need not be imported to look at the name of its error
        return "out of memory" not in str(error)
    return not isinstance(error, NasoptError) and _IN_WORDS.search(str(error)) is not None


def _unusable(folder: Path) -> str | None:
    """Says why the study's files cannot be read or written; None if they can."""
    if not is_there(folder):
        return gone_words(folder)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
    except OSError as error:
        return f"{folder}: cannot be written ({error.strerror})"
    return None
