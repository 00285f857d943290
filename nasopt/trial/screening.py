"""Screening: a provisional candidate is given up on a part of the validation split if others are shown to be better.

It is compared with one trial of the Pareto front of all trials that is at least as fast and as small: the one that is
best on the *other* examples, so that its choice knows nothing of the examples that decide. There is one comparison for
each candidate, so that the confidence of the interval is that of the decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from optuna.trial import FrozenTrial
from torch import Tensor

from nasopt.config.study import ScreeningConfig
from nasopt.numerics.comparison import (
    NUMBER_RESAMPLES,
    RESAMPLES,
    Difference,
    class_difference,
    class_score,
    number_scores,
    score_difference,
)
from nasopt.numerics.stratified import stratified_sample
from nasopt.records import queries
from nasopt.storage.validation_predictions import Predictions, PredictionStore
from nasopt.tasks.base import Evaluation, LabelledTask
from nasopt.tasks.batches import EncodedSplit
from nasopt.training.candidate import Candidate, ScreenedCandidateError
from nasopt.training.context import Context

_TAIL = 20
"""The least number of resamples that lie beyond each end of the interval."""


@dataclass(frozen=True)
class Screening:
    """The screening of one candidate.

    Attributes:
        part: positions in the validation split that are evaluated first, ascending, int64, shape (examples,).
        split: the validation split, in the base model's tokens.
        members: the trials of the front.
        predictions: those of the study's trials.
        task: gives the metric.
        confidence: of the interval on the difference.
    """

    part: Tensor
    split: EncodedSplit
    members: Sequence[FrozenTrial]
    predictions: PredictionStore
    task: LabelledTask
    confidence: float

    @cached_property
    def rest(self) -> Tensor:
        """The other positions, ascending, int64."""
        is_other = torch.ones(len(self.split), dtype=torch.bool)
        is_other[self.part] = False
        return is_other.nonzero().flatten()

    def check(self, costs: Sequence[float], outputs: NDArray[np.float32]) -> None:
        """Lets a candidate pass unless a member that costs no more is better, with confidence.

        Args:
            costs: its latencies in ms and its memory in MB, in the order of the objectives.
            outputs: its outputs on the part, shape (examples, outputs).

        Raises:
            ScreenedCandidateError: it is shown to be worse.
        """
        rival = self._rival(costs)
        if rival is None:
            return
        number, theirs = rival
        found = self._difference(self._on_part(theirs), self._predictions(outputs))
        if found.low > 0:
            raise ScreenedCandidateError(
                f"trial {number} costs no more and is better by {found.value:.4f} ({100 * self.confidence:g} % "
                f"interval {found.low:.4f} to {found.high:.4f}) on {len(self.part)} of {len(self.split)} "
                "validation examples"
            )

    def joined(self, part: NDArray[np.float32], rest: NDArray[np.float32]) -> Evaluation:
        """The evaluation on the whole split, from the outputs on the part and on the rest, (examples, outputs) each."""
        outputs = np.empty((len(self.split), part.shape[1]), dtype=np.float32)
        outputs[self.part.numpy()], outputs[self.rest.numpy()] = part, rest
        return Evaluation(self.task.quality(outputs, self.split.labels.numpy()), outputs)

    def _rival(self, costs: Sequence[float]) -> tuple[int, Predictions] | None:
        """The member that costs no more and is best on the rest, by number, with its predictions; None without any."""
        best: tuple[float, int, Predictions] | None = None
        for member in self.members:
            if any(theirs > mine for theirs, mine in zip(member.values[1:], costs, strict=True)):
                continue
            theirs = self.predictions.read(member.number)
            if theirs is None or theirs.split != self.split.fingerprint:
                continue
            score = self._score_on_rest(theirs)
            if best is None or score > best[0]:
                best = score, member.number, theirs
        return None if best is None else best[1:]

    def _score_on_rest(self, found: Predictions) -> float:
        """The metric on the rest; minus infinity where it is not defined."""
        rest, metric = self.rest.numpy(), self.task.config.metric
        labels, values = found.labels[rest], found.values[rest]
        if found.classes:
            return class_score(labels, values, classes=found.classes, metric=metric, positive=found.positive)
        return float(np.nan_to_num(number_scores(labels, [values], metric=metric, resamples=0)[0, 0], nan=-np.inf))

    def _on_part(self, found: Predictions) -> NDArray[np.generic]:
        values: NDArray[np.generic] = found.values[self.part.numpy()]
        return values

    def _predictions(self, outputs: NDArray[np.float32]) -> Predictions:
        task = self.task
        labels = self.split.labels[self.part].numpy()
        return Predictions.of_outputs(outputs, labels, "", classes=task.is_classification, positive=task.positive_class)

    def _difference(self, theirs: NDArray[np.generic], mine: Predictions) -> Difference:
        """The member's metric minus the candidate's, on the part."""
        metric, tail = self.task.config.metric, (1 - self.confidence) / 2
        resamples = max(RESAMPLES if mine.classes else NUMBER_RESAMPLES, round(_TAIL / tail))
        if mine.classes:
            return class_difference(
                mine.labels,
                theirs,
                mine.values,
                classes=mine.classes,
                metric=metric,
                positive=mine.positive,
                confidence=self.confidence,
                resamples=resamples,
            )
        scores = number_scores(mine.labels, [theirs, mine.values], metric=metric, resamples=resamples)
        return score_difference(scores[0], scores[1], self.confidence)


def screening_of(candidate: Candidate, study: optuna.Study, context: Context) -> Screening | None:
    """The screening of a candidate; None where there is none.

    That is so for final candidates, for tasks whose metric is not computed from the outputs of single examples, where
    the study file says so, and where the part would be more than half of the validation split.
    """
    config, task, split = context.config.screening, context.task.labelled, context.splits["validation"]
    if not (candidate.is_provisional and config.enabled) or task is None or not isinstance(split, EncodedSplit):
        return None
    part = part_of(split, config, context.config.seed, classes=task.is_classification)
    if part is None:
        return None
    members = queries.whole_front(study)
    return Screening(part, split, members, PredictionStore(context.folder), task, config.confidence)


def part_of(split: EncodedSplit, config: ScreeningConfig, seed: int, *, classes: bool) -> Tensor | None:
    """The positions that are evaluated first, the same for every candidate, every class in its share; int64, ascending.

    None where they would be more than half of the split, so that little would be saved.
    """
    size = max(config.min_examples, round(config.share * len(split)))
    if 2 * size > len(split):
        return None
    labels = split.labels.numpy() if classes else np.zeros(len(split))
    return torch.from_numpy(stratified_sample(labels, size, seed))
