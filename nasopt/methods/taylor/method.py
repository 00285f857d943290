"""Taylor: heads and FFN neurons are removed by first-order saliency, then the student is distilled.

All layers stay, but get smaller; with `vocabulary` tokens may go too. Saliency is that of the base model for the task's
loss (translation ranking, for sentence encoders), estimated once for a study. One of Optuna's samplers proposes the
units to keep, the learning rate and the weights of the losses. Nothing is inherited from trial to trial.

Source: METHODS.md, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture
from nasopt.architecture.genotype import FFN_STEP
from nasopt.errors import StudyFileError
from nasopt.methods.base import About, Method, Plan
from nasopt.methods.controls import Controls
from nasopt.methods.space import SearchSpace
from nasopt.methods.taylor.controls import TaylorControls
from nasopt.methods.taylor.options import SEARCHED, TaylorOptions
from nasopt.methods.taylor.weights import Recipe, distilled, sample_settings, study_folder
from nasopt.records.names import LADDER
from nasopt.samplers.fisher import FisherSampler
from nasopt.samplers.named import named_sampler, sampler_maker
from nasopt.training.weights import WeightSource

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from nasopt.config.study import StudyConfig
    from nasopt.models.saliency import Saliency
    from nasopt.tasks.base import Task
    from nasopt.training.context import Context
    from nasopt.training.sensitivity import Criterion


class TaylorMethod(Method):
    """Prunes heads and neurons by first-order saliency; one of Optuna's samplers says how many."""

    about = About(
        name="taylor",
        searches=(
            "heads and FFN neurons kept, by first-order saliency, vocabulary, learning rate and loss weights; students "
            "are distilled from the base model"
        ),
        options=TaylorOptions,
        task_types=("text-classification", "token-classification", "question-answering", "sentence-similarity"),
        path_options=("vocabulary_texts",),
    )
    options: TaylorOptions

    @property
    def plan(self) -> Plan:
        return Plan(self.options.trials, tuple(dict.fromkeys(("fp32", self.options.precision))))

    def sampler(self, seed: int | None) -> BaseSampler:
        options = self.options
        if options.start == "fisher":
            return FisherSampler(sampler_maker(options.sampler, options.population_size), seed, [{}])
        return named_sampler(options.sampler, seed, options.population_size)

    def check(self, task: Task, config: StudyConfig) -> None:
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
        self._check_start(task, config)
        if "cut" in self.options.vocabulary:
            from nasopt.models.vocabulary import vocabulary_of

            vocabulary_of(task.tokenizer, ())

    def _check_start(self, task: Task, config: StudyConfig) -> None:
        from nasopt.training.sensitivity import check_task
        from nasopt.training.sub_networks import check_share

        options = self.options
        if "fisher" in (options.pruning, options.start):
            check_task(None, task)
        if options.start == "fisher" and options.lowest_share is not None:
            name = "method_options.lowest_share"
            check_share(name, options.lowest_share, options.cost, config.latency[0], task.shape)

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

    def space(self, shape: EncoderShape) -> SearchSpace:
        """Counts of units, and the options that have a range; the base model, never trained again, lies outside."""
        distributions: dict[str, BaseDistribution] = {}
        for name, (least, most) in self._counts(shape).items():
            distributions[name] = IntDistribution(least, most, step=FFN_STEP if name.startswith("ffn") else 1)
        for name in SEARCHED:
            value = getattr(self.options, name)
            if isinstance(value, tuple):
                distributions[name] = FloatDistribution(value[0], value[1], log=name == "learning_rate")
        if len(self.options.vocabulary) > 1:
            distributions["vocabulary"] = CategoricalDistribution(self.options.vocabulary)
        return SearchSpace(distributions)

    def prepare(self, context: Context) -> Mapping[str, Any]:
        """Estimates the saliency, once for this study, and finds the sub-networks that the search starts with."""
        self._saliency(context)
        return {LADDER: self._ladder(context)} if self.options.start == "fisher" else {}

    def _ladder(self, context: Context) -> list[dict[str, Any]]:
        """The parameters of the least lossy sub-networks, the largest first; ranges are in their middle.

        Counts outside `heads` and `ffn` are the nearest ones inside.
        """
        from nasopt.training.sensitivity import sample_settings as settings_of
        from nasopt.training.sub_networks import study_sub_networks

        options, space = self.options, self.space(context.shape).distributions
        criterion: Criterion = "fisher" if options.pruning == "fisher" else "obs"
        networks = study_sub_networks(criterion, settings_of(None, context), options.cost, context)
        found = networks.ladder(networks.shares(options.lowest_share, options.ladder))
        rungs = [{name: _nearest(item, rung.to_params().get(name)) for name, item in space.items()} for rung in found]
        return [rung for number, rung in enumerate(rungs) if rung not in rungs[:number]]

    def architecture(self, params: Mapping[str, Any], context: Context) -> Architecture:
        """The units that matter most, as many as the parameters say."""
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

    def weights(self, params: Mapping[str, Any], context: Context) -> WeightSource:
        """The base model's weights, cut, perhaps refitted, and distilled."""
        recipe = Recipe.of(params, self.options, context.config.training)
        return distilled(recipe, self.options, context)

    @property
    def controls(self) -> Controls:
        return TaylorControls(self.options)

    def _saliency(self, context: Context) -> Saliency:
        """The base model's saliency, from the study's artifact folder if it is there."""
        from nasopt.methods.taylor.estimates import study_saliency
        from nasopt.training.sensitivity import study_fisher

        settings = sample_settings(self.options.saliency_examples, context)
        if self.options.pruning == "fisher":
            return self._scaled(study_fisher(settings, context))
        found = study_saliency(
            context.base_model,
            context.task,
            context.splits["train"],
            self.options.reading,
            settings,
            folder=study_folder(context),
            identity=context.base_key,
            device=context.device,
            on_step=lambda done, total: context.on_phase("saliency", done, total),
        )
        return self._scaled(found)

    def _estimate(self, model: Any, context: Context) -> Saliency:
        """The saliency of a model from which something was removed."""
        from nasopt.methods.taylor.estimates import estimate_saliency
        from nasopt.training.sensitivity import estimate_fisher

        settings = sample_settings(self.options.saliency_examples, context)
        if self.options.pruning == "fisher":
            return self._scaled(estimate_fisher(model, settings, context))
        found = estimate_saliency(
            model,
            context.task,
            context.splits["train"],
            self.options.reading,
            settings,
            context.device,
            lambda done, total: context.on_phase("saliency", done, total),
        )
        return self._scaled(found)

    def _scaled(self, found: Saliency) -> Saliency:
        return found.normalized() if self.options.normalize else found

    def _vocabulary(self, context: Context) -> tuple[int, ...]:
        from nasopt.methods.taylor.estimates import study_vocabulary

        context.on_phase("vocabulary", 0, 0)
        return study_vocabulary(
            context.task,
            self.options.vocabulary_texts,
            folder=study_folder(context),
            fingerprint=context.splits["train"].fingerprint,
        )


def _nearest(distribution: BaseDistribution, count: int | str | None) -> Any:
    """The value nearest to a count; the middle of a range, or the first choice, of what is no count."""
    if isinstance(distribution, IntDistribution):
        inside = min(max(int(count or 0), distribution.low), distribution.high)
        return inside - (inside - distribution.low) % distribution.step
    if isinstance(distribution, FloatDistribution):
        low, high = distribution.low, distribution.high
        return math.sqrt(low * high) if distribution.log else (low + high) / 2
    assert isinstance(distribution, CategoricalDistribution)
    return distribution.choices[0]


def _wanted(params: Mapping[str, Any], part: str, shape: EncoderShape) -> int | list[int]:
    """The number of heads, or neurons, that a genotype keeps: in all layers together, or in each."""
    total = params.get(f"{part}_kept")
    if total is not None:
        return int(total)
    return [int(params[f"{part}_{layer}"]) for layer in range(shape.num_layers)]
