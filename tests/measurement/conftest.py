"""A subject made in code: half of a tiny BERT's heads beside the whole of it, with the texts of a small split."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.measurement.subject import Subject
from nasopt.models.families import encoder_shape
from nasopt.models.surgery import cut
from nasopt.tasks.batches import EncodedSplit

LENGTHS = [3, 9, 5, 12, 7, 4]


@pytest.fixture
def subject() -> Subject:
    """3 layers of 4 heads in the base model; 2 layers of 2 heads in the candidate."""
    config = BertConfig(
        vocab_size=40,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=32,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = BertForSequenceClassification(config).eval()
        artifact = BertForSequenceClassification(copy.deepcopy(config)).eval()
    kept = KeptUnits((0, 2), tuple(range(64)))
    architecture = Architecture((kept, None, kept))
    total = sum(LENGTHS)
    texts = EncodedSplit(
        columns={"input_ids": torch.arange(total, dtype=torch.int32) % 40},
        padding={"input_ids": 0},
        offsets=torch.tensor([0, *LENGTHS]).cumsum(0),
        labels=torch.zeros(len(LENGTHS)),
    )
    return Subject(
        artifact=cut(artifact, architecture),
        vocabulary=40,
        architecture=architecture,
        shape=encoder_shape(base.config),
        base_model=base,
        base_key="a key",
        workload=lambda model: model,
        special_ids=(0,),
        lengths=texts.lengths,
        batch_of=lambda positions: texts.batch(positions).inputs,
    )
