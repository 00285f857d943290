"""Bayesian: a teacher's posterior, aligned to a student with fewer layers.

The posterior of the base model's weights is collected while it trains. A trial removes layers, of the decoder where
there is one: what they write is conditioned on being zero, their other weights are marginalised. What is left is the
prior of the student; its mean is where the student starts.

Reference: METHODS.md, section 5. The source takes the last weights for the mean and ignores the covariance (`point`,
`ce`), which is slicing; here the whole theorem can be used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_args

from pydantic import AfterValidator, Field

from nasopt.architecture.base import EncoderShape, Training
from nasopt.architecture.encoder import Architecture
from nasopt.config.task import Section
from nasopt.errors import StudyFileError
from nasopt.methods.base import Control, Method
from nasopt.methods.layer_controls import budgets_of, distinct, layer_recipe
from nasopt.records.queries import base_of
from nasopt.samplers.named import SamplerName, named_sampler
from nasopt.training.candidate import Candidate, Lineage, RejectedCandidateError
from nasopt.training.context import Context

if TYPE_CHECKING:
    from pathlib import Path

    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial
    from transformers import PreTrainedModel

    from nasopt.methods.bayesian.aligned import Aligned, StudentTraining
    from nasopt.methods.bayesian.trajectory import Schedule, Trajectory
    from nasopt.tasks.base import Task
    from nasopt.training.loop import LossFunction

StructureName: TypeAlias = Literal["point", "diagonal", "low_rank"]
ObjectiveName: TypeAlias = Literal["ce", "map", "elbo", "hinton"]
StartName: TypeAlias = Literal["uniform", "initial"]
DISTANCES = "distance_to_zero"
"""Trial user attribute: for each removed layer m_1^T S_11^-1 m_1 over the number of weights that it writes with."""
VALIDATION_LOSSES = "validation_losses"
"""Trial user attribute: the task's loss on the validation split before training, and after each epoch."""
ZEROED_LOSS = "validation_loss_zeroed"
"""Trial user attribute, of post-norm models: that of the base model whose removed layers write zeros, before training.
What it differs by from the first of the losses is what leaving out the layers' norms does."""
STARTS: tuple[StartName, ...] = get_args(StartName)


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] <= bounds[1]:
        raise ValueError(f"the range [{bounds[0]:g}, {bounds[1]:g}] ends before it begins")
    return bounds


_Positive: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Range: TypeAlias = Annotated[tuple[_Positive, _Positive], AfterValidator(_ascending)]


class BayesianOptions(Section):
    """`[method_options]` of the Bayesian method. What has one value only is not searched."""

    trials: int = Field(20, ge=1, description="Of a whole search.")
    sampler: SamplerName = Field("nsga2", description="Which of Optuna's samplers proposes.")
    population_size: int = Field(8, ge=2, description="Of NSGA-II; random trials before TPE and GP begin.")
    removable_layers: tuple[int, ...] | None = Field(
        None, min_length=1, description="Which layers may go (of the decoder, if there is one); any unless set."
    )
    posteriors: Annotated[tuple[StructureName, ...], Field(min_length=1)] = Field(
        ("point", "diagonal", "low_rank"), description="Structures of the covariance to choose from."
    )
    objectives: Annotated[tuple[ObjectiveName, ...], Field(min_length=1)] = Field(
        ("ce", "map", "elbo"), description="What students minimise; `hinton` distils from the base model."
    )
    prior_strength: Range = Field((1e-6, 1.0), description="Of the prior in `map` and `elbo`; 1 is Bayes' rule.")
    learning_rate: Range | None = Field(None, description="Of students; that of [training] unless set.")
    temperature: float = Field(2.0, gt=0, allow_inf_nan=False, description="T_0 of `hinton`.")
    soft_weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="Of the soft targets in `hinton`.")
    posterior_rank: int = Field(10, ge=2, description="Deviations of the trajectory that `low_rank` uses (K).")
    posterior_start: float = Field(0.5, ge=0, lt=1, description="Part of the base training before the trajectory.")
    posterior_collections: int = Field(40, ge=2, description="How often the weights are collected after it.")
    posterior_epochs: int = Field(
        1, ge=1, description="Where the base model comes trained: of further training, for the trajectory only."
    )
    posterior_learning_rate: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Of it, constant; that of [training] unless set."
    )


