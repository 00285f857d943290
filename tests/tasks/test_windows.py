"""Windows of tokens: each word is tagged once, by its first token, where it has most context."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FILLERS, WORDS, word_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nasopt.tasks.tags import TaggedText
from nasopt.tasks.windows import IGNORED, TaggedSplit, WindowEncoder, tagged_words
from nasopt.tasks.words import split_words


def tagged(text: str, words: list[tuple[int, int]] | None = None) -> TaggedText:
    places = words or [(word.start, word.stop) for word in split_words(text)]
    return TaggedText(text, np.array(places), np.arange(len(places)))


def wordpiece() -> PreTrainedTokenizerBase:
    """Cuts `Петров-Водкин` and long words in pieces, and lowers and strips accents as BERT does."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "петров", "-", "водкин", "##а", "рисует", "##ет", "рис", "##у", "."]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return fast(tokenizer, 2, 3)


def sentencepiece() -> PreTrainedTokenizerBase:
    """Its pieces begin with the blank before a word, or are only that, as XLM-R's are."""
    pieces = ["<pad>", "<unk>", "<s>", "</s>", "▁", "▁Петров", "▁рисует", "-", "Водкин", "а", "(", ".", ").", "рис"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(index)) for index, piece in enumerate(pieces)], unk_id=1))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return fast(tokenizer, 2, 3)


def byte_level() -> PreTrainedTokenizerBase:
    """Bytes alone, as RoBERTa's tokenizer falls back to: several tokens for one Russian letter."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(["<s>", "</s>", *alphabet])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return fast(tokenizer, 0, 1)


def fast(tokenizer: Tokenizer, begin: int, end: int) -> PreTrainedTokenizerBase:
    first, last = tokenizer.id_to_token(begin), tokenizer.id_to_token(end)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, begin), (last, end)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=tokenizer.id_to_token(0))


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: list[TaggedText], folder: Path, limit: int = 64, overlap: int = 2
) -> TaggedSplit:
    encoder = WindowEncoder(tokenizer, "its identity", limit, overlap, {"input_ids": 0})
    return encoder.encode(texts, "train", folder)


def carried(tokenizer: PreTrainedTokenizerBase, split: TaggedSplit) -> list[tuple[str, int]]:
    """The tokens that carry tags, with their words."""
    names = tokenizer.convert_ids_to_tokens(split.windows.columns["input_ids"].tolist())
    return [(name, word) for name, word in zip(names, split.words.tolist(), strict=True) if word >= 0]


def test_the_first_piece_carries_the_tag(tmp_path: Path) -> None:
    tokenizer, text = wordpiece(), tagged("Петров-Водкина рисует.")
    split = encode(tokenizer, [text], tmp_path)
    assert [text.text[start:stop] for start, stop in text.words] == ["Петров-Водкина", "рисует", "."]
    assert carried(tokenizer, split) == [("петров", 0), ("рисует", 1), (".", 2)]
    batch = split.batch(torch.tensor([0]))
    assert batch.labels.tolist() == [[IGNORED, 0, IGNORED, IGNORED, IGNORED, 1, 2, IGNORED]]


def test_blanks_before_words_and_pieces_of_two_words(tmp_path: Path) -> None:
    tokenizer, text = sentencepiece(), tagged("(рисует Петров-Водкин ).")
    split = encode(tokenizer, [text], tmp_path)
    words = [text.text[start:stop] for start, stop in text.words]
    assert words == ["(", "рисует", "Петров-Водкин", ")", "."]
    found = dict((words[word], name) for name, word in carried(tokenizer, split))
    assert found["Петров-Водкин"] == "▁Петров"
    assert found[")"] == ")."
    assert "." not in found  # it shares its piece with the word before


def test_bytes_of_one_letter(tmp_path: Path) -> None:
    tokenizer = byte_level()
    split = encode(tokenizer, [tagged("Да, я")], tmp_path)
    assert [word for _, word in carried(tokenizer, split)] == [0, 1, 2]
    assert split.terms.tolist() == [3]


def test_a_word_in_two_windows_is_tagged_where_it_is_farthest_from_an_edge(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    text = tagged(" ".join(FILLERS[:10]))
    split = encode(tokenizer, [text], tmp_path, limit=8, overlap=4)  # six words in a window, two further ones
    by_window = [split.words[start:stop].tolist() for start, stop in pairwise(split.windows.offsets)]
    assert by_window == [
        [-1, 0, 1, 2, 3, -1, -1, -1],
        [-1, -1, -1, 4, 5, -1, -1, -1],
        [-1, -1, -1, 6, 7, 8, 9, -1],
    ]
    assert split.terms.tolist() == [4, 2, 4]


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    limit=st.integers(4, 20),
    share=st.floats(0, 0.99),
)
def test_every_word_is_tagged_once(lengths: list[int], limit: int, share: float) -> None:
    tokenizer = word_tokenizer()
    vocabulary = [*FILLERS, *WORDS]
    text = tagged(" ".join(vocabulary[index % len(vocabulary)] for index in range(sum(lengths))))
    encoded = tokenizer(
        text.text,
        truncation=True,
        max_length=limit,
        stride=int(share * (limit - 2)),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    found = tagged_words(text, [np.array(offsets) for offsets in encoded["offset_mapping"]])
    assert sorted(word for words in found for word in words.tolist() if word >= 0) == list(range(len(text.words)))


def test_texts_are_counted_on(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    split = encode(tokenizer, [tagged("the film"), tagged("a plot was good")], tmp_path)
    assert split.ends.tolist() == [0, 2, 6]
    assert split.words.tolist() == [-1, 0, 1, -1, -1, 2, 3, 4, 5, -1]
    assert split.tags.tolist() == [0, 1, 0, 1, 2, 3]


def test_the_fingerprint_is_of_tokens_and_tags(tmp_path: Path) -> None:
    tokenizer, text = word_tokenizer(), tagged("the film")
    first = encode(tokenizer, [text], tmp_path)
    other = encode(tokenizer, [TaggedText(text.text, text.words, text.tags[::-1].copy())], tmp_path)
    assert first.fingerprint == encode(tokenizer, [text], tmp_path).fingerprint
    assert first.fingerprint != other.fingerprint
    assert len(list(tmp_path.glob("*.arrow"))) == 1  # tags are no part of the cache


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level("INFO", "nasopt"):
        yield caplog


def test_long_texts_are_told(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    encode(word_tokenizer(), [tagged("the film"), tagged("the " * 9)], tmp_path, limit=6)
    assert (
        "50 % of the training texts have more than 6 tokens, and are read in windows that share 2 tokens" in said.text
    )
