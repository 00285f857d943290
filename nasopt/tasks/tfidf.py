"""TF-IDF and a linear model, which show how well a task can be done without a language model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nasopt.tasks.base import LabelledTask
from nasopt.tasks.batches import Examples


@dataclass(frozen=True)
class TfidfResult:
    """The metric on the validation split, the outputs of shape (examples, outputs), and the seconds of the fit."""

    quality: float
    outputs: NDArray[np.float32]
    seconds: float


def fit_tfidf(task: LabelledTask, splits: Mapping[str, Examples]) -> TfidfResult:
    """Fits logistic regression (ridge regression for numbers) on word 1- and 2-grams of the raw training texts.

    Term frequencies are sublinear, everything else is scikit-learn's default. The result's outputs are of shape
    (validation examples, outputs).

    Raises:
        ValueError: there are no words, or there is one class only.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    started = time.perf_counter()
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    model = make_pipeline(words, LogisticRegression(max_iter=1000) if task.is_classification else Ridge())
    model.fit(task.texts("train"), splits["train"].labels.numpy())
    texts = task.texts("validation")
    if task.is_classification:
        outputs = np.zeros((len(texts), task.num_outputs), dtype=np.float32)
        outputs[:, model.classes_] = model.predict_proba(texts)  # a class may have no training example
    else:
        outputs = model.predict(texts).astype(np.float32)[:, None]
    quality = task.quality(outputs, splits["validation"].labels.numpy())
    return TfidfResult(quality, outputs, time.perf_counter() - started)