class BayesianMethod(Method):
    """See the module."""

    name = "bayesian"
    searches = (
        "which decoder layers stay (encoder layers where there is no decoder), aligned by the base model's posterior"
    )
    options_model = BayesianOptions

    def __init__(self, options: BayesianOptions) -> None:
        self.options = options

    @property
    def budget(self) -> int:
        return self.options.trials

    def sampler(self, seed: int | None) -> BaseSampler:
        return named_sampler(self.options.sampler, seed, self.options.population_size)

    def check(self, task: Task) -> None:
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

    def base_recorder(self, model: PreTrainedModel, folder: Path) -> Trajectory:
        from nasopt.methods.bayesian.trajectory import FOLDER, Trajectory

        return Trajectory(model, self._schedule(self.options.posterior_start), folder / FOLDER)

    def prepare(self, study: Study, context: Context) -> None:
        """Collects the posterior, where the base model came trained, by training a copy of it a little further."""
        from filelock import FileLock

        from nasopt.methods.bayesian.aligned import collect_further
        from nasopt.methods.bayesian.trajectory import posterior_path

        path = posterior_path(context.folder, context.base_key)
        options, training = self.options, context.config.training
        with FileLock(context.folder / ".posterior.lock"):
            if path.is_file():
                return
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
                path,
                device=context.device,
                seed=context.config.seed,
                on_step=lambda done, total: context.on_phase("posterior", done, total),
            )

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

    def base_params(self, shape: EncoderShape) -> dict[str, Any]:
        layers = {f"layer_{layer}": 1 for layer in range(shape.num_layers)}
        others = {name: values[0] for name, values in self._choices().items()}
        return {**layers, **others, **{name: bounds[0] for name, bounds in self._ranges().items()}}

    def suggest(self, trial: Trial, shape: EncoderShape) -> dict[str, Any]:
        removable = self._removable(shape)
        params: dict[str, Any] = {}
        for layer in range(shape.num_layers):
            params[f"layer_{layer}"] = trial.suggest_int(f"layer_{layer}", int(layer not in removable), 1)
        for name, values in self._choices().items():
            params[name] = trial.suggest_categorical(name, values)
        for name, (low, high) in self._ranges().items():
            params[name] = trial.suggest_float(name, low, high, log=True)
        return params

    def build(self, trial: Trial, params: Mapping[str, Any], context: Context) -> Candidate:
        """Aligns the posterior to the layers that stay, starts at its mean, and trains.

        Raises:
            RejectedCandidateError: no layer stays.
        """
        from nasopt.methods.bayesian.aligned import align, mean_loss, zeroed_model
        from nasopt.methods.bayesian.trajectory import posterior_path
        from nasopt.models.families import family_of

        options, shape = self.options, context.shape
        removed = _removed(params, shape)
        if len(removed) == shape.num_layers:
            raise RejectedCandidateError("the mask keeps no layer", {"layers": 1.0})
        structure = params.get("posterior", options.posteriors[0])
        aligned = align(context.base_model, posterior_path(context.folder, context.base_key), structure, removed)
        trial.set_user_attr(DISTANCES, aligned.distances)
        if not family_of(context.base_model).is_pre_norm and removed:
            # The LayerNorms of a layer that writes zeros stay in the stream: leaving them out too costs something.
            zeroed = zeroed_model(context.base_model, aligned, removed).to(context.device)
            loss = mean_loss(context.task, zeroed, context.splits["validation"], context.device)
            trial.set_user_attr(ZEROED_LOSS, loss)
        candidate = Candidate(aligned.model, _without(shape, removed), _lineage(trial))
        how = self._training(
            params.get("objective", options.objectives[0]),
            params.get("prior_strength", options.prior_strength[0]),
            params.get("learning_rate", (options.learning_rate or (None,))[0]),
            context,
        )
        return _trained(candidate, aligned, how, trial, context, context.config.seed)

    def _training(
        self, objective: ObjectiveName, prior_strength: float, learning_rate: float | None, context: Context
    ) -> StudentTraining:
        from nasopt.methods.bayesian.aligned import StudentTraining

        settings = context.config.training
        if learning_rate is not None:
            settings = settings.model_copy(update={"learning_rate": learning_rate})
        options = self.options
        return StudentTraining(objective, settings, prior_strength, options.temperature, options.soft_weight)

    def loss(self, training: Training, context: Context) -> LossFunction:
        """Of the controls that every method shares, in which an epoch of `hinton` is one of distillation."""
        if training == "distill":
            from nasopt.methods.bayesian.aligned import hinton_loss

            teacher = context.base_model.to(context.device).eval()
            return hinton_loss(context.task, teacher, self.options.temperature, self.options.soft_weight)
        return super().loss(training, context)

    def controls(
        self, members: Sequence[FrozenTrial], shape: EncoderShape, random_masks: int, seed: int
    ) -> list[Control]:
        """Also each member's own layers, trained alike but from other starts: sliced from the base model, and random.

        As many random starts of each kind as there are random masks, with a seed each.
        """
        found = super().controls(members, shape, random_masks, seed)
        for member, budget in zip(members, budgets_of(self, members), strict=True):
            kept = set(range(shape.num_layers)) - set(_removed(member.params, shape))
            shared = {**layer_recipe(sorted(kept), budget), "learning_rate": member.params.get("learning_rate")}
            number = member.number
            found.append(Control(f"sliced-{number}", {**shared, "start": "sliced"}, budget.depth))
            for start in STARTS:
                found += [
                    Control(f"{start}-{number}-{index}", {**shared, "start": start, "seed": seed + index}, budget.depth)
                    for index in range(max(1, random_masks))
                ]
        return distinct(found)

    def build_control(self, recipe: Mapping[str, Any], trial: Trial, context: Context) -> Candidate:
        if "start" not in recipe:
            return super().build_control(recipe, trial, context)
        import copy

        from nasopt.methods.bayesian.aligned import randomise
        from nasopt.models.surgery import cut

        removed = set(range(context.shape.num_layers)) - set(recipe["layers"])
        architecture = _without(context.shape, removed)
        student = cut(copy.deepcopy(context.base_model), architecture)
        seed = recipe.get("seed", context.config.seed)
        if recipe["start"] != "sliced":
            student = randomise(student, recipe["start"], seed)
        how = self._training("ce", 1.0, recipe["learning_rate"], context)
        epochs = recipe["finetune_epochs"] + recipe["distill_epochs"]
        how = replace(how, settings=how.settings.model_copy(update={"epochs": epochs}))
        candidate = Candidate(student, architecture, _lineage(trial))
        return _trained(candidate, None, how, trial, context, seed)


