"""Every loss of the methods, as pure functions of tensors.

Shapes: B examples, T tokens (padding included), H hidden units, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from nasopt.architecture.cells import all_operation_flops, all_operation_parameters


def hidden_cosine(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """`L_hidn` of the genetic method: 1 - cos(h_S, h_T), averaged over the tokens that are not padding.

    The hidden-state loss of DistilBERT (Sanh et al. 2019, section 3).

    Args:
        student: last hidden states, (B, T, H).
        teacher: last hidden states, (B, T, H).
        mask: 1 for real tokens, (B, T).
    """
    similarity = functional.cosine_similarity(student.float(), teacher.float(), dim=-1)
    weights = mask.to(similarity.dtype)
    return ((1.0 - similarity) * weights).sum() / weights.sum()


def prediction_kl(student: Tensor, teacher: Tensor, temperature: float, scale_by_t2: bool = False) -> Tensor:
    """`L_pred` of the genetic method: KL(softmax(z_T / t) || softmax(z_S / t)), averaged over the examples.

    Args:
        student: logits, (B, C).
        teacher: logits, (B, C).
        temperature: t > 0.
        scale_by_t2: multiply by t^2 (Hinton et al. 2015, section 2.1): gradients keep their size when t is searched.
    """
    divergence = functional.kl_div(
        functional.log_softmax(student.float() / temperature, dim=-1),
        functional.log_softmax(teacher.float() / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    return divergence * temperature**2 if scale_by_t2 else divergence


def vector_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Output matching of the Taylor method: squared Euclidean distance of the outputs, averaged over the examples.

    Of unit vectors it is 2 - 2 cos. (METHODS.md, section 4, loss (ii); Reimers and Gurevych 2020 take the mean over the
    hidden units too, which only divides it by their number.)

    Args:
        student: one vector for each text, (B, H).
        teacher: likewise, (B, H).
    """
    return (student.float() - teacher.float()).square().sum(dim=-1).mean()


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the student's softened outputs with the teacher's (Hinton et al. 2015, section 2).

    Args:
        student: logits, (N, C): of examples, or of tokens.
        teacher: logits, (N, C).
        temperature: T_0 > 0, of both.
    """
    targets = functional.softmax(teacher.float() / temperature, dim=-1)
    return functional.cross_entropy(student.float() / temperature, targets)


def hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """`|| h_s^S - h_t^T ||^2` of AdaBERT: squared difference, averaged over real tokens and hidden units.

    Args:
        student: hidden states, projected to the teacher's width, (B, T, H).
        teacher: hidden states, (B, T, H); anything finite at padding.
        mask: 1 for real tokens, (B, T).
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
    """
    pairs = zip(students, teachers, strict=True)
    return torch.stack([hidden_mse(student, teacher, mask) for student, teacher in pairs]).mean()


def efficiency(theta: Tensor, hidden_size: int) -> Tensor:
    """`L_eff` of AdaBERT: expected FLOPs and parameters, each as part of the costliest operation's, over the cells.

    Embedding and classifier do not count.

    Args:
        theta: probabilities of the operations, (cells, 7), in the order of :data:`nasopt.architecture.cells.OPERATIONS`.
        hidden_size: width of the cells.

    Returns:
        A number from 0 (skips and pools alone) to 2 (the widest convolution in every cell).
    """
    flops, parameters = all_operation_flops(hidden_size), all_operation_parameters(hidden_size)
    costs = torch.as_tensor(flops / flops.max() + parameters / parameters.max(), dtype=theta.dtype, device=theta.device)
    return (theta @ costs).mean()
