"""Losses that several methods share, as pure functions of tensors.

Shapes: B examples, T tokens (padding included), H hidden units, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional


def prediction_kl(student: Tensor, teacher: Tensor, temperature: float, scale_by_t2: bool = False) -> Tensor:
    """`L_pred` of the genetic method: KL(softmax(z_T / t) || softmax(z_S / t)), averaged over the examples.

    Args:
        student: logits, (B, C).
        teacher: logits, (B, C).
        temperature: t > 0.
        scale_by_t2: multiply by t^2 (Hinton et al. 2015, section 2.1): gradients keep their size when t is searched.

    Returns:
        A scalar of shape ().
    """
    divergence = functional.kl_div(
        functional.log_softmax(student.float() / temperature, dim=-1),
        functional.log_softmax(teacher.float() / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    return divergence * temperature**2 if scale_by_t2 else divergence


def label_kl(student: Tensor, teacher: Tensor, temperature: float, scale_by_t2: bool = False) -> Tensor:
    """The counterpart of :func:`prediction_kl` for labels that do not exclude each other.

    KL(sigmoid(z_T / t) || sigmoid(z_S / t)) of each label's two outcomes, summed over the labels and averaged over the
    examples: the divergence of the joint distributions, because the labels are independent given the logits.

    Args:
        student: logits, (B, C).
        teacher: logits, (B, C).
        temperature: t > 0.
        scale_by_t2: as for :func:`prediction_kl`.
    """
    # A label's outcomes are two classes with the logits z and 0.
    outcomes = [torch.stack([logits, torch.zeros_like(logits)], dim=-1).flatten(0, 1) for logits in (student, teacher)]
    return student.shape[-1] * prediction_kl(outcomes[0], outcomes[1], temperature, scale_by_t2)


def hidden_cosine(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """`L_hidn`: 1 - cos(h_S, h_T), averaged over the tokens that are not padding.

    The hidden-state loss of DistilBERT (Sanh et al. 2019, section 3).

    Args:
        student: last hidden states, (B, T, H).
        teacher: last hidden states, (B, T, H).
        mask: 1 for real tokens, (B, T).
    """
    similarity = functional.cosine_similarity(student.float(), teacher.float(), dim=-1)
    weights = mask.to(similarity.dtype)
    return ((1.0 - similarity) * weights).sum() / weights.sum()


def hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """`|| h_s^S - h_t^T ||^2` of AdaBERT: squared difference, averaged over real tokens and hidden units.

    Args:
        student: hidden states, projected to the teacher's width, (B, T, H).
        teacher: hidden states, (B, T, H); anything finite at padding.
        mask: 1 for real tokens, (B, T).

    Returns:
        A scalar of shape ().
    """
    per_token = (student.float() - teacher.float()).square().mean(dim=-1)
    weights = mask.to(per_token.dtype)
    return (per_token * weights).sum() / weights.sum()


def layer_matched_mse(students: Sequence[Tensor], teachers: Iterable[Tensor], mask: Tensor) -> Tensor:
    """`L_KD` of AdaBERT: :func:`hidden_mse`, averaged over the layer pairs.

    Args:
        students: one (B, T, H) for each pair, projected to the teacher's width.
        teachers: one (B, T, H) for each pair, or all of them (pairs, B, T, H).
        mask: 1 for real tokens, (B, T).

    Returns:
        A scalar of shape ().
    """
    pairs = zip(students, teachers, strict=True)
    return torch.stack([hidden_mse(student, teacher, mask) for student, teacher in pairs]).mean()


def vector_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Output matching of vectors: their squared Euclidean distance, averaged over the examples.

    For unit vectors it is 2 - 2 cos. (METHODS.md, section 4, loss (ii); Reimers and Gurevych 2020 take the mean over
    the hidden units too, which only divides it by their number.)

    Args:
        student: one vector for each text, (B, H).
        teacher: one vector for each text, (B, H).
    """
    return (student.float() - teacher.float()).square().sum(dim=-1).mean()


DIVERGENCES = {"softmax": prediction_kl, "sigmoid": label_kl}
"""The divergence of a student's probabilities from its teacher's, by what makes them of logits."""