def _removed(params: Mapping[str, Any], shape: EncoderShape) -> list[int]:
    return [layer for layer in range(shape.num_layers) if not params[f"layer_{layer}"]]


def _without(shape: EncoderShape, removed: Collection[int]) -> Architecture:
    return Architecture.masked(shape, [int(layer not in removed) for layer in range(shape.num_layers)])


def _lineage(trial: Trial) -> Lineage:
    base = base_of(trial.study)
    return Lineage(None if base is None else base.number)


def _trained(
    candidate: Candidate, aligned: Aligned | None, how: StudentTraining, trial: Trial, context: Context, seed: int
) -> Candidate:
    """Trains a candidate in place; every student sees the same batches in the same order."""
    from nasopt.methods.bayesian.aligned import train_student

    result, losses = train_student(
        candidate.model,
        aligned,
        how,
        context.task,
        (context.splits["train"], context.splits["validation"]),
        teacher=context.base_model,
        device=context.device,
        seed=seed,
        on_step=lambda done, total: context.on_phase("training", done, total),
    )
    trial.set_user_attr(VALIDATION_LOSSES, losses)
    candidate.training = result.to_dict()
    epochs = "distill_epochs" if how.objective == "hinton" else "finetune_epochs"
    candidate.lineage = replace(candidate.lineage, **{epochs: how.settings.epochs})
    return candidate
