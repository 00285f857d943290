"""Question answering: the part of a text that answers a question, or none (Hugging Face's `question-answering`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedTokenizerBase
from transformers.modeling_outputs import TokenClassifierOutput

from nasopt.architecture.outside import OutsideModel
from nasopt.config.task import TaskConfig
from nasopt.errors import DatasetError, UnsupportedModelError
from nasopt.models import loading
from nasopt.models.outputs import logits_of
from nasopt.numerics.resampling import FloatArray, ratio, resample_weights
from nasopt.tasks import answer_code
from nasopt.tasks.answers import read_questions
from nasopt.tasks.base import Evaluation
from nasopt.tasks.batches import Batch, Examples, evaluation_batches, gather_positions
from nasopt.tasks.datasets import load_splits
from nasopt.tasks.encoding import identity_of, open_tokenizer
from nasopt.tasks.headed import HeadedTask
from nasopt.tasks.question_windows import AnswerBatch, AnsweredSplit, QuestionEncoder
from nasopt.tasks.spans import best_spans, no_answer_score
from nasopt.tasks.squad import answer_scores, best_threshold

RESAMPLES = 1000
SEED = 0
ENDS = ("start", "end")
"""The outputs of a head: the logits of being an answer's first token, and its last one."""
MASKED = -1e4
"""The logit of positions where no answer can begin or end. It is finite, so that divergences are."""


@dataclass(frozen=True)
class FoundAnswers:
    """A model's best answer to each question of a split.

    Attributes:
        texts: the best part of each context; empty where there is none.
        margins: how much higher no answer scores, shape (questions,); infinite where there is no part to give.
    """

    texts: list[str]
    margins: FloatArray


class QuestionAnswering(HeadedTask):
    """Questions about texts; quality is F1 of the words of answers, or the share of exact matches.

    Raises:
        DatasetError, UnsupportedModelError: see :class:`nasopt.tasks.base.Task`.
    """

    tags_tokens = True
    _head_suffix = loading.ANSWER_HEAD_SUFFIX

    def __init__(self, config: TaskConfig, folder: Path | None = None) -> None:
        super().__init__(config, folder)
        if self.has_head:
            self._places_in(self._model_config)
        start = config.answers.start
        columns = (*config.dataset.text, config.dataset.label, *(() if start is None else (start,)))
        self._data = load_splits(config.dataset, columns)
        self._questions = read_questions(self._data, config.dataset, start)
        if not any(its.answers for its in self._questions["train"]):
            raise DatasetError(f"task.dataset.label: no question of the training split has an answer in {columns[2]!r}")
        self.tokenizer = open_tokenizer(config, self._model_config)
        self._tokenizer_identity = identity_of(self.tokenizer)
        self._check_windows()

    def _check_windows(self) -> None:
        """Makes sure that windows move on beside every question, and begin with a special token.

        Raises:
            DatasetError, UnsupportedModelError: they do not.
        """
        overlap, limit = self.window_overlap, self._limit
        special = self.tokenizer.num_special_tokens_to_add(pair=True)
        if overlap >= limit - special:
            raise DatasetError(
                f"task.answers.overlap: {overlap}, but a window of max_length = {limit} tokens has room for "
                f"{limit - special}, special ones not counted; the overlap must be smaller"
            )
        self._check_questions(self._question_encoder(None))
        if self.tokenizer("a", "b").sequence_ids(0)[0] is not None:
            raise UnsupportedModelError(
                f"model {self.config.model!r}: its tokenizer puts no special token before a text, which could stand "
                "for no answer"
            )

    def _check_questions(self, encoder: QuestionEncoder) -> None:
        """Makes sure that windows move on beside every question.

        Raises:
            DatasetError: they do not.
        """
        for role, questions in self._questions.items():
            found = encoder.too_long(questions)
            if found:
                row, tokens = found[0]
                raise DatasetError(
                    f"task.max_length: {len(found)} questions of the {role} split leave no room for a window of the "
                    f"context (the first in row {row}, counted from 0: {tokens} tokens, but at most {encoder.room - 1} "
                    f"are possible in {encoder.limit} with an overlap of {encoder.overlap}); set a larger max_length "
                    "or a smaller task.answers.overlap, or remove these rows"
                )

    @property
    def window_overlap(self) -> int:
        overlap = self.config.answers.overlap
        return self._limit // 4 if overlap is None else overlap

    @property
    def _may_have_none(self) -> bool:
        """Whether there are questions without an answer, so that none may be given."""
        return any(not its.answers for questions in self._questions.values() for its in questions)

    @property
    def num_outputs(self) -> int:
        return len(ENDS)

    @property
    def probabilities(self) -> Literal["softmax"]:
        return "softmax"

    @property
    def quality_name(self) -> str:
        return "f1 of answers" if self.config.metric == "f1" else "exact match of answers"

    @property
    def remarks(self) -> tuple[str, ...]:
        train = self._questions["train"]
        without = sum(not its.answers for its in train)
        said = f"{len(train)} training questions, {without} of them without an answer"
        given = (
            f"none is given where it scores more than {self.config.answers.threshold:g} above the best one"
            if self._may_have_none
            else "each is given one"
        )
        return (f"{said}; {given}", f"quality is {self.quality_name}")

    @property
    def usage(self) -> str:
        names = [*self._padding(self.tokenizer), "attention_mask"]
        return answer_code.torch_code(self._decoding, self._limit, self.window_overlap, names)

    @property
    def array_usage(self) -> str:
        return answer_code.array_code(self._decoding)

    @property
    def _decoding(self) -> answer_code.Decoding:
        settings = self.config.answers
        return answer_code.Decoding(settings.n_best, settings.longest, settings.threshold, self._may_have_none)

    def _head(self) -> loading.Head:
        return loading.Head(ENDS, suffix=self._head_suffix)

    def _places_in(self, head: PretrainedConfig) -> Sequence[int]:
        """The outputs of every head are in the same order, whatever it calls them."""
        if head.num_labels != len(ENDS):
            raise UnsupportedModelError(
                f"model {self.config.model!r}: its head has {head.num_labels} outputs for each token, not those of an "
                "answer's start and end; set task.new_head = true to train a new one"
            )
        return range(len(ENDS))

    def for_model(self, model: OutsideModel) -> Self:
        task = super().for_model(model)
        task._check_windows()
        return task

    def encode(self, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> Mapping[str, AnsweredSplit]:
        """Tokenises every split in windows; an example is a window, of at most `max_length` tokens."""
        encoder = self._question_encoder(tokenizer)
        if tokenizer is not None:  # it may make more tokens of a question than the base model's
            self._check_questions(encoder)
        return {role: encoder.encode(questions, role, folder) for role, questions in self._questions.items()}

    def count(self, role: str) -> int:
        """How many windows a split has."""
        return self._question_encoder(None).count(self._questions[role])

    def _question_encoder(self, tokenizer: PreTrainedTokenizerBase | None) -> QuestionEncoder:
        used = tokenizer or self.tokenizer
        identity = identity_of(tokenizer) if tokenizer else self._tokenizer_identity
        return QuestionEncoder(used, identity, self._limit, self.window_overlap, self._padding(used))

    def run(self, model: nn.Module, batch: Any, hidden_states: bool = False) -> list[Any]:
        """The logits of both ends as one tensor, shape (batch, tokens, 2), with hidden states if asked for."""
        (output,) = super().run(model, batch, hidden_states)
        return [TokenClassifierOutput(logits=logits_of(output), hidden_states=output.hidden_states)]

    def distributions(self, logits: Tensor, batch: Batch) -> Tensor:
        """Two rows for each window, of its answer's first and last token, over the positions: (2 * batch, tokens).

        Positions of the question, of special tokens and of padding are :data:`MASKED`; the first one stands for none.
        """
        assert isinstance(batch, AnswerBatch)
        masked = logits.float().masked_fill(~batch.choices[:, :, None], MASKED)
        return masked.transpose(1, 2).flatten(0, 1)

    def loss_of(self, outputs: Sequence[Any], batch: Batch) -> Tensor:
        """Cross-entropy of both ends, averaged over the windows of the batch; a tensor of shape ().

        Logits are of shape (batch, tokens, 2), labels of shape (batch, 2).
        """
        return functional.cross_entropy(self.distributions(outputs[0].logits, batch), batch.labels.flatten())

    def evaluate(
        self,
        model: nn.Module,
        examples: Examples,
        device: torch.device,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Evaluation:
        """The metric on a split and on resamples of its questions, shape (1 + resamples,)."""
        assert isinstance(examples, AnsweredSplit)
        found, right = self.predict(model, examples, device), [its.answers for its in examples.asked]
        given = self._given(found)
        scores = answer_scores(given, right)
        weights = resample_weights(len(right), RESAMPLES, SEED)
        quality = ratio(weights @ scores[self.config.metric], weights.sum(axis=1))
        details = {name: float(its.mean()) for name, its in scores.items()}
        answerable = np.array([bool(answers) for answers in right])
        if self._may_have_none:
            for name, chosen in (("answer", answerable), ("no_answer", ~answerable)):
                if chosen.any():
                    details |= {f"{metric}_{name}": float(its[chosen].mean()) for metric, its in scores.items()}
            of_best = answer_scores(found.texts, right)[self.config.metric]
            details["best_threshold"], details["best_quality"] = best_threshold(found.margins, of_best, answerable)
        return Evaluation(float(quality[0]), replicates=quality, details=details)

    def _given(self, found: FoundAnswers) -> list[str]:
        """The answers that are given: empty where none scores higher by more than the threshold, if it may."""
        if not self._may_have_none:
            return found.texts
        silent = found.margins > self.config.answers.threshold
        return ["" if none else text for none, text in zip(silent, found.texts, strict=True)]

    @torch.inference_mode()
    def predict(self, model: nn.Module, examples: AnsweredSplit, device: torch.device) -> FoundAnswers:
        """The best answer to each question of a split, over all windows of its context."""
        model.eval()
        settings = self.config.answers
        spans = torch.zeros(len(examples), 2, dtype=torch.int64)  # positions in the split's flat arrays
        scores, none = torch.zeros(len(examples)), torch.zeros(len(examples))
        for indices in evaluation_batches(examples.lengths):
            batch = examples.batch(indices).to(device)
            start, end = self.run(model, batch)[0].logits.unbind(dim=-1)
            first, last, best = best_spans(start, end, batch.context, settings.n_best, settings.longest)
            positions, _ = gather_positions(examples.windows.offsets, indices)
            spans[indices] = positions.gather(1, torch.stack([first, last], dim=1).cpu())
            scores[indices], none[indices] = best.cpu(), no_answer_score(start, end).cpu()
        return _over_windows(examples, spans.numpy(), scores.double().numpy(), none.double().numpy())


def _over_windows(
    examples: AnsweredSplit, spans: NDArray[np.int64], scores: FloatArray, none: FloatArray
) -> FoundAnswers:
    """The best answers over all windows of each question.

    Args:
        examples: the windows.
        spans: the first and the last token of each window's best answer, in the split's flat arrays, (windows, 2).
        scores: its score, (windows,); -inf where there is none.
        none: the score of no answer in each window, (windows,).
    """
    begins, stops = examples.begins.numpy(), examples.stops.numpy()
    bounds = np.searchsorted(examples.questions.numpy(), np.arange(len(examples.asked) + 1))
    texts, margins = [], []
    for its, (start, stop) in zip(examples.asked, pairwise(bounds.tolist()), strict=True):
        window = start + int(scores[start:stop].argmax())
        first, last = spans[window]
        # Some tokenizers count the blank before a word as part of its first token.
        texts.append(its.context[begins[first] : stops[last]].strip() if np.isfinite(scores[window]) else "")
        margins.append(none[start:stop].min() - scores[window])
    return FoundAnswers(texts, np.array(margins))
