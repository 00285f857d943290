"""Encoder-decoders that start from random weights, and tokenizers trained on a study's own texts.

There are no small trained encoder-decoders for most pairs of languages, so a study file may describe one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from nasopt.config.task import NewModelConfig

BEGIN, PADDING, END, UNKNOWN = "<s>", "<pad>", "</s>", "<unk>"
SPECIAL = (BEGIN, PADDING, END, UNKNOWN)
"""The special tokens in the order of their ids, which is that of fairseq's models."""


def new_config(model_type: str, settings: NewModelConfig, max_positions: int) -> PretrainedConfig:
    """The configuration of a model of BART's kind (`m2m_100` is one with its norms before the blocks)."""
    config: PretrainedConfig = AutoConfig.for_model(
        model_type,
        vocab_size=settings.vocabulary,
        d_model=settings.hidden_size,
        encoder_layers=settings.encoder_layers,
        decoder_layers=settings.decoder_layers,
        encoder_attention_heads=settings.heads,
        decoder_attention_heads=settings.heads,
        encoder_ffn_dim=settings.ffn_size,
        decoder_ffn_dim=settings.ffn_size,
        dropout=settings.dropout,
        attention_dropout=settings.dropout,
        activation_dropout=0.0,
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
        max_position_embeddings=max_positions,
        scale_embedding=True,
        bos_token_id=SPECIAL.index(BEGIN),
        pad_token_id=SPECIAL.index(PADDING),
        eos_token_id=SPECIAL.index(END),
        decoder_start_token_id=SPECIAL.index(END),
        forced_eos_token_id=None,
        forced_bos_token_id=None,
        tie_word_embeddings=True,
    )
    return config


def new_model(config: PretrainedConfig) -> PreTrainedModel:
    """A model in fp32 with weights that are drawn from torch's generator."""
    model: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32)
    return model


def train_tokenizer(
    texts: Iterable[str], vocabulary: int, kind: Literal["bpe", "unigram"], max_positions: int
) -> PreTrainedTokenizerFast:
    """A tokenizer in SentencePiece's manner (Kudo and Richardson 2018): blanks become part of the pieces.

    Args:
        texts: the texts of both languages.
        vocabulary: the number of tokens, the four special ones included.
        kind: byte-pair encoding (Sennrich et al. 2016) or a unigram language model (Kudo 2018).
        max_positions: the largest number of tokens that the model reads.
    """
    trainer: trainers.Trainer
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
        trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=list(SPECIAL), show_progress=False)
    else:
        tokenizer = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=vocabulary, special_tokens=list(SPECIAL), unk_token=UNKNOWN, show_progress=False
        )
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        pad_token=PADDING,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=max_positions,
        model_input_names=["input_ids", "attention_mask"],
    )
