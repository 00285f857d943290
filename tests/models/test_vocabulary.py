"""Cut vocabularies: the same token strings on the texts, the same outputs of the model."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BertTokenizer,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from nasopt.errors import UnsupportedModelError
from nasopt.models.loading import load_tokenizer
from nasopt.models.vocabulary import cut_embeddings, cut_tokenizer, scripts_in_use, vocabulary_of

SHARED = Path(__file__).parents[2].parent / "shared"

ENGLISH = ["the quick brown fox jumps over the lazy dog", "a lowest newer widest slower story, and it is new!"]
RUSSIAN = ["быстрая лиса прыгает через ленивую собаку", "новая история про старую лису: это было давно"]
GREEK = ["η γρηγορη καφε αλεπου πηδαει πανω απο το σκυλι", "μια παλια ιστορια"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def wrapped(backend: Tokenizer) -> PreTrainedTokenizerFast:
    ids = {token: backend.token_to_id(token) for token in SPECIAL}
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")],
    )
    names = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names)


def word_piece(texts: list[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=260, special_tokens=SPECIAL))
    return wrapped(backend)


def byte_bpe(texts: list[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet)
    backend.train_from_iterator(texts, trainer)
    return wrapped(backend)


def marked_bpe(texts: list[str]) -> PreTrainedTokenizerFast:
    """BPE of characters with marks inside and at the end of words."""
    backend = Tokenizer(models.BPE(unk_token="[UNK]", continuing_subword_prefix="##", end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, continuing_subword_prefix="##", end_of_word_suffix="</w>"
    )
    backend.train_from_iterator(texts, trainer)
    return wrapped(backend)


def unigram(texts: list[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=SPECIAL, unk_token="[UNK]")
    backend.train_from_iterator(texts, trainer)
    return wrapped(backend)


KINDS = [word_piece, byte_bpe, marked_bpe, unigram]


def tokens_of(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[str]]:
    return [tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) for text in texts]


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_same_token_strings_on_the_texts(make: Callable[[list[str]], PreTrainedTokenizerFast], tmp_path: Path) -> None:
    tokenizer = make([*ENGLISH, *RUSSIAN, *GREEK] * 20)
    texts = [*ENGLISH, *RUSSIAN, "the story, про лису", "unseen ☃ character"]
    before, identity = tokens_of(tokenizer, texts), tokenizer.backend_tokenizer.to_str()
    kept = vocabulary_of(tokenizer, texts)
    assert len(kept) < len(tokenizer)
    smaller = cut_tokenizer(tokenizer, kept)
    assert len(smaller) == len(kept)
    assert tokens_of(smaller, texts) == before
    assert tokenizer.backend_tokenizer.to_str() == identity
    ids = tokenizer(texts[0], texts[2])["input_ids"]
    assert [kept[index] for index in smaller(texts[0], texts[2])["input_ids"]] == ids
    assert smaller.pad_token_id == kept.index(tokenizer.pad_token_id)
    smaller.save_pretrained(tmp_path)
    assert tokens_of(load_tokenizer(str(tmp_path), None, False), texts) == before


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta"])
def test_tokenizers_of_model_classes(kind: str, tmp_path: Path) -> None:
    """Transformers builds their pipelines itself from a vocabulary when they are read."""
    texts = [*ENGLISH, *RUSSIAN, *GREEK] * 20
    if kind == "bert":
        tokenizer = BertTokenizer(vocab=word_piece(texts).get_vocab())
    elif kind == "roberta":
        model = json.loads(byte_bpe(texts).backend_tokenizer.to_str())["model"]
        vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}
        vocabulary |= {token: i for token, i in model["vocab"].items() if i > 4}
        tokenizer = RobertaTokenizer(vocab=vocabulary, merges=[tuple(merge) for merge in model["merges"]])
    else:
        model = json.loads(unigram(texts).backend_tokenizer.to_str())["model"]
        special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
        tokenizer = XLMRobertaTokenizer(vocab=[*special, *map(tuple, model["vocab"][5:]), ("<mask>", 0.0)])
    tokenizer.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path), None, False)
    some = [*ENGLISH, *RUSSIAN]
    kept = vocabulary_of(tokenizer, some)
    smaller = cut_tokenizer(tokenizer, kept)
    assert len(smaller) == len(kept) < len(tokenizer)
    assert type(smaller) is type(tokenizer)
    assert tokens_of(smaller, some) == tokens_of(tokenizer, some)


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_other_texts_of_the_scripts_in_use_stay_readable(
    make: Callable[[list[str]], PreTrainedTokenizerFast],
) -> None:
    tokenizer = make([*ENGLISH, *RUSSIAN, *GREEK] * 20)
    smaller = cut_tokenizer(tokenizer, vocabulary_of(tokenizer, ENGLISH[:1]))
    other = "lowest news"  # its characters are in use, its longer pieces need not be
    assert smaller.decode(smaller(other)["input_ids"], skip_special_tokens=True).replace("</w>", "").replace(
        "##", ""
    ).replace(" ", "") == other.replace(" ", "")
    assert smaller.unk_token_id not in smaller(other)["input_ids"]
    greek = {token for token in smaller.get_vocab() if any("\u03b1" <= letter <= "\u03c9" for letter in token)}
    assert not greek


def test_a_word_that_word_piece_fails_on_stays_unknown() -> None:
    """`abc`: takes `ab`, fails on `##c`. Without `ab` it would take `a` and `##bc`."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, "a", "ab", "##bc", "b", "##x"])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = wrapped(backend)
    texts = ["abc", "ax", "b"]
    expected = [["[CLS]", "[UNK]", "[SEP]"], ["[CLS]", "a", "##x", "[SEP]"], ["[CLS]", "b", "[SEP]"]]
    assert tokens_of(tokenizer, texts) == expected
    kept = vocabulary_of(tokenizer, texts)
    assert vocabulary["ab"] in kept
    assert tokens_of(cut_tokenizer(tokenizer, kept), texts) == expected


