"""Tiny models that were made elsewhere: a student with a vocabulary of its own, and classifiers with other heads."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from conftest import FILLERS, WORDS, word_tokenizer
from transformers import DistilBertConfig, DistilBertForSequenceClassification, DistilBertModel, PreTrainedModel

HIDDEN = 32


def student_tokenizer():  # type: ignore[no-untyped-def]
    """A tokenizer that knows the words of the data set by other numbers than :func:`conftest.word_tokenizer`'s."""
    from tokenizers import Tokenizer, models

    tokenizer = word_tokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
    vocabulary = {word: index for index, word in enumerate([*special, *reversed([*FILLERS, *WORDS])])}
    backend = tokenizer.backend_tokenizer
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer, made.post_processor = backend.pre_tokenizer, backend.post_processor
    return type(tokenizer)(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
    )


def write_student(folder: Path, labels: Sequence[str] = (), **settings: str) -> Path:
    """A DistilBERT of 2 layers, 2 heads, FFN 64 and its own vocabulary, with a random head if it has labels."""
    tokenizer = student_tokenizer()
    config = DistilBertConfig(
        vocab_size=len(tokenizer),
        dim=HIDDEN,
        n_layers=2,
        n_heads=2,
        hidden_dim=64,
        max_position_embeddings=64,
        **settings,
    )
    if labels:
        config.id2label, config.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = (DistilBertForSequenceClassification if labels else DistilBertModel)(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def with_labels(model: PreTrainedModel, order: Sequence[int], names: Sequence[str]) -> PreTrainedModel:
    """A copy of a BERT classifier whose outputs are in another order, and have other names."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in changed.classifier.parameters():
            parameter.copy_(parameter[list(order)].clone())
    changed.config.id2label = dict(enumerate(names))
    changed.config.label2id = {name: index for index, name in enumerate(names)}
    return changed
