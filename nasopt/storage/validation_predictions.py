"""Predictions on the validation split, one small file for each trial, so that comparing two trials needs no second run.

A file is compressed NumPy arrays (`.npz`, never pickled) that say all that a comparison needs: predictions, labels, and
which examples they belong to. Files are written under a temporary name and renamed.
"""

from __future__ import annotations

import logging
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from nasopt.host.files import partial_name
from nasopt.host.object_store import fetch, names, remove, send

FOLDER = "predictions"
"""Folder of the predictions, inside the study's own."""
SUFFIX = ".npz"
TFIDF = "tfidf"
"""The file name of the control that is no trial."""
REPLICATES = -1
"""The number of classes that says that the values are the metric itself on resamples."""

logger = logging.getLogger("nasopt")


@dataclass(frozen=True)
class Predictions:
    """A model's predictions on the validation split.

    Attributes:
        values: shape (examples,): the predicted class, or the number.
        labels: shape (examples,): the right class or number.
        classes: the number of classes; 0 for regression; :data:`REPLICATES` where `values` are the metric itself
            on paired resamples (see :class:`nasopt.tasks.base.Evaluation`) and there are no labels.
        split: identifies examples and labels; predictions of different splits cannot be paired.
        positive: the class whose F1 is computed, where there are two.
    """

    values: NDArray[np.generic]
    labels: NDArray[np.generic]
    classes: int
    split: str
    positive: int = 1

    @classmethod
    def of_outputs(
        cls,
        outputs: NDArray[np.float32],
        labels: NDArray[np.generic],
        split: str,
        *,
        classes: bool,
        positive: int = 1,
    ) -> Predictions:
        """Predictions from outputs, (examples, outputs): logits if `classes`, else the first one is the number."""
        if not classes:
            return cls(outputs[:, 0].astype(np.float32), labels.astype(np.float32), 0, split)
        smallest = np.min_scalar_type(outputs.shape[1] - 1)
        return cls(outputs.argmax(axis=1).astype(smallest), labels.astype(smallest), outputs.shape[1], split, positive)

    @classmethod
    def of_replicates(cls, replicates: NDArray[np.float64], split: str) -> Predictions:
        """Predictions that hold the metric on the whole split and on resamples of it, shape (1 + resamples,)."""
        return cls(replicates.astype(np.float32), np.empty(0, dtype=np.float32), REPLICATES, split)

    @property
    def are_constant(self) -> bool:
        """Whether a model says the same of every example, of several; not known where values are of resamples."""
        return self.classes != REPLICATES and len(self.values) > 1 and bool((self.values == self.values[0]).all())


class PredictionStore:
    """The predictions of one study's trials; only a reader until something is written.

    Args:
        study_folder: the study's artifact folder.
    """

    def __init__(self, study_folder: Path) -> None:
        self.folder = study_folder / FOLDER

    def write(self, name: int | str, predictions: Predictions) -> None:
        """Stores predictions under a trial's number, or under a name if no trial made them."""

        def save(file: BinaryIO) -> None:
            np.savez_compressed(
                file,
                values=predictions.values,
                labels=predictions.labels,
                classes=np.array(predictions.classes),
                split=np.array(predictions.split),
                positive=np.array(predictions.positive),
            )

        self._publish(name, save)

    def read(self, name: int | str) -> Predictions | None:
        """The predictions of that name; None if there are none, or if the file is damaged."""
        fetch(self._path(name))
        try:
            with np.load(self._path(name), allow_pickle=False) as arrays:
                positive = int(arrays["positive"]) if "positive" in arrays else 1  # earlier versions knew no other
                return Predictions(
                    arrays["values"], arrays["labels"], int(arrays["classes"]), str(arrays["split"]), positive
                )
        except FileNotFoundError:
            return None
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            logger.warning("%s: cannot be read: %s", self._path(name), error)
            return None

    def copy(self, source: int, target: int) -> None:
        """Gives a trial the predictions of one that did the same work, where those are still there."""
        fetch(self._path(source))
        try:
            with self._path(source).open("rb") as original:
                self._publish(target, lambda file: shutil.copyfileobj(original, file))
        except FileNotFoundError:
            return

    def collect(self, finished: Iterable[int], keep: set[int]) -> int:
        """Deletes the files of the `finished` trials that are not in `keep`, and returns how many went."""
        stems = {name.removesuffix(SUFFIX) for name in names(self.folder) if name.endswith(SUFFIX)}
        there = {int(stem) for stem in stems if stem.isdecimal()}
        dropped = (set(finished) & there) - keep
        for number in dropped:
            remove(self._path(number))
        return len(dropped)

    def _publish(self, name: int | str, save: Callable[[BinaryIO], None]) -> None:
        self.folder.mkdir(exist_ok=True)
        partial = self.folder / partial_name()
        try:
            with partial.open("wb") as file:
                save(file)
            partial.replace(self._path(name))
            send(self._path(name))
        finally:
            partial.unlink(missing_ok=True)

    def _path(self, name: int | str) -> Path:
        return self.folder / f"{name}{SUFFIX}"
