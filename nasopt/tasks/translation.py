"""Translation by encoder-decoders (Hugging Face's `translation`): quality is BLEU, latency the time of generation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from nasopt.architecture.base import EncoderShape
from nasopt.config.task import NewModelConfig, TaskConfig
from nasopt.errors import DatasetError, UnsupportedModelError
from nasopt.host.files import working_folder
from nasopt.models import loading
from nasopt.models.families import encoder_shape, family_of, max_positions
from nasopt.tasks.base import Evaluation, Task
from nasopt.tasks.batches import Examples, PairBatch, PairedSplit, evaluation_batches
from nasopt.tasks.bleu import bleu_replicates
from nasopt.tasks.datasets import load_splits
from nasopt.tasks.encoding import Encoder, identity_of, open_tokenizer
from nasopt.tasks.new_model import new_config, new_model, train_tokenizer
from nasopt.tasks.texts import check_pairs

IGNORED = -100
"""The label of positions that no loss counts."""
RESAMPLES = 1000


class Generation(nn.Module):
    """A module that translates a batch greedily into a fixed number of tokens, with the KV cache; its call is timed.

    Args:
        model: an encoder-decoder.
        tokens: how many tokens are generated for each text, even where the model would end earlier.
    """

    def __init__(self, model: nn.Module, tokens: int) -> None:
        super().__init__()
        self.model = model
        self._tokens = tokens

    def forward(self, **inputs: Tensor) -> Tensor:
        """The token ids that are generated from inputs of shape (batch, tokens read); shape (batch, 1 + tokens)."""
        assert isinstance(self.model, PreTrainedModel)
        generated: Tensor = self.model.generate(
            **inputs, min_new_tokens=self._tokens, max_new_tokens=self._tokens, num_beams=1, do_sample=False
        )
        return generated


GENERATION = """
texts = tokenizer(["a text"], padding=True, return_tensors="pt")
print(tokenizer.batch_decode(model.generate(**texts), skip_special_tokens=True))
"""


class Translation(Task):
    """Texts and their translations; quality is BLEU of the translations that an encoder-decoder generates.

    The tokenizer of a new model is kept in the study's folder; while there is no folder it is trained each time.

    Raises:
        DatasetError, UnsupportedModelError: see :class:`nasopt.tasks.base.Task`.
    """

    onnx_obstacle = "generation"

    def __init__(self, config: TaskConfig, folder: Path | None = None) -> None:
        super().__init__(config, folder)
        self._data = load_splits(config.dataset, config.dataset.text)
        for role, split in self._data.items():
            check_pairs(split, role, config.dataset.text)
        if config.new_model is None:
            self._model_config = loading.load_config(config.model, config.revision, config.trust_remote_code)
            self._check_kind()
            self.tokenizer = open_tokenizer(config, self._model_config)
            self._set_languages()
        else:
            self.tokenizer = self._own_tokenizer(config.new_model)
            self._model_config = self._new_config(config.new_model)
        self._tokenizer_identity = identity_of(self.tokenizer)

    def _check_kind(self) -> None:
        if not self._model_config.is_encoder_decoder:
            raise UnsupportedModelError(
                f"the model is of the type {self._model_config.model_type!r}; translation needs an encoder-decoder"
            )
        family_of(self._model_config)

    def _set_languages(self) -> None:
        """Sets the languages that the tokenizer of a multilingual model reads and writes."""
        settings, tokenizer = self.config.translation, self.tokenizer
        for attribute, code in (("src_lang", settings.source_language), ("tgt_lang", settings.target_language)):
            if code is None:
                continue
            if code not in tokenizer.get_vocab():
                raise DatasetError(f"task.translation: the tokenizer of {self.config.model!r} has no language {code!r}")
            setattr(tokenizer, attribute, code)

    def _new_config(self, settings: NewModelConfig) -> PretrainedConfig:
        return new_config(self.config.model, settings, self.config.max_length)

    def _own_tokenizer(self, settings: NewModelConfig) -> PreTrainedTokenizerBase:
        """The new model's tokenizer, trained on both languages of the training split.

        It is kept in the study's folder, so that it stays the same.
        """
        train = self._data["train"]
        texts = [str(text) for column in self.config.dataset.text for text in train[column]]
        key = hashlib.sha256("\0".join([settings.tokenizer, str(settings.vocabulary), *texts]).encode()).hexdigest()
        place = None if self._folder is None else self._folder / "data" / f"tokenizer-{key[:16]}"
        if place is not None and place.is_dir():
            return loading.load_tokenizer(str(place), None, False)
        tokenizer = train_tokenizer(texts, settings.vocabulary, settings.tokenizer, self.config.max_length)
        if place is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            with working_folder(place.parent) as partial:
                tokenizer.save_pretrained(partial)
                with suppress(OSError):  # another process was faster
                    partial.rename(place)
        return tokenizer

    @property
    def has_head(self) -> bool:
        return self.config.new_model is None

    @property
    def usage(self) -> str:
        return GENERATION

    @property
    def shape(self) -> EncoderShape:
        return encoder_shape(self._model_config)

    @property
    def max_positions(self) -> int:
        return max_positions(self._model_config)

    def encode(self, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Mapping[str, PairedSplit]:
        used = tokenizer or self.tokenizer
        identity = identity_of(tokenizer) if tokenizer else self._tokenizer_identity
        limit = min(self.config.max_length, self.max_positions)
        padding = {"input_ids": int(used.pad_token_id)}
        codes = f"{self.config.translation.source_language} {self.config.translation.target_language}"
        source, target = (
            Encoder(used, f"{identity} {codes}", limit, padding, is_target=is_target) for is_target in (False, True)
        )
        first, second = self.config.dataset.text
        encoded = {}
        for role, split in self._data.items():
            nothing = torch.zeros(len(split))
            encoded[role] = PairedSplit(
                source.encode(split, [first], role, folder, nothing),
                target.encode(split, [second], role, folder, nothing),
                [str(text) for text in split[second]],
            )
        return encoded

    def load_model(self) -> PreTrainedModel:
        if self.config.new_model is not None:
            return new_model(self._new_config(self.config.new_model))
        model = loading.load_headless(
            self.config.model, revision=self.config.revision, trust_remote_code=self.config.trust_remote_code
        )
        language = self.config.translation.target_language
        if language is not None and model.generation_config is not None:
            model.generation_config.forced_bos_token_id = self.tokenizer.convert_tokens_to_ids(language)
        return model

    def blank_model(self) -> PreTrainedModel:
        return loading.blank_model(self._model_config, self.config.model, self.config.trust_remote_code)

    def run(self, model: nn.Module, batch: PairBatch, hidden_states: bool = False) -> list[Any]:
        """One pass of encoder and decoder, which reads the target text (teacher forcing).

        The output has `logits` of shape (batch, target tokens, vocabulary); see :meth:`nasopt.tasks.base.Task.run`.
        """
        options = {"output_hidden_states": True} if hidden_states else {}
        # NOTE: given labels in place of the decoder's input, the model would compute the loss a second time.
        read = decoder_inputs(model, labels_of(batch))
        return [model(**batch.first.inputs, decoder_input_ids=read, use_cache=False, **options)]

    def loss_of(self, outputs: Sequence[Any], batch: PairBatch) -> Tensor:
        """Cross-entropy of the target tokens with label smoothing, averaged over tokens; a tensor of shape ().

        Logits are of shape (batch, target tokens, vocabulary).
        """
        return token_cross_entropy(outputs[0].logits, labels_of(batch), self.config.translation.label_smoothing)

    def loss_terms(self, examples: Examples) -> Tensor:
        """The number of target tokens of each example, shape (examples,)."""
        return examples.sides[1].lengths

    @torch.inference_mode()
    def evaluate(
        self,
        model: nn.Module,
        examples: Examples,
        device: torch.device,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Evaluation:
        """BLEU of the translations of a split, with replicates of shape (1 + resamples,)."""
        assert isinstance(examples, PairedSplit)
        translations = self.translate(model, examples, device, self.config.translation.beams)
        replicates, signature = bleu_replicates(translations, examples.references, RESAMPLES, seed=0)
        return Evaluation(float(replicates[0]), replicates=replicates, details={"signature": signature})

    @torch.inference_mode()
    def translate(self, model: nn.Module, examples: PairedSplit, device: torch.device, beams: int) -> list[str]:
        """The translations of the source texts, one for each example, in the order of the split."""
        assert isinstance(model, PreTrainedModel)
        model.eval()
        translations = [""] * len(examples)
        for indices in evaluation_batches(examples.first.lengths):
            inputs = examples.first.batch(indices).to(device).inputs
            limit = self.config.translation.max_new_tokens
            generated = model.generate(**inputs, max_new_tokens=limit, num_beams=beams, do_sample=False)
            texts = self.tokenizer.batch_decode(generated, skip_special_tokens=True)
            for index, text in zip(indices.tolist(), texts, strict=True):
                translations[index] = text
        return translations

    def workload(self, model: nn.Module) -> nn.Module:
        """A module that generates token ids of shape (batch, 1 + tokens) from inputs of shape (batch, tokens read)."""
        return Generation(model, self.config.translation.latency_tokens)


def labels_of(batch: PairBatch) -> Tensor:
    """The ids of the target tokens, shape (batch, tokens), :data:`IGNORED` at padding."""
    target = batch.second
    return target.inputs["input_ids"].masked_fill(target.attention_mask == 0, IGNORED)


def decoder_inputs(model: nn.Module, labels: Tensor) -> Tensor:
    """The decoder's input, shape (batch, tokens): labels of that shape, shifted as the model's family does it."""
    assert isinstance(model, PreTrainedModel)
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if shift is not None:
        shifted: Tensor = shift(labels)
        return shifted
    begin = labels.new_full((len(labels), 1), model.config.decoder_start_token_id)
    return torch.cat([begin, labels[:, :-1]], dim=1).masked_fill(labels == IGNORED, model.config.pad_token_id)


def token_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy averaged over the tokens that are not :data:`IGNORED`; a tensor of shape ().

    Args:
        logits: the model's outputs, shape (batch, tokens, vocabulary).
        labels: the right tokens, shape (batch, tokens).
        smoothing: the share of the probability that is spread evenly over all tokens.
    """
    return functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, label_smoothing=smoothing
    )
