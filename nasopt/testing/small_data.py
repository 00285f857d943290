"""A small model and small data for conformance tests, made in code."""

from __future__ import annotations

import csv
import random
from pathlib import Path

GOOD, BAD = ("good", "great", "fine", "lovely"), ("bad", "awful", "poor", "sad")
FILLERS = ("the", "film", "was", "a", "story", "and", "plot", "very", "of", "it")


def write_labelled_texts(folder: Path) -> Path:
    """Texts in the column `text`, of which one word decides the `label`, as CSV files of three splits; the folder."""
    generator = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    for split, size in (("train", 160), ("validation", 60), ("test", 60)):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for _ in range(size):
                label = generator.choice(["negative", "positive"])
                words = generator.choices(FILLERS, k=generator.randint(2, 12))
                words.insert(0, generator.choice(GOOD if label == "positive" else BAD))
                writer.writerow([" ".join(words), label])
    return folder


def write_bert(folder: Path) -> Path:
    """A BERT without a head, with random weights and a tokenizer of the words above: 3 layers, 4 heads, FFN 128, hidden
    size 64; the folder."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLERS, *GOOD, *BAD]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, mask_token="[MASK]", model_max_length=64, **names
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder
