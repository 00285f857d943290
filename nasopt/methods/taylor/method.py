"""Taylor: heads and FFN neurons are removed by first-order saliency, then the student is distilled.

All layers stay, but get smaller; with `vocabulary` tokens may go too. Saliency is that of the base model for the task's
loss (translation ranking, for sentence encoders), estimated once for a study. Any of Optuna's samplers proposes how
much is kept, the learning rate and the weights of the losses. Nothing is inherited from trial to trial.

Source: METHODS.md, section 4.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from nasopt.architecture.base import EncoderShape, Precision
from nasopt.architecture.encoder import Architecture
from nasopt.architecture.genotype import FFN_STEP
from nasopt.config.task import Section
from nasopt.errors import StudyFileError
from nasopt.methods.base import Control, Method
from nasopt.methods.layer_controls import distinct
from nasopt.records.names import CHECKPOINT
from nasopt.records.queries import base_of, precision_of
from nasopt.samplers.named import SamplerName, named_sampler
from nasopt.training.candidate import Candidate, Lineage
from nasopt.training.context import Context

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial
    from transformers import PreTrainedModel

    from nasopt.methods.taylor.once import SampleSettings
    from nasopt.models.saliency import Saliency
    from nasopt.tasks.base import Task
    from nasopt.training.loop import LossFunction

FOLDER = "taylor"
"""In the study's artifact folder."""
SEARCHED = ("learning_rate", "ranking_weight", "output_weight")
"""Options that are a number, or a range to search."""


def _is_range(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"{list(pair)} is no range: the lower end comes first")
    return pair


_Share = Annotated[float, Field(ge=0, le=1)]
_Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Shares: TypeAlias = Annotated[tuple[_Share, _Share], AfterValidator(_is_range)]
WeightRange: TypeAlias = Annotated[tuple[_Weight, _Weight], AfterValidator(_is_range)]
RateRange: TypeAlias = Annotated[tuple[_Rate, _Rate], AfterValidator(_is_range)]
VocabularyCut: TypeAlias = Literal["full", "cut"]


class TaylorOptions(Section):
    """`[method_options]` of the Taylor method. The source names no settings: the defaults are ours."""

    trials: int = Field(40, ge=1, description="Of a whole search.")
    sampler: SamplerName = Field("nsga2", description="Optuna's sampler that proposes.")
    population_size: int = Field(8, ge=2, description="Of NSGA-II; of TPE and GP the random trials before they model.")
    reading: Literal["gate", "weights"] = Field(
        "gate", description="How the weights of a head or neuron add up: as a gate on it, or each by itself."
    )
    normalize: bool = Field(False, description="Saliency of each layer divided by its L2 norm.")
    scope: Literal["global", "layer"] = Field(
        "global", description="Heads and neurons of all layers are ranked together, or each layer has its own count."
    )
    rounds: int = Field(1, ge=1, description="Steps of removal; saliency is estimated again before each but the first.")
    saliency_examples: int = Field(2048, ge=1, description="Training examples that saliency is estimated on.")
    reconstruction_examples: int = Field(
        0,
        ge=0,
        description="Training examples on which output projections are refitted after cutting; 0: none.",
    )
    heads: Shares = Field((0.25, 1.0), description="Least and largest share of the heads that is kept.")
    ffn: Shares = Field((0.25, 1.0), description="Likewise of the FFN neurons, in steps of 64.")
    learning_rate: _Rate | RateRange | None = Field(
        None, description="A number, or a range to search; that of [training] unless set."
    )
    ranking_weight: _Weight | WeightRange = Field(1.0, description="Of the task's loss; a number or a range.")
    output_weight: _Weight | WeightRange = Field(
        1.0, description="Of the difference between the student's outputs and the teacher's; a number or a range."
    )
    hidden_weight: _Weight = Field(0.0, description="Of the difference between their hidden states, token by token.")
    hidden_layers: tuple[int, ...] = Field(
        (-1,), min_length=1, description="Which hidden states: 0 the embeddings, k those after k layers, -1 the last."
    )
    vocabulary: tuple[VocabularyCut, ...] = Field(
        ("full",), min_length=1, description="Which ones may be proposed: all tokens, or those that are needed."
    )
    vocabulary_texts: tuple[str, ...] = Field(
        (), description="Text files whose tokens are needed, beside those of the training split."
    )
    precision: Precision = Field("fp32", description="In which students are stored and measured.")

    @model_validator(mode="after")
    def _something_is_learnt(self) -> TaylorOptions:
        if not any((self.ranking_weight, self.output_weight, self.hidden_weight)):
            raise ValueError("ranking_weight, output_weight and hidden_weight are all 0: nothing would be trained")
        if len(set(self.vocabulary)) < len(self.vocabulary):
            raise ValueError("vocabulary: name each choice once")
        return self


class TaylorMethod(Method):
    """See the module."""

    name = "taylor"
    task_types = ("text-classification", "sentence-similarity")
    searches = (
        "heads and FFN neurons kept, by first-order saliency, vocabulary, learning rate and loss weights; students are "
        "distilled from the base model"
    )
    options_model = TaylorOptions
    path_options = ("vocabulary_texts",)

    def __init__(self, options: TaylorOptions) -> None:
        self.options = options

    @property
    def budget(self) -> int:
        return self.options.trials

    @property
    def precisions(self) -> Sequence[Precision]:
        return tuple(dict.fromkeys(("fp32", self.options.precision)))

    def sampler(self, seed: int | None) -> BaseSampler:
        options = self.options
        return named_sampler(options.sampler, seed, options.population_size)

    def check(self, task: Task) -> None:
        for file in self.options.vocabulary_texts:
            if not Path(file).is_file():
                raise StudyFileError(f"method_options.vocabulary_texts: there is no file {file}")
        for name, (least, most) in self._counts(task.shape).items():
            if least > most:
                raise StudyFileError(
                    f"method_options.{name.partition('_')[0]}: no count of the base model's lies in that range"
                )
        wrong = [layer for layer in self.options.hidden_layers if not -1 <= layer <= task.shape.num_layers]
        if wrong:
            raise StudyFileError(
                f"method_options.hidden_layers: {wrong[0]}, but the base model has the hidden states 0 to "
                f"{task.shape.num_layers} (0: the embeddings, then one after each layer)"
            )
        if "cut" in self.options.vocabulary:
            from nasopt.models.vocabulary import vocabulary_of

            vocabulary_of(task.tokenizer, ())

    def _counts(self, shape: EncoderShape) -> dict[str, tuple[int, int]]:
        """The least and the largest value of each parameter that counts units."""
        layers = shape.num_layers
        whole = {"heads": shape.num_heads, "ffn": shape.ffn_size}
        steps = {"heads": 1, "ffn": FFN_STEP}
        shares = {"heads": self.options.heads, "ffn": self.options.ffn}
        counts: dict[str, tuple[int, int]] = {}
        for part, size in whole.items():
            total, step = size if self.options.scope == "layer" else size * layers, steps[part]
            low, high = (int(share * total / step + 0.5) * step for share in shares[part])
            limits = (low, min(high, total // step * step))
            names = [f"{part}_{i}" for i in range(layers)] if self.options.scope == "layer" else [f"{part}_kept"]
            counts |= dict.fromkeys(names, limits)
        return counts

    def base_params(self, shape: EncoderShape) -> dict[str, Any]:
        """None: the base model is not trained again, so it lies outside what is searched."""
        return {}

    def suggest(self, trial: Trial, shape: EncoderShape) -> dict[str, Any]:
        params: dict[str, Any] = {}
        for name, (least, most) in self._counts(shape).items():
            params[name] = trial.suggest_int(name, least, most, step=FFN_STEP if name.startswith("ffn") else 1)
        for name in SEARCHED:
            value = getattr(self.options, name)
            if isinstance(value, tuple):
                params[name] = trial.suggest_float(name, *value, log=name == "learning_rate")
        if len(self.options.vocabulary) > 1:
            params["vocabulary"] = trial.suggest_categorical("vocabulary", self.options.vocabulary)
        return params

    def prepare(self, study: Study, context: Context) -> None:
        """Estimates the saliency, once for this study."""
        self._saliency(context)

    def build(self, trial: Trial, params: Mapping[str, Any], context: Context) -> Candidate:
        """Cuts the base model where it matters least, and distils it."""
        architecture = self._architecture(params, context)
        return self._distilled(architecture, self._recipe(params, context), trial, context)

    def depth(self, params: Mapping[str, Any]) -> int | None:
        """Heads and neurons kept, together: members are compared with random ones of equal counts."""
        counts = [value for name, value in params.items() if name.startswith(("heads_", "ffn_"))]
        return sum(counts) if counts else None

    def controls(
        self, members: Sequence[FrozenTrial], shape: EncoderShape, random_masks: int, seed: int
    ) -> list[Control]:
        """Random heads and neurons, as many in each layer as a member keeps; and the base model, trained as long."""
        found = []
        for member in members:
            trained = {"epochs": member.user_attrs["distill_epochs"], "precision": precision_of(member)}
            trained |= {name: member.params[name] for name in SEARCHED if name in member.params}
            like = {"kind": "random-units", "like": member.user_attrs[CHECKPOINT], **trained}
            found += [
                Control(f"random-units-{index}", {**like, "seed": seed + index}, self.depth(member.params))
                for index in range(max(1, random_masks))
            ]
            whole = shape.num_layers * (shape.num_heads + shape.ffn_size)
            found.append(Control(f"full-{trained['epochs']}", {"kind": "full", **trained}, whole))
        return distinct(found)

    def build_control(self, recipe: Mapping[str, Any], trial: Trial, context: Context) -> Candidate:
        from nasopt.models.saliency import random_units

        if recipe["kind"] == "full":
            architecture = Architecture.full(context.shape)
        else:
            _, member = context.checkpoints.read(recipe["like"])
            assert isinstance(member, Architecture)
            architecture = random_units(member, context.shape, recipe["seed"])
        recipe = {**self._recipe(recipe, context), "epochs": recipe["epochs"]}
        return self._distilled(architecture.with_precision(self.options.precision), recipe, trial, context)

    def _recipe(self, params: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """How a student is trained: what is searched, or fixed, or the study's."""
        fixed = {name: getattr(self.options, name) for name in SEARCHED}
        chosen = {name: params.get(name, value) for name, value in fixed.items()}
        chosen["learning_rate"] = chosen["learning_rate"] or context.config.training.learning_rate
        return {**chosen, "epochs": context.config.training.epochs}

    def _distilled(
        self, architecture: Architecture, recipe: Mapping[str, Any], trial: Trial, context: Context
    ) -> Candidate:
        """A student cut from the base model and trained.

        The seed is the study's, so that students and controls see the same batches in the same order.
        """
        from nasopt.models.surgery import cut

        base = base_of(trial.study)
        lineage = Lineage(None if base is None else base.number)
        units = replace(architecture, vocabulary=None)
        model = cut(copy.deepcopy(context.base_model), units)
        if self.options.reconstruction_examples:
            self._reconstruct(model, units, context)
        candidate = Candidate(cut(model, architecture, units), architecture, lineage)
        loss = self._loss(recipe["ranking_weight"], recipe["output_weight"], context)
        rate, seed = recipe["learning_rate"], context.config.seed
        self.train(candidate, "distill", recipe["epochs"], seed, context, loss=loss, learning_rate=rate)
        return candidate

    def _reconstruct(self, model: PreTrainedModel, architecture: Architecture, context: Context) -> None:
        """Refits a student's output projections to the base model's, on texts of the training split."""
        from nasopt.methods.taylor.once import reconstruct_on

        reconstruct_on(
            context.splits["train"],
            model,
            context.base_model,
            architecture.kept_layers,
            self._settings(self.options.reconstruction_examples, context),
            context.device,
            lambda done, total: context.on_phase("reconstruction", done, total),
        )

    def _architecture(self, params: Mapping[str, Any], context: Context) -> Architecture:
        """What matters most, as much of it as the parameters say."""
        from nasopt.models.saliency import prune_iteratively

        first = iter([self._saliency(context)])
        units = prune_iteratively(
            context.base_model,
            Architecture.full(context.shape, self.options.precision),
            _wanted(params, "heads", context.shape),
            _wanted(params, "ffn", context.shape),
            self.options.rounds,
            lambda model: next(first, None) or self._estimate(model, context),
        )
        if params.get("vocabulary", self.options.vocabulary[0]) == "full":
            return units
        return replace(units, vocabulary=self._vocabulary(context))

    def _settings(self, examples: int, context: Context) -> SampleSettings:
        from nasopt.methods.taylor.once import SampleSettings

        return SampleSettings(examples, context.config.training.batch_size, context.config.seed)

    def _saliency(self, context: Context) -> Saliency:
        """The base model's, from the study's artifact folder if it is there."""
        from nasopt.methods.taylor.once import study_saliency

        found = study_saliency(
            context.base_model,
            context.task,
            context.splits["train"],
            self.options.reading,
            self._settings(self.options.saliency_examples, context),
            folder=context.folder / FOLDER,
            identity=context.base_key,
            device=context.device,
            on_step=lambda done, total: context.on_phase("saliency", done, total),
        )
        return found.normalized() if self.options.normalize else found

    def _estimate(self, model: Any, context: Context) -> Saliency:
        """That of a model from which something was removed."""
        from nasopt.methods.taylor.once import estimate_saliency

        found = estimate_saliency(
            model,
            context.task,
            context.splits["train"],
            self.options.reading,
            self._settings(self.options.saliency_examples, context),
            context.device,
            lambda done, total: context.on_phase("saliency", done, total),
        )
        return found.normalized() if self.options.normalize else found

    def _vocabulary(self, context: Context) -> tuple[int, ...]:
        from nasopt.methods.taylor.once import study_vocabulary

        context.on_phase("vocabulary", 0, 0)
        return study_vocabulary(
            context.task,
            self.options.vocabulary_texts,
            folder=context.folder / FOLDER,
            fingerprint=context.splits["train"].fingerprint,
        )

    def _loss(self, ranking: float, output: float, context: Context) -> LossFunction:
        """What a student is trained towards."""
        from nasopt.methods.taylor.matching import HiddenMatching, LogitMatching, MatchingWeights, VectorMatching
        from nasopt.methods.taylor.once import teacher_vectors

        weights, task = MatchingWeights(ranking, output, self.options.hidden_weight), context.task
        layers = self.options.hidden_layers if weights.hidden else ()
        hidden = HiddenMatching(layers, context.teachers(layers)) if layers else None
        embedding = task.embedding
        if embedding is None:
            return LogitMatching(task, weights, context.teachers(layers)[0], hidden)
        settings = task.config.similarity
        vectors = teacher_vectors(
            context.base_model,
            context.splits["train"],
            embedding.vectors,
            embedding.run,
            folder=context.folder / FOLDER,
            identity=f"{context.base_key} {settings.pooling} {settings.normalize}",
            device=context.device,
            on_step=lambda done, total: context.on_phase("teacher outputs", done, total),
        )
        return VectorMatching(embedding, weights, vectors, hidden)


def _wanted(params: Mapping[str, Any], part: str, shape: EncoderShape) -> int | list[int]:
    """How many heads, or neurons, a genotype keeps: in all layers together, or of each."""
    total = params.get(f"{part}_kept")
    if total is not None:
        return int(total)
    return [int(params[f"{part}_{layer}"]) for layer in range(shape.num_layers)]