def test_merges_stay_reachable() -> None:
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, "a", "b", "c", "ab", "abc", "bc", "ca"])}
    merges = [("a", "b"), ("ab", "c"), ("b", "c"), ("c", "a")]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="[UNK]"))
    tokenizer = wrapped(backend)
    kept = vocabulary_of(tokenizer, ["abc"])
    assert vocabulary["ab"] in kept
    assert vocabulary["ca"] not in kept
    smaller = cut_tokenizer(tokenizer, kept)
    assert smaller.tokenize("abc") == ["abc"]
    assert json.loads(smaller.backend_tokenizer.to_str())["model"]["merges"] == [["a", "b"], ["ab", "c"]]


def test_scripts() -> None:
    assert scripts_in_use(["abc где", "12, 3!"]) == {"LATIN", "CYRILLIC"}
    assert scripts_in_use(["a" * 2000 + "д"]) == {"LATIN"}


def test_special_tokens_must_be_kept() -> None:
    tokenizer = word_piece(ENGLISH)
    with pytest.raises(ValueError, match="special"):
        cut_tokenizer(tokenizer, range(3, 20))


SIZES = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}


def test_embeddings_of_an_encoder() -> None:
    model = BertModel(BertConfig(**SIZES, pad_token_id=1)).eval()
    kept = (1, 2, *range(10, 40))
    ids = torch.tensor([[2, 12, 39, 1], [10, 11, 30, 31]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    with torch.no_grad():
        expected = model(ids, attention_mask=mask).last_hidden_state
        cut_embeddings(model, kept)
        renumbered = torch.tensor([[kept.index(int(i)) for i in row] for row in ids])
        found = model(renumbered, attention_mask=mask).last_hidden_state
    assert torch.equal(found, expected)
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == len(kept)
    assert model.config.pad_token_id == model.get_input_embeddings().padding_idx == 0


@pytest.mark.parametrize("tied", [True, False])
def test_output_embeddings_and_their_bias(tied: bool) -> None:
    model = BertForMaskedLM(BertConfig(**SIZES, tie_word_embeddings=tied)).eval()
    torch.nn.init.normal_(model.cls.predictions.bias)
    kept = (0, *range(5, 50))
    ids = torch.tensor([[5, 8, 49]])
    with torch.no_grad():
        expected = model(ids).logits[..., list(kept)]
        cut_embeddings(model, kept)
        found = model(torch.tensor([[kept.index(int(i)) for i in ids[0]]])).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    input_weight, output_weight = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert (input_weight is output_weight) == tied
    assert model.num_parameters() == sum(p.numel() for p in set(model.parameters()))


def test_encoder_decoder() -> None:
    config = MarianConfig(
        vocab_size=60, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, pad_token_id=59, eos_token_id=0,
        decoder_start_token_id=59, forced_eos_token_id=0,
    )  # fmt: skip
    model = MarianMTModel(config).eval()
    model.final_logits_bias.normal_()
    kept = (0, *range(10, 30), 59)
    ids = torch.tensor([[10, 12, 29, 0]])
    renumbered = torch.tensor([[kept.index(int(i)) for i in ids[0]]])
    with torch.no_grad():
        expected = model(ids, decoder_input_ids=ids).logits[..., list(kept)]
        cut_embeddings(model, kept)
        found = model(renumbered, decoder_input_ids=renumbered).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    for settings in (model.config, model.generation_config):
        assert settings.pad_token_id == settings.decoder_start_token_id == 21
        assert settings.eos_token_id == settings.forced_eos_token_id == 0


def test_padding_of_a_model_that_counts_positions_from_it() -> None:
    model = RobertaModel(RobertaConfig(**SIZES, pad_token_id=1))
    with pytest.raises(UnsupportedModelError, match="keep the number 1"):
        cut_embeddings(model, range(1, 30))


@pytest.mark.integration
def test_a_real_multilingual_tokenizer() -> None:
    folder, data = SHARED / "models" / "e5-small-en-ru", SHARED / "data" / "en-ru" / "train.csv"
    if not folder.is_dir() or not data.is_file():
        pytest.skip("the shared model and data are not here")
    tokenizer = load_tokenizer(str(folder), None, False)
    with data.open(encoding="utf-8", newline="") as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(150), strict=False)]
    texts = [f"query: {row[side]}" for row in rows for side in ("en", "ru")]
    kept = vocabulary_of(tokenizer, texts)
    assert len(kept) < len(tokenizer) / 4
    assert tokens_of(cut_tokenizer(tokenizer, kept), texts) == tokens_of(tokenizer, texts)
