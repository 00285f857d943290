"""The scores of the encodechka tasks, from embeddings (METHODS.md section 4, "The encodechka protocol").

Each function takes `weights` of shape (rows, evaluation examples), how often an example counts (see
:mod:`nasopt.numerics.resampling`), and gives the score of every row, shape (rows,). Classifiers are fitted once: the
examples that judge them are resampled. Embeddings are unit vectors of shape (examples, hidden), float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from nasopt.numerics.resampling import FloatArray, ratio, roc_auc, spearman

Embeddings = NDArray[np.float32]
Labels = NDArray[np.str_]

MAX_ITERATIONS = 10_000
FOLDS = 3
NEIGHBOURS = 3
SEED = 1
SGD_TOLERANCE = 1e-4


def dot_products(first: Embeddings, second: Embeddings) -> NDArray[np.float32]:
    """The dot product of the two embeddings of each pair; shape (pairs,)."""
    products: NDArray[np.float32] = np.einsum("ij,ij->i", first, second)
    return products


def pair_correlation(weights: FloatArray, first: Embeddings, second: Embeddings, target: FloatArray) -> FloatArray:
    """STS and PI: Spearman correlation of the dot products with the target, shape (rows,).

    Args:
        weights: shape (rows, pairs).
        first: vectors of the first texts, shape (pairs, hidden).
        second: vectors of the second texts, shape (pairs, hidden).
        target: the pairs' scores, shape (pairs,).
    """
    scores: FloatArray = spearman(weights, target, [dot_products(first, second).astype(np.float64)])[0]
    return scores


def pair_accuracy(weights: FloatArray, first: Embeddings, second: Embeddings, labels: Labels) -> FloatArray:
    """NLI: accuracy of a logistic regression on the dot product, by cross-validation; shape (rows,).

    Args:
        weights: shape (rows, pairs).
        first: vectors of the first texts, shape (pairs, hidden).
        second: vectors of the second texts, shape (pairs, hidden).
        labels: the pairs' classes, shape (pairs,).
    """
    folds = KFold(n_splits=FOLDS, shuffle=True, random_state=SEED)
    feature = dot_products(first, second)[:, None]
    predicted = cross_val_predict(LogisticRegression(max_iter=MAX_ITERATIONS), feature, labels, cv=folds)
    return _accuracy(weights, predicted == labels)


def best_accuracy(
    weights: FloatArray, train: Embeddings, train_labels: Labels, test: Embeddings, test_labels: Labels
) -> FloatArray:
    """SA, IC and ICX: accuracy of logistic regression or of the nearest neighbours, the better one in each row.

    Args:
        weights: shape (rows, evaluation examples).
        train: vectors of the training texts, shape (training examples, hidden).
        train_labels: their classes, shape (training examples,).
        test: vectors of the evaluation texts, shape (evaluation examples, hidden).
        test_labels: their classes, shape (evaluation examples,).

    Returns:
        Shape (rows,).
    """
    classifiers = (
        LogisticRegression(max_iter=MAX_ITERATIONS),
        KNeighborsClassifier(n_neighbors=NEIGHBOURS, weights="distance"),
    )
    scores = [_accuracy(weights, model.fit(train, train_labels).predict(test) == test_labels) for model in classifiers]
    return np.maximum(*scores)


def class_separation(
    weights: FloatArray, train: Embeddings, train_labels: FloatArray, test: Embeddings, test_labels: FloatArray
) -> FloatArray:
    """TI and II: area under the ROC curve of a logistic regression's probability of class 1.

    Arguments and result have the shapes of :func:`best_accuracy`'s; labels are 0 and 1.
    """
    model = LogisticRegression(max_iter=MAX_ITERATIONS).fit(train, train_labels)
    return roc_auc(weights, test_labels == 1, model.predict_proba(test)[:, 1])


def entity_f1(
    weights: FloatArray,
    train: Embeddings,
    train_labels: Labels,
    test: Embeddings,
    test_labels: Labels,
    text_of_word: NDArray[np.int64],
) -> FloatArray:
    """NE1 and NE2: F1 of a linear classifier of word vectors, averaged over the labels that occur, except O.

    Args:
        weights: shape (rows, texts); texts are drawn, because the words of one text belong together.
        train: vectors of the words of the training texts, shape (words, hidden).
        train_labels: BIO labels, shape (words,).
        test: vectors of the words of the evaluation texts, shape (words, hidden).
        test_labels: their BIO labels, shape (words,).
        text_of_word: the number of each word's evaluation text, shape (words,).

    Returns:
        Shape (rows,).
    """
    model = SGDClassifier(loss="log_loss", random_state=SEED, tol=SGD_TOLERANCE).fit(train, train_labels)
    predicted = model.predict(test)
    each = []
    for label in sorted(set(test_labels.tolist()) - {"O"}):
        actual, guessed = test_labels == label, predicted == label
        hits, of_actual, of_guessed = (
            weights @ np.bincount(text_of_word[rows], minlength=weights.shape[1])
            for rows in (actual & guessed, actual, guessed)
        )
        each.append(np.where(of_actual > 0, ratio(2 * hits, of_actual + of_guessed), np.nan))
    if not each:
        return np.full(len(weights), np.nan)
    means: FloatArray = np.nanmean(each, axis=0)
    return means


def _accuracy(weights: FloatArray, right: Sequence[bool] | NDArray[np.bool_]) -> FloatArray:
    return ratio(weights @ np.asarray(right, dtype=np.float64), weights.sum(axis=1))
