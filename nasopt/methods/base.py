"""The base class of methods: a search space, a sampler, and how parameters become an architecture with weights.

A method has a folder of its own in this package, or is another package's, and is named in the entry-point group
``nasopt.methods``. Importing a method must not import torch: heavy imports belong inside its functions.
`docs/extending.md` leads through one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, get_args

from pydantic import BaseModel

from nasopt.architecture.base import CandidateArchitecture, EncoderShape, Precision
from nasopt.architecture.encoder import Architecture
from nasopt.config.task import TaskType
from nasopt.methods.space import SearchSpace
from nasopt.training.weights import Cut, WeightSource

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from transformers import PreTrainedModel

    from nasopt.config.study import StudyConfig
    from nasopt.methods.controls import Controls
    from nasopt.tasks.base import Task
    from nasopt.training.context import Context

Quantizer: TypeAlias = "Callable[[PreTrainedModel, Precision], PreTrainedModel]"
"""(fp32 model, precision) -> a copy of it in that precision."""


@dataclass(frozen=True)
class About:
    """The description of a method, which is known before anybody uses it.

    Attributes:
        name: its name in a study file.
        searches: what it searches, for `nasopt methods`.
        options: the model of `[method_options]`.
        task_types: the tasks it can search models for.
        sources: where its candidates' weights come from; the first one restores the models of its trials.
        path_options: options that are lists of files: stored as absolute paths when a study is created.
        function_options: options that may name a function as ``package.module:function``. Checking them must import
            nothing: they are read from databases, too.
        architectures: kinds of its candidates; not every latency source can estimate every kind.
    """

    name: str
    searches: str
    options: type[BaseModel]
    task_types: tuple[TaskType, ...] = get_args(TaskType)
    sources: tuple[type[WeightSource], ...] = (Cut,)
    path_options: tuple[str, ...] = ()
    function_options: tuple[str, ...] = ()
    architectures: tuple[type[CandidateArchitecture], ...] = (Architecture,)


@dataclass(frozen=True)
class Plan:
    """The plan of a search, as far as its options decide it.

    Attributes:
        budget: the number of trials of a whole search, base and controls not counted.
        precisions: the precisions in which models are stored.
        target_quality: the quality at which the search stops, once a trial is also smaller and faster than the base.
        quantizer: stores models in fewer bits in the place of :mod:`nasopt.models.quantization`.
    """

    budget: int
    precisions: Sequence[Precision] = ("fp32",)
    target_quality: float | None = None
    quantizer: Quantizer | None = None


@dataclass(frozen=True)
class Outcome:
    """The measurements of a trial, for its method to judge.

    Attributes:
        values: quality, latencies in ms, memory in MB.
        parameters: number of weights.
        metric: the name of the quality's metric.
        population: values of the trials that may become parents.
    """

    values: Sequence[float]
    parameters: int
    metric: str
    population: Sequence[Sequence[float]] = ()


@dataclass(frozen=True)
class Judgement:
    """A method's judgement of an outcome.

    Attributes:
        constraints: by name, above 0 where violated.
        scores: scalar scores by name, which are stored beside the objectives.
    """

    constraints: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)


class BaseObserver(Protocol):
    """Watches the training of the base model."""

    def on_step(self, done: int, total: int) -> None:
        """Called after each optimizer step."""

    def finish(self, key: str) -> None:
        """Called once, with the checkpoint of the trained base model."""


class Method(ABC):
    """One way to search. Instances are cheap and hold no state of a study.

    Args:
        options: an instance of the options' model.
    """

    about: ClassVar[About]

    def __init__(self, options: Any) -> None:
        self.options = options

    @property
    @abstractmethod
    def plan(self) -> Plan:
        """The number of trials, and the precisions that are searched."""

    @abstractmethod
    def sampler(self, seed: int | None) -> BaseSampler:
        """The sampler that proposes trials, unless the user passes another."""

    def check(self, task: Task, config: StudyConfig) -> None:  # noqa: B027
        """Refuses what can be known to fail before anything is trained.

        Args:
            task: the study's data and the shape of its base model.
            config: the study's configuration.

        Raises:
            StudyFileError: an option does not fit the base model, the data or the latencies.
        """

    def observer(self, model: PreTrainedModel, folder: Path) -> BaseObserver | None:
        """The observer of the base model's training; None where the method needs nothing of it.

        Args:
            model: the model before its training.
            folder: the study's artifact folder.
        """
        return None

    def prepare(self, context: Context) -> Mapping[str, Any]:
        """Makes what the trials need once per study, beside the base model. Called before each trial but the first.

        What has been made before must not be made again.

        Returns:
            Values to store with the study, by the name of a user attribute; JSON.
        """
        return {}

    @abstractmethod
    def space(self, shape: EncoderShape) -> SearchSpace:
        """The parameters of a trial, for a base model of that shape."""

    @abstractmethod
    def architecture(self, params: Mapping[str, Any], context: Context) -> CandidateArchitecture:
        """The shape that the parameters describe. Equal arguments give equal shapes, and nothing is trained.

        Raises:
            RejectedCandidateError: it breaks a constraint that needs no training to be known.
        """

    @abstractmethod
    def weights(self, params: Mapping[str, Any], context: Context) -> WeightSource:
        """The source of the trial's weights. This is cheap: the source works when it is asked for a candidate."""

    @property
    def controls(self) -> Controls | None:
        """The controls that its findings are compared with; None if there are none."""
        return None

    def judge(self, outcome: Outcome) -> Judgement:
        """Constraints and scores of a trial that has been measured."""
        return Judgement()

    def summary(self, study: Study) -> dict[str, Any]:
        """The facts about a study that `nasopt study show` prints beside those of every method."""
        return {}
