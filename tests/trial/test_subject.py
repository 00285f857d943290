"""A candidate beside the base model, as latency sources see it."""

from __future__ import annotations

from pathlib import Path

import torch
from outside_models import student_tokenizer, write_student

from nasopt.architecture.outside import OutsideModel
from nasopt.config.study import LatencyConfig
from nasopt.measurement.inputs import inputs_of
from nasopt.training.candidate import Candidate, Lineage
from nasopt.training.context import Context
from nasopt.training.outside import load
from nasopt.trial.proposal import base_candidate
from nasopt.trial.subject import subject_of

CPU = torch.device("cpu")


def test_the_base_model_reads_its_own_texts(context: Context) -> None:
    candidate = base_candidate(context)
    subject = subject_of(candidate.model, candidate, context)
    assert subject.vocabulary == len(context.task.tokenizer)
    assert set(subject.batch_of(torch.arange(2))) == {"input_ids", "attention_mask", "token_type_ids"}


def test_a_model_from_outside_and_the_base_model_read_every_batch(context: Context, tmp_path: Path) -> None:
    folder = write_student(tmp_path / "student", ["negative", "positive"])
    origin = OutsideModel(str(folder))
    model, architecture = load(origin, context.view_of(origin).task, seed=0)
    subject = subject_of(model, Candidate(model, architecture, Lineage()), context)
    assert subject.vocabulary == len(context.task.tokenizer) < len(student_tokenizer())
    assert set(subject.special_ids) == {0, 1, 2, 3, 4}
    assert torch.equal(subject.lengths, context.splits["validation"].sides[0].lengths)
    for lengths in ("fixed", "validation"):
        settings = {"batch_size": 2, "sequence_length": 16, "lengths": lengths}
        batch = inputs_of(LatencyConfig.model_validate(settings), subject, CPU)[0]
        assert set(batch) == {"input_ids", "attention_mask"}  # DistilBERT takes no segments
        with torch.inference_mode():
            shapes = {item.eval()(**batch).logits.shape for item in (model, context.base_model)}
        assert shapes == {torch.Size((2, 2))}
