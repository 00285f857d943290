"""Bayesian: a teacher's posterior, aligned to a student with fewer layers.

The posterior of the base model's weights is collected while it trains. A trial removes layers, from the decoder where
there is one: what they write is conditioned on being zero, their other weights are marginalised. This leaves the prior
of the student, which starts at its mean.

Reference: METHODS.md, section 5. The source takes the last weights for the mean and ignores the covariance (`point`,
`ce`), which is slicing; here the whole theorem can be used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture
from nasopt.errors import StudyFileError
from nasopt.methods.base import About, Method, Plan
from nasopt.methods.bayesian.controls import BayesianControls
from nasopt.methods.bayesian.options import BayesianOptions, Range
from nasopt.methods.bayesian.weights import Conditioned, removed_layers, student_training, without
from nasopt.methods.controls import Controls
from nasopt.methods.space import SearchSpace
from nasopt.samplers.named import named_sampler
from nasopt.training.candidate import RejectedCandidateError
from nasopt.training.weights import WeightSource

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from transformers import PreTrainedModel

    from nasopt.config.study import StudyConfig
    from nasopt.methods.bayesian.trajectory import Schedule, Trajectory
    from nasopt.tasks.base import Task
    from nasopt.training.context import Context


class BayesianMethod(Method):
    """Removes layers by conditioning the posterior of the base model's weights."""

    about = About(
        name="bayesian",
        searches=(
            "which decoder layers stay (encoder layers where there is no decoder), aligned by the base model's "
            "posterior"
        ),
        options=BayesianOptions,
        sources=(Conditioned,),
    )
    options: BayesianOptions

    @property
    def plan(self) -> Plan:
        return Plan(self.options.trials)

    def sampler(self, seed: int | None) -> BaseSampler:
        return named_sampler(self.options.sampler, seed, self.options.population_size)

    def check(self, task: Task, config: StudyConfig) -> None:
        """Refuses layers that the model does not have."""
        from nasopt.models.layers import partition

        count = task.shape.num_layers
        if count < 2:
            raise StudyFileError("task.model: has one layer only, so that none can be removed")
        wrong = [layer for layer in self._removable(task.shape) if not 0 <= layer < count]
        if wrong:
            raise StudyFileError(
                f"method_options.removable_layers: {wrong[0]}, but the model has the layers 0 to {count - 1}"
            )
        if "hinton" in self.options.objectives and not task.has_logits:
            raise StudyFileError("method_options.objectives: hinton needs logits, which sentence encoders do not have")
        model = task.blank_model()
        for layer in self._removable(task.shape):
            partition(model, layer)

    def observer(self, model: PreTrainedModel, folder: Path) -> Trajectory:
        """Collects the posterior while the base model is trained."""
        from nasopt.methods.bayesian.trajectory import Trajectory

        return Trajectory(model, self._schedule(self.options.posterior_start), folder)

    def prepare(self, context: Context) -> Mapping[str, Any]:
        """Collects the posterior of a base model that came trained, by training a copy of it a little further."""
        from nasopt.host.files import lock_in
        from nasopt.host.object_store import fetch
        from nasopt.methods.bayesian.aligned import collect_further
        from nasopt.methods.bayesian.trajectory import posterior_path

        path = posterior_path(context.folder, context.base_key)
        options, training = self.options, context.config.training
        with lock_in(context.folder, ".posterior.lock"):
            if fetch(path):
                return {}
            settings = training.model_copy(
                update={
                    "epochs": options.posterior_epochs,
                    "learning_rate": options.posterior_learning_rate or training.learning_rate,
                    "scheduler": "constant",
                }
            )
            collect_further(
                context.base_model,
                context.splits["train"],
                context.task.training_loss,
                settings,
                self._schedule(0.0),
                context.folder,
                context.base_key,
                device=context.device,
                seed=context.config.seed,
                on_step=lambda done, total: context.on_phase("posterior", done, total),
            )
        return {}

    def _schedule(self, start: float) -> Schedule:
        from nasopt.methods.bayesian.trajectory import Schedule

        return Schedule(self.options.posterior_rank, start, self.options.posterior_collections)

    def _removable(self, shape: EncoderShape) -> Sequence[int]:
        layers = self.options.removable_layers
        return range(shape.num_layers) if layers is None else sorted(set(layers))

    def _choices(self) -> dict[str, tuple[str, ...]]:
        """Categorical parameters that are searched."""
        every = {"posterior": self.options.posteriors, "objective": self.options.objectives}
        return {name: values for name, values in every.items() if len(set(values)) > 1}

    def _ranges(self) -> dict[str, Range]:
        """Numbers that are searched, on a logarithmic scale."""
        every = {"prior_strength": self.options.prior_strength, "learning_rate": self.options.learning_rate}
        return {name: bounds for name, bounds in every.items() if bounds is not None and bounds[0] < bounds[1]}

    def space(self, shape: EncoderShape) -> SearchSpace:
        """One bit for each layer (fixed where it may not go), and the other options that have a choice."""
        removable = self._removable(shape)
        distributions: dict[str, BaseDistribution] = {
            f"layer_{layer}": IntDistribution(int(layer not in removable), 1) for layer in range(shape.num_layers)
        }
        base: dict[str, Any] = dict.fromkeys(distributions, 1)
        for name, values in self._choices().items():
            distributions[name], base[name] = CategoricalDistribution(values), values[0]
        for name, bounds in self._ranges().items():
            distributions[name], base[name] = FloatDistribution(*bounds, log=True), bounds[0]
        return SearchSpace(distributions, base)

    def architecture(self, params: Mapping[str, Any], context: Context) -> Architecture:
        """The layers that stay.

        Raises:
            RejectedCandidateError: no layer stays.
        """
        removed = removed_layers(params, context.shape)
        if len(removed) == context.shape.num_layers:
            raise RejectedCandidateError("the mask keeps no layer", {"layers": 1.0})
        return without(context.shape, removed)

    def weights(self, params: Mapping[str, Any], context: Context) -> WeightSource:
        """The posterior's mean given that the removed layers write zeros, trained."""
        options = self.options
        training = student_training(
            params.get("objective", options.objectives[0]),
            params.get("prior_strength", options.prior_strength[0]),
            params.get("learning_rate", (options.learning_rate or (None,))[0]),
            options,
            context,
        )
        structure = params.get("posterior", options.posteriors[0])
        is_base = params == self.space(context.shape).base
        return Conditioned(structure, training, options.posterior_epochs, is_base)

    @property
    def controls(self) -> Controls:
        return BayesianControls(self.options)
